"""How large /usr is as it lies on the disk: compressed, in an erofs that is padded to its partition.

Source of the format: Linux 6.12, fs/erofs/erofs_fs.h, struct erofs_super_block.
"""

import struct
from pathlib import Path

from imagebuild.command import BuildError

MOST = 400_000_000
"""Bytes. Two slots, and updates over slow lines, are why it is held small."""

_OFFSET = 1024
_SUPERBLOCK = struct.Struct("<IIIBBHQQIII")
_MAGIC = 0xE0F5E1E2


def size(first: bytes) -> int:
    """Bytes that a file system's blocks take, out of the first 4096 of its device.

    Raises:
        ValueError: it is no erofs.
    """
    if len(first) < _OFFSET + _SUPERBLOCK.size:
        raise ValueError("too short")
    fields = _SUPERBLOCK.unpack_from(first, _OFFSET)
    if fields[0] != _MAGIC:
        raise ValueError("no superblock of erofs")
    bits, blocks = fields[3], fields[9]
    return int(blocks) << int(bits)


def check(scratch: Path, most: int = MOST) -> int:
    """Return the size of the image's /usr, whose partition mkosi split off into the folder ``scratch``.

    Raises:
        BuildError: there is not one such partition, or it holds more than ``most`` bytes.
    """
    found = sorted(scratch.glob("*.usr_*.raw"))
    if len(found) != 1:
        why = f"{len(found)} files are named like one"
        raise BuildError("the partition of /usr was not split off", why, "see SplitName= in mkosi.repart")
    with found[0].open("rb") as file:
        first = file.read(4096)
    try:
        taken = size(first)
    except ValueError as error:
        raise BuildError("the size of /usr cannot be told", str(error), "see mkosi.repart/21-usr.conf") from error
    if taken > most:
        why = f"{taken} bytes, and {most} are the most"
        raise BuildError("/usr is too large", why, "leave packages or files out, or raise MOST in imagebuild/usr.py")
    return taken
