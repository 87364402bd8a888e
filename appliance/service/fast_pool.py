"""What becomes of ephemeral clones when their pool dies, and when there is one again (rule 15).

hatchery-retry has stopped their devices by then. Here their exports are taken away by force, whoever is connected, and
they are lost: shown so, not attached any more, to be reset or removed. A pool that comes back, after its drive was only
away, brings back what it holds; a new one brings nothing.
"""

import logging
from collections.abc import Callable

from appliance.errors import HatcheryError
from appliance.model import CloneKind, CloneState, PoolName, Problem
from appliance.service import recovery
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.ports import Pool

log = logging.getLogger(__name__)

Find = Callable[[], Pool | None]
"""Looks for a fast pool that lives; may take as long as a dying drive does."""


class FastPool:
    """Compares the fast pool that there is with the one that the service works with."""

    def __init__(self, core: Core, exports: Exports, find: Find) -> None:
        self._core = core
        self._exports = exports
        self._find = find

    def check(self) -> tuple[Problem, ...] | None:
        """Look, and act on what changed; returns what an operator should know then, None when nothing did.

        Raises CannotTell, NotReady.
        """
        found = self._find()
        core = self._core
        with core.lock:
            known = core.pools.get(PoolName.FAST)
            same = found is not None and found.identity() == core.catalog.pool(PoolName.FAST).identity
            if (known is None and found is None) or (known is not None and same):
                return None
            if known is not None:
                log.error("the fast pool is gone: ephemeral clones are stopped")
                del core.pools[PoolName.FAST]
                self._stop(known)
            if found is not None:
                log.warning("there is a fast pool again")
                core.pools[PoolName.FAST] = found
            _, problems = recovery.reconcile(core)
            recovery.export_all(core, self._exports)
            return problems

    def _stop(self, pool: Pool) -> None:
        """Take away all exports of ephemeral clones first, then their devices."""
        catalog = self._core.catalog
        clones = [
            clone for clone in catalog.clones() if clone.kind is CloneKind.EPHEMERAL and clone.state is CloneState.READY
        ]
        self._core.lost |= {clone.thin_id for clone in clones}
        for clone in clones:
            self._core.events.tell("clone", clone.name, "lost", "its NVMe drive is gone")
        clients = {client for clone in clones for client in clone.clients}
        for client in sorted(clients):
            try:
                self._exports.serve(catalog.client(client))
            except HatcheryError:
                log.exception("client %s may still have ephemeral clones", client)
        try:
            self._exports.nvme.sync()
        except HatcheryError:
            log.exception("ephemeral clones may still be offered over NVMe/TCP")
        for clone in clones:
            if clone.client is None:
                continue
            try:
                pool.deactivate(clone.thin_id)
            except HatcheryError as error:
                log.warning("clone %s: %s", clone.name, error)
