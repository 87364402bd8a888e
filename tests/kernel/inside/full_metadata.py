"""A pool with so little metadata that a few dozen clones fill it. Sizes in bytes."""

import errno
import time
from typing import Any

from appliance.errors import HatcheryError, NoSpace
from appliance.host import block, kernel, thin
from appliance.host.dm import Dm, Target
from appliance.model import KIB, MIB, SECTOR, Access
from appliance.run import Runner
from appliance.service import admission
from appliance.store import names
from appliance.store.pool import Pool
from tests.kernel.inside import volumes

TEMPLATE_MIB = 16
BLOCK = 64 * KIB


def make(metadata: str, data: str) -> None:
    """A durable pool of our own: 1 MiB of metadata, 200 MiB of data, on two disks that nothing else uses."""
    kernel.load_modules(Runner())
    block.zero(block.get(metadata).path, 0, MIB)
    with Dm() as dm:
        sizes = {"meta": (metadata, MIB), "data": (data, 200 * MIB)}
        paths = {}
        for part, (disk, size) in sizes.items():
            name = f"{names.pool('durable')}-{part}"
            paths[part] = dm.create(name, names.uuid(name), [Target(0, size // SECTOR, "linear", f"{disk} 0")])
        table = thin.pool_table(
            paths["data"], paths["meta"], length=200 * MIB // SECTOR, block=BLOCK // SECTOR, low_water=0
        )
        dm.create(names.pool("durable"), names.uuid(names.pool("durable")), [table])


def fill(most: int) -> dict[str, Any]:
    """Make clones of one template, each with a few writes of its own, until the metadata is full."""
    pool = Pool.open(Dm())
    pool.create_thin(1)
    written = volumes.content(1, TEMPLATE_MIB)
    volumes.write(pool.activate_template(1, TEMPLATE_MIB * MIB, Access.READ_WRITE), written)
    template = pool.activate_template(1, TEMPLATE_MIB * MIB, Access.READ_ONLY)
    before = volumes.digest(str(template), TEMPLATE_MIB)
    refused_at, kept, number, seconds, why = None, {}, 0, 0.0, ""
    for count in range(most):
        if refused_at is None:
            try:
                admission.admit_clones(pool.status(), 1)
            except NoSpace as error:
                refused_at, why = count, str(error)
        thin_id = 2 + count
        begin = time.monotonic()
        try:
            pool.create_snapshot(thin_id, 1)
            device = pool.activate_staging(thin_id, TEMPLATE_MIB * MIB)
            for at in range(0, TEMPLATE_MIB, 4):
                volumes.write(device, volumes.content(thin_id, 1)[:BLOCK], at * MIB)
        except OSError as error:
            number, seconds = error.errno or errno.EIO, time.monotonic() - begin
            break
        except HatcheryError as error:
            number, seconds = errno.ENOSPC, time.monotonic() - begin
            print(f"the pool refused: {error}")
            break
        kept[thin_id] = volumes.digest(str(device), TEMPLATE_MIB)
        pool.deactivate(thin_id)
    status = pool.status()
    damaged = [i for i, digest in kept.items() if _read(pool, i) != digest]
    return {
        "refused_at": refused_at,
        "refusal": why,
        "clones": len(kept),
        "errno": number,
        "seconds": seconds,
        "mode": str(status.mode),
        "damaged": damaged,
        "template": volumes.digest(str(template), TEMPLATE_MIB) == before,
    }


def _read(pool: Pool, thin_id: int) -> str:
    try:
        return volumes.digest(str(pool.activate_staging(thin_id, TEMPLATE_MIB * MIB)), TEMPLATE_MIB)
    finally:
        pool.deactivate(thin_id)
