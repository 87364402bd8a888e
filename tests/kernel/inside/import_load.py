"""Imports as the service does them, and what they leave of the cache. Sizes in MiB."""

from appliance.host.dm import Dm
from appliance.images.volume import VolumeWriter
from appliance.model import MIB, Access
from appliance.store.pool import Pool
from tests.kernel.inside import full_pool, volumes


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
