"""Clones: made of a ready template, exported to a client, removed without a trace."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from appliance.catalog import Clone, NewClone
from appliance.errors import HatcheryError, InUse, NotReady
from appliance.model import CloneState, PoolName, TemplateRef, check_name
from appliance.reconcile.volumes import Devices, FoundDevice, Volume
from appliance.service import admission
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.wanted import of_clone

log = logging.getLogger(__name__)


def names_of(name: str, count: int | None) -> tuple[str, ...]:
    """NAME, or NAME-1 to NAME-COUNT. Raises InvalidInput when one of them is no valid name."""
    if count is None:
        return (check_name(name, "clone name"),)
    return tuple(check_name(f"{name}-{number}", "clone name") for number in range(1, count + 1))


class Clones:
    """The verbs on clones."""

    def __init__(self, core: Core, exports: Exports) -> None:
        self._core = core
        self._exports = exports

    def create(self, name: str, template: str, count: int | None, client: str | None) -> tuple[Clone, ...]:
        """Make a clone, or ``count`` of them, exported to ``client``: all or none.

        Raises InvalidInput, NotFound, NotReady, AlreadyExists, NoSpace.
        """
        wanted = names_of(name, count)
        ref = TemplateRef.parse(template)
        now = time.time()
        with self._core.lock:
            catalog = self._core.catalog
            admission.admit_clones(self._core.pool.status(), len(wanted))
            clones = catalog.add_clones(ref, [NewClone(each, client, now) for each in wanted])
            try:
                origin = catalog.template_of_id(clones[0].template)
                advanced = self._core.carry_out([of_clone(clone, origin) for clone in clones])
                catalog.finish_clones([clone.thin_id for clone in clones], advanced[PoolName.DURABLE])
                if client is not None:
                    self._exports.offer(client, clones)
            except BaseException:
                log.warning("clones %s were not made, taking back what was", ", ".join(wanted))
                self._take_back(clones)
                raise
        log.info("made %d clone(s) of %s: %s", len(clones), clones[0].template_ref, ", ".join(wanted))
        return tuple(catalog.clone(each) for each in wanted)

    def _take_back(self, clones: Sequence[Clone]) -> None:
        try:
            self._core.catalog.remove_clones(clones, "was not finished", self._core.now())
            for clone in clones:
                if clone.client is not None:
                    self._exports.withdraw(clone.client, clone, cut_off=True)
        except HatcheryError:
            log.exception("what is left of the clones could not be removed")
        self._core.discard_quietly([clone.thin_id for clone in clones])

    def remove(self, name: str, *, force: bool) -> bool:
        """Remove a clone and free its space; false when there was none of that name.

        Raises InUse while its client is connected to it, unless forced.
        """
        with self._core.lock:
            clone = self._core.catalog.find_clone(name)
            if clone is None:
                return False
            if clone.client is not None:
                self._exports.withdraw(clone.client, clone, cut_off=force)
            self._core.catalog.remove_clones([clone], "was removed", self._core.now())
            self._core.discard_quietly([clone.thin_id])
        log.info("removed clone %s", name)
        return True

    def attach(self, name: str, client: str) -> Clone:
        """Export a clone to a client; fine when it is already. Raises NotFound, InUse when another client has it."""
        with self._core.lock:
            clone = self._ready(name)
            self._core.catalog.client(client)
            if clone.client not in (None, client):
                raise InUse(
                    f"clone {name} is attached to client {clone.client}",
                    why="a clone is exported to one client at a time",
                    hint=f"detach it first: hatchery clone detach {name}",
                )
            if clone.client is None:
                self._core.catalog.set_clone_client(clone.thin_id, client)
                clone = self._core.catalog.clone(name)
                try:
                    self._core.carry_out([self._volume(clone)])
                    self._exports.offer(client, [clone])
                except BaseException:
                    self._withdraw_quietly(client, clone)
                    raise
            return clone

    def detach(self, name: str, *, force: bool) -> Clone:
        """Stop exporting a clone; fine when it is not. Raises NotFound, InUse while its client is connected."""
        with self._core.lock:
            clone = self._ready(name)
            if clone.client is not None:
                self._exports.withdraw(clone.client, clone, cut_off=force)
                self._take_down(clone)
                self._core.catalog.set_clone_client(clone.thin_id, None)
            return self._core.catalog.clone(name)

    def _ready(self, name: str) -> Clone:
        clone = self._core.catalog.clone(name)
        if clone.state is not CloneState.READY:
            raise NotReady(f"clone {name} cannot be used", why=f"it is {clone.state}")
        return clone

    def _volume(self, clone: Clone) -> Volume:
        return of_clone(clone, self._core.catalog.template_of_id(clone.template))

    def _take_down(self, clone: Clone) -> None:
        """Remove the devices of a clone that is not exported any more. Raises InUse."""
        there = {clone.thin_id: FoundDevice(Devices.EXPORTED, clone.size)}
        self._core.carry_out([self._volume(replace(clone, client=None))], devices=there)

    def _withdraw_quietly(self, client: str, clone: Clone) -> None:
        try:
            self._exports.withdraw(client, clone, cut_off=True)
            self._take_down(clone)
            self._core.catalog.set_clone_client(clone.thin_id, None)
        except HatcheryError:
            log.exception("clone %s stays attached to %s until the next start", clone.name, client)
