"""How much of its data device a pool gets. Sizes in bytes.

A pool's table is shorter than its data device by the reserve (rule 4). Releasing the reserve makes the table as long as
the device, and the pool's own superblock keeps that: a pool never shrinks, so what was given once is not held back
again, and there is no second record that could say otherwise.
"""

from appliance.host import block, thin
from appliance.host.block import Device
from appliance.host.thin import METADATA_BLOCK


def pool_bytes(data: int, block_bytes: int, given: int, reserve_percent: int) -> int:
    """How much a pool gets of a device of ``data`` bytes: all but the reserve, and never less than it was ``given``."""
    blocks = data // block_bytes
    return max(blocks - blocks * reserve_percent // 100, given // block_bytes) * block_bytes


def given(metadata: Device, block_bytes: int) -> int:
    """What the pool that is on this metadata device, and not active, has had so far; 0 before it was first made."""
    return thin.data_blocks(block.read(metadata.path, 0, METADATA_BLOCK)) * block_bytes


def held_back(data: int, block_bytes: int, pool: int) -> int:
    """What a pool of ``pool`` bytes could still get of a device of ``data`` bytes."""
    return max(data // block_bytes * block_bytes - pool, 0)
