import struct

import pytest

from appliance.errors import CannotTell
from appliance.host import thin
from appliance.model import KIB, MIB
from appliance.store import capacity

BLOCK = 64 * KIB


def test_the_reserve_is_held_back_in_whole_blocks() -> None:
    assert capacity.pool_bytes(100 * BLOCK, BLOCK, 0, 5) == 95 * BLOCK
    assert capacity.pool_bytes(100 * BLOCK + 1, BLOCK, 0, 5) == 95 * BLOCK
    assert capacity.pool_bytes(39 * BLOCK, BLOCK, 0, 5) == 38 * BLOCK
    assert capacity.pool_bytes(100 * BLOCK, BLOCK, 0, 0) == 100 * BLOCK


def test_a_pool_never_shrinks() -> None:
    assert capacity.pool_bytes(100 * BLOCK, BLOCK, 100 * BLOCK, 5) == 100 * BLOCK
    assert capacity.pool_bytes(100 * BLOCK, BLOCK, 97 * BLOCK, 5) == 97 * BLOCK


def test_space_that_is_added_has_a_reserve_of_its_own() -> None:
    assert capacity.pool_bytes(200 * BLOCK, BLOCK, 100 * BLOCK, 5) == 190 * BLOCK
    assert capacity.held_back(200 * BLOCK, BLOCK, 190 * BLOCK) == 10 * BLOCK


def test_nothing_is_held_back_of_a_device_that_the_pool_fills() -> None:
    assert capacity.held_back(10 * BLOCK + 4 * KIB, BLOCK, 10 * BLOCK) == 0
    assert capacity.held_back(9 * BLOCK, BLOCK, 10 * BLOCK) == 0


def superblock(blocks: int, magic: int = 27022010) -> bytes:
    fields = (1, 0, 0, b"u" * 16, magic, 2, 3, 4, 0, blocks, 77)
    return struct.pack("<IIQ16sQIIQQQQ", *fields).ljust(4096, b"\0")


def test_the_pools_size_is_read_from_its_superblock() -> None:
    assert thin.data_blocks(superblock(4711)) == 4711
    assert thin.data_blocks(bytes(4096)) == 0
    with pytest.raises(CannotTell):
        thin.data_blocks(superblock(4711, magic=1))
    assert capacity.pool_bytes(MIB, BLOCK, 0, 5) == MIB
