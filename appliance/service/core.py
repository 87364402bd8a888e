"""What all use cases share: the catalog, the pools, one lock, and the agreement between them (rule 9)."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from appliance.catalog import Catalog, Garbage
from appliance.errors import HatcheryError, NotFound, NotReady
from appliance.model import MIB, PoolName
from appliance.reconcile import apply
from appliance.reconcile.volumes import Doomed, FoundDevice, Volume, Wanted, plan
from appliance.schema import GivenBack
from appliance.service import admission
from appliance.service.events import Events
from appliance.service.ports import Pool, Pools
from appliance.service.wanted import doomed, presumed, transactions

log = logging.getLogger(__name__)

SMALL = 256 * MIB
"""A volume that maps no more is deleted at once with the request that removes it."""


class Core:
    """The catalog and the pools behind one lock.

    Whoever changes what exists holds ``lock`` for the change: intent into the catalog, action on the pool, result
    into the catalog. The copying of images happens outside of it.

    ``lost`` are the volumes of ephemeral clones that went with their drive, ``collecting`` those that the collector is
    emptying, ``stills`` those that somebody copies out; ``poke`` tells the collector that there is something to do.
    ``untaught`` are those of clones whose reads teach nothing of their template, as far as this process made them.
    ``events`` hears of all that changes.
    """

    def __init__(self, catalog: Catalog, pools: Pools, overcommit_percent: int = 0) -> None:
        self.catalog = catalog
        self.pools = dict(pools)
        self.overcommit_percent = overcommit_percent
        self.lost: frozenset[int] = frozenset()
        self.lock = threading.RLock()
        self.events = Events()
        self.collecting: set[int] = set()
        self.stills: frozenset[int] = frozenset()
        self.untaught: set[int] = set()
        self.given_back = GivenBack()
        self.poke: Callable[[], None] = lambda: None
        self.template_ready: Callable[[int], None] = lambda _: None

    @property
    def pool(self) -> Pool:
        """The durable pool."""
        return self.pools[PoolName.DURABLE]

    def pool_of(self, name: PoolName) -> Pool:
        """The pool of that name. Raises NotReady when it is not there."""
        pool = self.pools.get(name)
        if pool is None:
            raise NotReady(
                f"there is no {name} pool",
                why="the NVMe drive is missing, or no space on it was given to ephemeral clones",
                hint="see `hatchery status`",
            )
        return pool

    def admit_clones(self, name: PoolName, count: int, virtual_bytes: int) -> None:
        """Refuse ``count`` new clones, ``virtual_bytes`` large together, that do not fit. Raises NoSpace, NotReady."""
        numbers = self.pool_of(name).status()
        admission.admit_clones(numbers, count)
        if self.overcommit_percent:
            # The sum reads every clone's size, so it is made only when it matters.
            promised = self.catalog.promised_bytes(name)
            admission.admit_promise(numbers, virtual_bytes, promised, self.overcommit_percent)

    def carry_out(
        self,
        volumes: Iterable[Volume] = (),
        doomed: Iterable[Doomed] = (),
        devices: Mapping[int, FoundDevice] | None = None,
        stepped: Callable[[int, int], None] = lambda _done, _whole: None,
    ) -> Mapping[PoolName, int]:
        """Make volumes what they should be and delete others: what an operation does once its intent is recorded.

        ``devices`` are those that the volumes have now. ``stepped`` hears after each step how many of how many are
        done, and may raise to end it there. Returns the pools' new transaction ids, which the caller records with the
        result. Raises what the first step that fails raises; NoSpace, InUse, Unhealthy above all.
        """
        wanted = Wanted(tuple(volumes), tuple(doomed), transactions(self.catalog))
        made = plan(wanted, presumed(wanted, self.pools, devices or {}))
        for number, step in enumerate(made.steps, 1):
            apply([step], self)
            stepped(number, len(made.steps))
        return made.advances

    def discard(self, thin_ids: Iterable[int]) -> None:
        """Delete volumes that the catalog has in its garbage. They must not be exported. Raises InUse, NotReady."""
        garbage = self.catalog.find_garbage(thin_ids)
        for name in PoolName:
            here = [each for each in garbage if each.pool is name]
            if here:
                advanced = self.carry_out(doomed=doomed(here))
                self.catalog.drop_garbage([each.thin_id for each in here], name, advanced[name])

    def discard_quietly(self, thin_ids: Collection[int]) -> None:
        """As ``discard``; what cannot be deleted now, or is large, stays in the garbage for the collector."""
        try:
            free = [each for each in self.catalog.find_garbage(thin_ids) if each.thin_id not in self.stills]
            held = {each.thin_id: self._held_if_small(each) for each in free}
            small = {thin_id: count for thin_id, count in held.items() if count is not None}
            self.discard(small)
            self.count_given_back(len(small), sum(small.values()))
        except HatcheryError:
            log.exception("volumes %s are deleted later", ", ".join(map(str, thin_ids)))

    def large(self, thin_id: int, name: PoolName) -> bool:
        """Whether a volume holds so much that the collector must empty it first (rule 14), or is doing so."""
        try:
            return thin_id in self.collecting or self.pool_of(name).held_bytes(thin_id) > SMALL
        except NotFound:
            return False

    def count_given_back(self, volumes: int, held: int) -> None:
        """So many volumes went, which mapped ``held`` bytes, shared ones included. With the lock."""
        now = self.given_back
        self.given_back = now.model_copy(update={"volumes": now.volumes + volumes, "bytes": now.bytes + held})

    def count_leases(self, ended: int) -> None:
        """So many leases ended. With the lock."""
        self.given_back = self.given_back.model_copy(update={"leases": self.given_back.leases + ended})

    def _held_if_small(self, garbage: Garbage) -> int | None:
        """Bytes that a volume maps; None, and the collector is told, if these are too many to delete it at once."""
        pool = self.pool_of(garbage.pool)
        pool.deactivate(garbage.thin_id)
        try:
            held = pool.held_bytes(garbage.thin_id)
        except NotFound:
            return 0
        if held <= SMALL and garbage.thin_id not in self.collecting:
            return held
        self.poke()
        return None

    @staticmethod
    def now() -> float:
        """Seconds since the epoch."""
        return time.time()
