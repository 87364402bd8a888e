"""Garbage for the collector, made as a crash or a guest would; and what the pools say of it. Sizes in bytes."""

import os
from typing import Any

from appliance import wait
from appliance.client import connect
from appliance.host.dm import Dm
from appliance.model import KIB, MIB, PoolName
from appliance.store.pool import Pool
from tests.kernel.inside import service


def used() -> dict[str, int]:
    """Blocks in use of each pool."""
    found = {}
    for name in PoolName:
        pool = Pool.open(Dm(), name)
        found[str(name)] = pool.status().data_used // pool.block_bytes
    return found


def orphan(thin_id: int, size: int) -> None:
    """A volume that no catalog knows, every block of it mapped, as its device was left."""
    pool = Pool.open(Dm(), "durable")
    pool.create_thin(thin_id)
    fd = os.open(pool.activate_staging(thin_id, size), os.O_WRONLY)
    try:
        for offset in range(0, size, pool.block_bytes):
            os.pwrite(fd, b"\1" * 512, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def report() -> dict[int, dict[str, Any]]:
    """All volumes by id, as ``hatchery gc --dry-run`` sees them."""
    with connect() as client:
        return {volume.thin_id: volume.model_dump(mode="json") for volume in client.garbage().volumes}


def collect() -> str:
    """``hatchery gc``: how it ended, in words."""
    with connect() as client:
        return client.finish(client.collect(), deadline=120).phase


def scribble(name: str, mib: int = 4) -> None:
    """A guest writes the first MiB of a clone."""
    uri = f"nbd+unix:///{name}?socket=/run/hatchery/nbd/local/nbd.sock"
    service.qemu_io(uri, f"write -P 7 0 {mib * MIB}", "flush")


def trim(name: str, mib: int = 4) -> None:
    """A guest trims what it has written, but for a part of a block, which stays."""
    uri = f"nbd+unix:///{name}?socket=/run/hatchery/nbd/local/nbd.sock"
    service.qemu_io(uri, f"discard 0 {mib * MIB}", f"discard {mib * MIB} {4 * KIB}", "flush")


def collect_leases() -> None:
    """Collect until the clones whose lease has ended are gone; the collector may have been quicker."""

    def ended() -> bool:
        with connect() as client:
            if not any(clone.expires is not None for clone in client.clones()):
                return True
        collect()
        return False

    wait.until(ended, "a lease to end", deadline=40, interval=0.2)
