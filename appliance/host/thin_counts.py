"""A thin pool's own counts of used blocks, put right after ``thin_check --auto-repair``.

A power cut can leave blocks counted as used that nothing maps. thin_check 1.1 gives them back in the bitmaps, and
leaves two counts as they were: the free entries of each bitmap (the index) and the blocks in use of the whole space map
(its root, in the superblock), which is what the kernel shows as used and what it goes on adding to. So the space would
be there again and never be seen as free.

Sources: ``dm-space-map-common.{h,c}``, ``dm-btree-internal.h`` and ``dm-thin-metadata.c`` of Linux 6.12. All numbers
are little-endian, all blocks have 4 KiB and begin with the CRC-32C of what follows it, not inverted at the end, with a
salt for each kind.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from appliance.errors import CannotTell, Unhealthy

BLOCK = 4096
ENTRIES = (BLOCK - 16) * 4
"""Blocks that one bitmap speaks for: two bits each, behind a header of 16 bytes."""

_SUPERBLOCK_SALT, _NODE_SALT, _INDEX_SALT = 160774, 121107, 160478
_DATA_ROOT, _METADATA_ROOT = 64, 192
_INTERNAL, _LEAF = 1, 2
_NODE_HEADER = struct.Struct("<IIQIII4x")
_INDEX_HEADER = 16
_ENTRY = struct.Struct("<QII")
_ROOT = struct.Struct("<QQQQ")
_USED = bytes(sum(1 for shift in (0, 2, 4, 6) if byte >> shift & 3) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Correction:
    """By how many blocks the counts of used data and metadata were too high."""

    data: int = 0
    metadata: int = 0


@cache
def _table() -> tuple[int, ...]:
    values = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        values.append(value)
    return tuple(values)


def checksum(block: bytes | bytearray, salt: int) -> int:
    """The number that a block of this kind begins with."""
    found, table = 0xFFFFFFFF, _table()
    for byte in memoryview(block)[4:]:
        found = table[(found ^ byte) & 255] ^ (found >> 8)
    return found ^ salt


class _Metadata:
    """Blocks of the metadata, read and written in place."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, number: int) -> bytes:
        block = os.pread(self._fd, BLOCK, number * BLOCK)
        if len(block) != BLOCK:
            raise CannotTell("the pool's metadata cannot be counted", why=f"it has no block {number}")
        return block

    def checked(self, number: int, salt: int) -> bytearray:
        block = bytearray(self.read(number))
        if int.from_bytes(block[:4], "little") != checksum(block, salt):
            raise CannotTell("the pool's metadata cannot be counted", why=f"the checksum of block {number} is wrong")
        return block

    def write(self, number: int, block: bytearray, salt: int) -> None:
        block[:4] = checksum(block, salt).to_bytes(4, "little")
        if os.pwrite(self._fd, block, number * BLOCK) != BLOCK:
            raise Unhealthy("the pool's metadata cannot be written", why=f"block {number} was written in part")

    def sync(self) -> None:
        os.fsync(self._fd)


def recount(path: Path) -> Correction:
    """Put the counts of a pool right that is not active. What its bitmaps say holds. Raises CannotTell, Unhealthy.

    The index goes first and the superblock last: cut off in between, another run finishes it.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise CannotTell(f"cannot open {path}", why=error.strerror or str(error)) from error
    try:
        return _recount(_Metadata(fd))
    except OSError as error:
        raise Unhealthy("the pool's metadata cannot be counted", why=error.strerror or str(error)) from error
    finally:
        os.close(fd)


def _recount(metadata: _Metadata) -> Correction:
    superblock = metadata.checked(0, _SUPERBLOCK_SALT)
    _, _, data_root, _ = _ROOT.unpack_from(superblock, _DATA_ROOT)
    used = sum(_mend_node(metadata, number) for number in _leaves(metadata, data_root))
    meta_blocks, _, index, _ = _ROOT.unpack_from(superblock, _METADATA_ROOT)
    meta_used = _mend_index(metadata, index, meta_blocks)
    correction = Correction(_set_used(superblock, _DATA_ROOT, used), _set_used(superblock, _METADATA_ROOT, meta_used))
    metadata.sync()
    if correction != Correction():
        metadata.write(0, superblock, _SUPERBLOCK_SALT)
        metadata.sync()
    return correction


def _set_used(superblock: bytearray, root: int, used: int) -> int:
    blocks, before, index, counts = _ROOT.unpack_from(superblock, root)
    _ROOT.pack_into(superblock, root, blocks, used, index, counts)
    return int(before - used)


def _leaves(metadata: _Metadata, number: int) -> Iterator[int]:
    """The leaves of the tree of bitmaps."""
    node = metadata.checked(number, _NODE_SALT)
    _, flags, _, count, most, size = _NODE_HEADER.unpack_from(node)
    if flags == _LEAF and size == _ENTRY.size:
        yield number
    elif flags == _INTERNAL:
        for child in struct.unpack_from(f"<{count}Q", node, _NODE_HEADER.size + 8 * most):
            yield from _leaves(metadata, child)
    else:
        raise CannotTell("the pool's metadata cannot be counted", why=f"block {number} is not a node of bitmaps")


def _mend_node(metadata: _Metadata, number: int) -> int:
    node = metadata.checked(number, _NODE_SALT)
    _, _, _, count, most, _ = _NODE_HEADER.unpack_from(node)
    before = bytes(node)
    used = _mend(metadata, node, _NODE_HEADER.size + 8 * most, count)
    if node != before:
        metadata.write(number, node, _NODE_SALT)
    return used


def _mend_index(metadata: _Metadata, number: int, blocks: int) -> int:
    index = metadata.checked(number, _INDEX_SALT)
    before = bytes(index)
    used = _mend(metadata, index, _INDEX_HEADER, -(-blocks // ENTRIES))
    if index != before:
        metadata.write(number, index, _INDEX_SALT)
    return used


def _mend(metadata: _Metadata, holder: bytearray, start: int, count: int) -> int:
    """Correct ``count`` index entries; returns how many blocks their bitmaps say are used.

    Entries past the end of the device are never used, and count as free.
    """
    total = 0
    for position in range(start, start + count * _ENTRY.size, _ENTRY.size):
        bitmap, free, _ = _ENTRY.unpack_from(holder, position)
        used = sum(metadata.read(bitmap)[16:].translate(_USED))
        if free != ENTRIES - used:
            # Where the first free one is, the kernel looks for itself.
            _ENTRY.pack_into(holder, position, bitmap, ENTRIES - used, 0)
        total += used
    return total
