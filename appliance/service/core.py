"""What all use cases share: the catalog, the pool, one lock, and the agreement between the two (rule 9)."""

import logging
import threading
from collections.abc import Iterable

from appliance.catalog import Catalog, Clone, Staging, Template
from appliance.errors import NotFound
from appliance.service.ports import Pool

log = logging.getLogger(__name__)


class Core:
    """The catalog and the pool behind one lock.

    Whoever changes what exists holds ``lock`` for the change: intent into the catalog, action on the pool, result
    into the catalog. The copying of images happens outside of it.
    """

    def __init__(self, catalog: Catalog, pool: Pool) -> None:
        self.catalog = catalog
        self.pool = pool
        self.lock = threading.RLock()

    def advance(self) -> int:
        """Move the pool's transaction id on by one and return it; the caller records it with the result.

        Raises Unhealthy when the pool's id is not the one that the catalog has.
        """
        old = self.catalog.transaction_id()
        if old is None:
            old = self.pool.status().transaction_id
        self.pool.set_transaction_id(old, old + 1)
        return old + 1

    def discard_clones(self, clones: Iterable[Clone]) -> None:
        """Remove clones with all that may exist of them. They must not be exported. Raises InUse."""
        clones = tuple(clones)
        for clone in clones:
            self._discard(clone.thin_id)
        if clones:
            self.catalog.drop_clones([clone.thin_id for clone in clones], self.advance())

    def discard_template(self, template: Template) -> None:
        """Remove a template with all that may exist of it. Raises InUse."""
        self._discard(template.thin_id)
        self.catalog.drop_template(template.thin_id, self.advance())

    def discard_staging(self, staging: Staging) -> None:
        """Remove a staging volume. Raises InUse."""
        self._discard(staging.thin_id)
        self.catalog.drop_staging(staging.thin_id, self.advance())

    def _discard(self, thin_id: int) -> None:
        self.pool.deactivate(thin_id)
        try:
            self.pool.delete(thin_id)
        except NotFound:
            log.debug("volume %d is not in the pool", thin_id)
