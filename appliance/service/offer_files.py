"""What the storage daemon of a client exports of templates: a sealed volume, and a boot set as a file beside it.

The files are in the client's folder of seeds, which its daemon may read.
"""

from pathlib import Path

from appliance.catalog import Catalog, Offer
from appliance.config import Paths
from appliance.host.files import replace
from appliance.host.storage_daemon import Export
from appliance.service.remotes import BOOT_SET
from appliance.store import names


class OfferFiles:
    """What the daemon of a client exports of templates."""

    def __init__(self, catalog: Catalog, paths: Paths) -> None:
        self._catalog = catalog
        self._paths = paths

    def exports(self, client: str, without: int | None = None) -> tuple[Export, ...]:
        """All that is offered to a client, but for the offer ``without``."""
        offers = (offer for offer in self._catalog.offers_to(client) if offer.number != without)
        return tuple(export for offer in offers for export in self.of(offer))

    def of(self, offer: Offer) -> tuple[Export, ...]:
        """The exports of one offer. Numbers are never used twice, so neither are the nodes' names."""
        device = Path("/dev/mapper") / names.layer(names.Layer.TEMPLATE, offer.template)
        disk = Export(f"offer-{offer.number}", offer.ref, device, writable=False)
        if offer.boot_set is None:
            return (disk,)
        path = self._path(offer)
        return disk, Export(f"boot-set-{offer.number}", offer.ref + BOOT_SET, path, writable=False, file=True)

    def make(self, client: str, without: int | None = None) -> tuple[Path, ...]:
        """See that the files of boot sets are there, and return them. The folder is there."""
        offers = (offer for offer in self._catalog.offers_to(client) if offer.number != without)
        with_one = [offer for offer in offers if offer.boot_set is not None]
        for offer in with_one:
            if not self._path(offer).exists():
                replace(self._path(offer), offer.boot_set or "", 0o640)
        return tuple(self._path(offer) for offer in with_one)

    def _path(self, offer: Offer) -> Path:
        return self._paths.seeds(offer.client) / f"{offer.number}.boot-set"
