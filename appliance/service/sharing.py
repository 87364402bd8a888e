"""Sharing: a clone that two clients may write to for a time, because its guest migrates from the one to the other.

One writer is the rule (rule 6). A live migration breaks it for a moment: QEMU opens the disk where the guest comes to
before it has left, and sees to it that only one side writes at a time. So a second client is declared, until a time:

    hatchery clone attach web --client hv2 --shared     both may write
    (the guest migrates)
    hatchery clone move web --client hv2                hv2 alone; refused while hv1 is connected

When the time is over, a client that is not connected loses the clone, the second one first. While both are connected
neither does: which of them the guest is with cannot be told from here, so `hatchery status` says it instead.
"""

import logging
from collections.abc import Callable

from appliance.catalog import Clone
from appliance.errors import HatcheryError, InUse, InvalidInput, NotReady
from appliance.model import Health, Problem
from appliance.service.clones import Clones
from appliance.service.core import Core
from appliance.service.exports import Exports

log = logging.getLogger(__name__)

LOOK = 10.0
"""Seconds between two looks at clones that are shared longer than they should be."""


class Sharing:
    """The verbs on clones that two clients have."""

    def __init__(self, core: Core, clones: Clones, exports: Exports) -> None:
        self._core = core
        self._clones = clones
        self._exports = exports
        self._looked = 0.0
        self._late: tuple[Problem, ...] = ()
        self.tell: Callable[[], None] = lambda: None

    def share(self, name: str, client: str, seconds: float) -> Clone:
        """Let a second client write to a clone for ``seconds``; said again, the time begins anew.

        Raises NotFound, NotReady, InvalidInput when nobody has the clone or that client is the one who has it, InUse
        when another one is the second already.
        """
        with self._core.lock:
            catalog = self._core.catalog
            clone = self._clones.ready(name, shared=True)
            catalog.client(client)
            if clone.client is None:
                raise InvalidInput(
                    f"clone {name} cannot be shared",
                    why="nobody has it",
                    hint=f"attach it: hatchery clone attach {name} --client {client}",
                )
            if clone.by_nvme:
                raise InvalidInput(
                    f"clone {name} cannot be shared",
                    why="it is attached over NVMe/TCP, and one host at a time is let in there",
                    hint="attach it by NBD for a migration",
                )
            if clone.client == client:
                raise InvalidInput(f"clone {name} cannot be shared with client {client}", why="that client has it")
            if clone.shared not in (None, client):
                raise InUse(
                    f"clone {name} is shared with client {clone.shared}",
                    why="two clients are the most, while a guest migrates",
                    hint=f"end that first: hatchery clone detach {name} --client {clone.shared}",
                )
            catalog.share_clone(clone.thin_id, client, self._core.now() + seconds)
            both = catalog.clone(name)
            if clone.shared is None:
                try:
                    self._exports.share(client, both)
                except BaseException:
                    self._take_back(clone, both, client)
                    raise
            log.warning("clone %s: clients %s may both write for %.0f s", name, " and ".join(both.clients), seconds)
            self._core.events.tell("clone", name, "shared", f"with client {client}, for {seconds:.0f} s")
            return both

    def leave(self, name: str, client: str, *, force: bool) -> Clone:
        """Have one of the two clients of a clone let go of it; the other one has it alone then.

        Raises NotFound, InvalidInput when it is not one of two, InUse while it is connected, unless forced.
        """
        with self._core.lock:
            clone = self._clones.ready(name, shared=True)
            if clone.shared is None or client not in clone.clients:
                had = " and ".join(clone.clients) or "nobody"
                raise InvalidInput(f"clone {name} is not shared with client {client}", why=f"{had} has it")
            return self._leave(clone, client, cut_off=force)

    def sweep(self) -> None:
        """End what was declared for a time that is over, as far as somebody is not connected. Cheap when nothing is."""
        now = self._core.now()
        if now - self._looked < LOOK:
            return
        self._looked = now
        late = []
        for clone in self._core.catalog.shared_clones(now):
            with self._core.lock:
                again = self._core.catalog.find_clone(clone.name)
                if again is None or again.shared_until != clone.shared_until:
                    continue
                try:
                    self._end(again)
                except InUse:
                    late.append(_late(again))
                except HatcheryError:
                    log.exception("clone %s is shared longer than it should be", clone.name)
        self._late = tuple(late)

    def problems(self) -> tuple[Problem, ...]:
        """Clones that are shared longer than was declared, both clients being connected."""
        return self._late

    # --- inside

    def _end(self, clone: Clone) -> None:
        """Have the client let go that is not connected. Raises InUse when both are."""
        try:
            self._leave(clone, str(clone.shared), cut_off=False)
        except InUse:
            self._leave(clone, str(clone.client), cut_off=False)

    def _leave(self, clone: Clone, client: str, *, cut_off: bool) -> Clone:
        (stays,) = (each for each in clone.clients if each != client)
        catalog = self._core.catalog
        try:
            self._exports.withdraw(client, clone, cut_off=cut_off)
            self._exports.see_off(client, [clone])
            catalog.set_clone_client(clone.thin_id, stays)
        except InUse:
            raise
        except BaseException:
            self._offer_quietly(client, clone)
            raise
        sole = catalog.clone(clone.name)
        self._exports.let_in([sole])
        log.info("clone %s: client %s let go of it, client %s has it alone", clone.name, client, stays)
        self._core.events.tell("clone", clone.name, "attached", f"to client {stays} alone, no more to {client}")
        return sole

    def _take_back(self, clone: Clone, both: Clone, client: str) -> None:
        """Undo a sharing that could not be made."""
        try:
            self._core.catalog.set_clone_client(clone.thin_id, clone.client)
            self._exports.withdraw(client, both, cut_off=True)
            self._exports.let_in([clone])
        except (HatcheryError, NotReady):
            log.exception("clone %s may be offered to client %s until the next start", clone.name, client)

    def _offer_quietly(self, client: str, clone: Clone) -> None:
        try:
            self._exports.share(client, clone)
        except HatcheryError:
            log.exception("clone %s is not offered to client %s until the next start", clone.name, client)


def _late(clone: Clone) -> Problem:
    return Problem(
        Health.DEGRADED,
        f"clone {clone.name} was to be shared for a time that is over, and clients {' and '.join(clone.clients)}"
        " are both connected to it",
        f"give it to the one where its guest is: hatchery clone move {clone.name} --client CLIENT",
        6,
        "sharing",
    )
