"""What all use cases share: the catalog, the pools, one lock, and the agreement between them (rule 9)."""

import logging
import threading
import time
from collections.abc import Iterable

from appliance.catalog import Catalog
from appliance.errors import HatcheryError, NotFound, NotReady
from appliance.model import PoolName
from appliance.service.ports import Pool, Pools

log = logging.getLogger(__name__)


class Core:
    """The catalog and the pools behind one lock.

    Whoever changes what exists holds ``lock`` for the change: intent into the catalog, action on the pool, result
    into the catalog. The copying of images happens outside of it.
    """

    def __init__(self, catalog: Catalog, pools: Pools) -> None:
        self.catalog = catalog
        self.pools = dict(pools)
        self.lock = threading.RLock()

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

    def advance(self, name: PoolName = PoolName.DURABLE) -> int:
        """Move a pool's transaction id on by one and return it; the caller records it with the result.

        Raises Unhealthy when the pool's id is not the one that the catalog has.
        """
        pool = self.pool_of(name)
        old = self.catalog.transaction_id(name)
        if old is None:
            old = pool.status().transaction_id
        pool.set_transaction_id(old, old + 1)
        return old + 1

    def discard(self, thin_ids: Iterable[int]) -> None:
        """Delete volumes that the catalog has in its garbage. They must not be exported. Raises InUse, NotReady."""
        found = self.catalog.find_garbage(thin_ids)
        for name in PoolName:
            here = [garbage.thin_id for garbage in found if garbage.pool is name]
            if not here:
                continue
            pool = self.pool_of(name)
            deleted = [thin_id for thin_id in here if _delete(pool, thin_id)]
            self.catalog.drop_garbage(here, name, self.advance(name) if deleted else None)

    def discard_quietly(self, thin_ids: Iterable[int]) -> None:
        """As ``discard``; what cannot be deleted now stays in the garbage."""
        try:
            self.discard(thin_ids)
        except HatcheryError:
            log.exception("volumes %s are deleted later", ", ".join(map(str, thin_ids)))

    @staticmethod
    def now() -> float:
        """Seconds since the epoch."""
        return time.time()


def _delete(pool: Pool, thin_id: int) -> bool:
    """Delete a volume with its devices; false when the pool has none of that id."""
    pool.deactivate(thin_id)
    try:
        pool.delete(thin_id)
    except NotFound:
        log.debug("volume %d is not in the pool", thin_id)
        return False
    return True
