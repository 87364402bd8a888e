"""Moves: clones change hands, from the client that has them to another one.

A clone is with the one or with the other at any moment, and never with both:

1. the old client's daemon stops offering it, and its file does not name it any more;
2. its devices are taken away, which the kernel refuses while anybody has them open;
3. the catalog names its new client, in one commit for all clones of a move;
4. the devices are made again, and the new client's daemon offers it.

What ends in between leaves a clone where the catalog says that it is, and a start brings it up there as any other.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from appliance.catalog import Clone
from appliance.errors import HatcheryError, InUse
from appliance.service.clones import Clones
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.sharing import Sharing

log = logging.getLogger(__name__)


class Moves:
    """The verb that gives clones to another client."""

    def __init__(self, core: Core, clones: Clones, exports: Exports, sharing: Sharing) -> None:
        self._core = core
        self._clones = clones
        self._exports = exports
        self._sharing = sharing

    def move(self, names: Sequence[str], client: str, *, force: bool) -> tuple[Clone, ...]:
        """Give clones to a client, whoever has them now: all or none; fine when it has them already.

        A clone that nobody has is attached; of one that it shares with another client, that one lets go, each clone
        for itself. Raises NotFound, NotReady, InUse while somebody is connected to one of
        them, unless forced.
        """
        with self._core.lock:
            catalog = self._core.catalog
            catalog.client(client)
            found = [self._clones.ready(name, shared=True) for name in dict.fromkeys(names)]
            for clone in found:
                if clone.by_nvme and clone.client != client:
                    raise InUse(
                        f"clone {clone.name} is attached over NVMe/TCP",
                        why=f"it is offered to the host of client {clone.client}",
                        hint=f"hatchery clone detach {clone.name}, and attach it to client {client}",
                    )
            found = [self._settled(clone, client, force=force) for clone in found]
            leaving = [clone for clone in found if clone.client != client]
            if leaving:
                self._take(leaving, cut_off=force)
                self._give(leaving, client)
            for clone in leaving:
                origin = "nobody" if clone.client is None else f"client {clone.client}"
                moved = {"clone": clone.name, "client": client}
                log.info("clone %s moved from %s to client %s", clone.name, origin, client, extra={"about": moved})
                self._core.events.tell("clone", clone.name, "moved", f"from {origin} to client {client}")
            return tuple(catalog.clone(clone.name) for clone in found)

    def _settled(self, clone: Clone, client: str, *, force: bool) -> Clone:
        """A clone that one client has alone. Of two, the one that is not to have it lets go of it."""
        others = [each for each in clone.clients if each != client]
        if clone.shared is None or len(others) == len(clone.clients):
            return self._clones.ready(clone.name)
        return self._sharing.leave(clone.name, others[0], force=force)

    def _take(self, clones: Sequence[Clone], *, cut_off: bool) -> None:
        """Take clones from the clients that have them; when that fails, they have them all again."""
        try:
            withdrawn: set[int] = set()
            for clone in clones:
                if clone.client is not None:
                    self._exports.withdraw(clone.client, clone, cut_off=cut_off, gone=withdrawn)
                    withdrawn.add(clone.thin_id)
            self._make_sure(clones)
        except BaseException:
            self._restore(clones)
            raise

    def _give(self, clones: Sequence[Clone], client: str) -> None:
        """Give clones that nobody has to a client; when that fails, those have them again who had them before."""
        catalog = self._core.catalog
        moved = [replace(clone, client=client) for clone in clones]
        try:
            catalog.set_clone_clients({clone.thin_id: client for clone in clones})
            self._core.carry_out([self._clones.volume(clone) for clone in moved])
            self._exports.offer(client, moved)
        except BaseException:
            self._give_back(clones, moved)
            raise

    def _give_back(self, clones: Sequence[Clone], moved: Sequence[Clone]) -> None:
        try:
            withdrawn: set[int] = set()
            for clone in moved:
                self._exports.withdraw(str(clone.client), clone, cut_off=True, gone=withdrawn)
                withdrawn.add(clone.thin_id)
            self._make_sure(moved)
            self._core.catalog.set_clone_clients({clone.thin_id: clone.client for clone in clones})
        except HatcheryError:
            log.exception("clones %s stay with client %s", ", ".join(c.name for c in clones), moved[0].client)
            # They may be served in part.
            self._restore(moved)
        else:
            self._restore(clones)

    def _make_sure(self, clones: Collection[Clone]) -> None:
        """That nobody has clones that were withdrawn."""
        for client in sorted({clone.client for clone in clones if clone.client is not None}):
            self._exports.see_off(client, [clone for clone in clones if clone.client == client])
        for clone in clones:
            if clone.client is not None:
                self._clones.deactivate(clone)

    def _restore(self, clones: Collection[Clone]) -> None:
        """Have clones served by the clients that the catalog says."""
        for clone in clones:
            try:
                self._clones.bring_up(clone)
            except HatcheryError:
                log.exception("clone %s is not exported until the next start", clone.name)
