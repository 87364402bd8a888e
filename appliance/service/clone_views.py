"""What the API shows of many clones at once, or of one."""

import logging
from collections.abc import Mapping

from appliance.catalog import Catalog, Clone
from appliance.errors import HatcheryError, NotFound
from appliance.schema import CloneList, SeedView
from appliance.service.ports import Store
from appliance.service.views import Detail, Views

log = logging.getLogger(__name__)


class CloneViews:
    """Views of clones, with what is asked once for all of them."""

    def __init__(self, catalog: Catalog, store: Store, views: Views) -> None:
        self._catalog = catalog
        self._store = store
        self._views = views

    def of(self, clones: tuple[Clone, ...], written: Mapping[str, int], detail: Detail = Detail.ALL) -> CloneList:
        """Views of clones, with the bytes that their guests wrote."""
        clients = {client.name: client for client in self._catalog.clients()}
        return CloneList(
            clones=tuple(
                self._views.clone(
                    c,
                    clients.get(c.client or ""),
                    written.get(c.name),
                    second=clients.get(c.shared or ""),
                    detail=detail,
                )
                for c in clones
            )
        )

    def written(self, clones: tuple[Clone, ...]) -> dict[str, int]:
        """The bytes that guests wrote to those of the clones that are attached, by name; empty if that fails."""
        active = {clone.thin_id: clone.name for clone in clones if clone.client is not None}
        try:
            counters = self._store.counters(active).clones if active else {}
            return {name: device.write_bytes for name, device in counters.items()}
        except HatcheryError as error:
            log.warning("clones are shown without counters: %s", error)
            return {}

    def seed(self, clone: Clone) -> SeedView:
        """The seed of a clone. Raises NotFound."""
        view = self.of((clone,), {}).clones[0].seed
        if view is None:
            raise NotFound(f"clone {clone.name} has no seed", why="it was removed at this moment")
        return view
