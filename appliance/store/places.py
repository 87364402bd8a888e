"""Where a sealed volume lies in its pool's data, found without asking the pool for each block.

dm-thin hands every read of a block that snapshots share, and a template's blocks are shared, to the one thread that the
pool has, a block at a time. What reads much of a template goes to the pool's data by itself: faster, and out of the
way of the guests, whose requests need that thread. A sealed volume is never written again, so that its blocks stay
where they are for as long as it is there.
"""

from collections.abc import Iterable

from appliance.errors import NotFound
from appliance.host import thin_dump
from appliance.host.dm import Dm
from appliance.model import SECTOR, Extent
from appliance.run import Runner
from appliance.store import metadata

_DEADLINE = 600.0


def find(runner: Runner, dm: Dm, pool: str, thin_id: int, extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """The extents of the volume as extents of the pool's data device, ascending there; holes are left out.

    ``pool`` is its device-mapper name. Raises InUse while another reads the metadata, NotFound, CannotTell,
    DeadlineExceeded.
    """
    with metadata.snapshot(dm, pool, deadline=0) as device:
        superblock, volumes = thin_dump.dumped(runner, device, "--dev-id", str(thin_id), deadline=_DEADLINE)
    runs = next((each.runs for each in volumes if each.thin_id == thin_id), None)
    if runs is None:
        raise NotFound(f"the pool has no volume {thin_id}", why="it was deleted meanwhile")
    return thin_dump.places(runs, superblock.block * SECTOR, extents)
