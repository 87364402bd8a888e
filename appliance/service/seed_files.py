"""Seeds as files, from which storage daemons serve them.

Each client has a folder of its own, in memory, which its daemon may read and nobody else: root's, and the daemon's
unit gives it to the daemon's group. A file is made of the catalog when it is missing, and it never changes: another
seed has another number.
"""

from collections.abc import Collection
from pathlib import Path

from appliance.catalog import Catalog, Clone
from appliance.config import Paths
from appliance.host.files import replace
from appliance.host.storage_daemon import Export
from appliance.images import seed as images
from appliance.images.seed import Seed

SUFFIX = ":seed"
"""What follows a clone's name in the name of its seed's export. No clone can be named so."""


class SeedFiles:
    """The files of all clients."""

    def __init__(self, catalog: Catalog, paths: Paths) -> None:
        self._catalog = catalog
        self._paths = paths

    def export(self, client: str, clone: Clone) -> Export | None:
        """The export of a clone's seed to a client; None when it has none."""
        if clone.seed is None:
            return None
        # Neither thin ids nor seeds' numbers are used twice.
        node = f"seed-{clone.thin_id}-{clone.seed}"
        return Export(node, name_of(clone.name), self._path(client, clone.seed), writable=False, file=True)

    def make(self, client: str, numbers: Collection[int]) -> None:
        """See that the files of seeds are there, and the folder in any case: the daemon's unit looks for it once."""
        self._paths.seeds(client).mkdir(mode=0o750, parents=True, exist_ok=True)
        for number in numbers:
            path = self._path(client, number)
            if path.exists():
                continue
            found = self._catalog.seed(number)
            if found is not None:
                given = found.given
                seed = Seed(instance_of(found.clone, number), given.hostname, given.ssh_keys, given.user_data)
                # Its group is the folder's, so that the daemon may read it.
                replace(path, images.image(seed), 0o640)

    def keep(self, client: str, numbers: Collection[int], others: Collection[Path] = ()) -> None:
        """Remove the files of all seeds but these; ``others`` stay, too."""
        folder = self._paths.seeds(client)
        kept = {self._path(client, number).name for number in numbers} | {path.name for path in others}
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _path(self, client: str, number: int) -> Path:
        return self._paths.seeds(client) / f"{number}.iso"


def name_of(clone: str) -> str:
    """The name under which a clone's seed is offered."""
    return f"{clone}{SUFFIX}"


def instance_of(clone: str, number: int) -> str:
    """What tells cloud-init whether a guest boots for the first time: another one for each seed."""
    return f"{clone}-{number}"
