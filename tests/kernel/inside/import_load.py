"""Imports as the service does them, and what they leave of the cache. Sizes in MiB."""

from pathlib import Path

from appliance.bootset import file
from appliance.bootset.boot_set import BootSet
from appliance.bootset.file import BootSetFile
from appliance.client import connect
from appliance.host.dm import Dm
from appliance.images.volume import VolumeWriter
from appliance.model import MIB, Access, Extent
from appliance.store.pool import Pool
from tests.kernel.inside import full_pool, service, volumes
from tests.kernel.inside.nbd_client import NbdClient

HOLE = 16
"""In the midst of an image that the service imports."""


def take(thin_id: int, mib: int) -> None:
    """Import an image without holes as the template ``thin_id``."""
    pool = Pool.open(Dm())
    pool.create_thin(thin_id)
    device = pool.activate_template(thin_id, mib * MIB, Access.READ_WRITE)
    with VolumeWriter(device, mib * MIB) as writer:
        for index in range(mib):
            writer.write(full_pool.piece(thin_id * 1000 + index))
        writer.finish()
    pool.activate_template(thin_id, mib * MIB, Access.READ_ONLY)


def missed(thin_id: int, mib: int) -> int:
    """Bytes that the backend reads while a template is read once."""
    device = Pool.open(Dm()).activate_template(thin_id, mib * MIB, Access.READ_ONLY)
    before = volumes.backend_reads()
    volumes.digest(str(device), mib)
    return volumes.backend_reads() - before


def add(name: str, mib: int) -> None:
    """Import an image with so much data, and a hole, through the service."""
    path = Path(f"/run/{name}.raw")
    try:
        with path.open("wb") as file:
            for index in range(mib):
                file.seek(_place(index, mib) * MIB)
                file.write(full_pool.piece(index))
        service.add(name, str(path), "raw", deadline=170)
    finally:
        path.unlink()


def give_boot_set(name: str, mib: int) -> int:
    """Give a template a boot set of its first ``mib``; its bytes."""
    with connect() as api:
        view = api.template(name)
        found = BootSet((Extent(0, mib * MIB),), view.size, 3)
        api.import_boot_set(name, file.dump(BootSetFile(view.ref, view.sha256, found)))
    return found.total


def boot(clone: str, template: str, mib: int) -> dict[str, int]:
    """A new clone reads all of that image: bytes that backend and cache read for it. AssertionError: wrong content."""
    service.clones(clone, template)
    before = service.counters()
    with NbdClient(clone) as client:
        for index in range(mib):
            assert client.read(_place(index, mib) * MIB, MIB) == full_pool.piece(index), index
        assert client.read(mib // 2 * MIB, MIB) == bytes(MIB), "the hole"
    after = service.counters()
    return {each: after[each] - before[each] for each in after}


def _place(index: int, mib: int) -> int:
    return index if index < mib // 2 else index + HOLE
