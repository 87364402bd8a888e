"""Superblocks of software RAID members, version 1.2, read from the devices themselves. Sizes in bytes.

Source: ``include/uapi/linux/raid/md_p.h`` of Linux 6.12.
"""

import struct
from dataclasses import dataclass

from appliance.host import block
from appliance.host.block import Device

_SUPERBLOCK_AT = 4096
_SUPERBLOCK = struct.Struct("<4I 16s 32s Q iI Q II I I Q IIII QQQQ II 16s BBHI QQQ II 32x")
_MAGIC = 0xA92B4EFC
_ROLE_SPARE = 0xFFFF
_ROLE_FAULTY = 0xFFFE
_WRITE_MOSTLY = 1
_FEATURE_RESHAPE = 4


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a member of an array says about the array and itself. Sizes in bytes; ``uuid`` as 32 hex digits.

    ``size`` of each member's data, which begins at ``data_offset``; ``reshaping`` while the array is being rearranged.
    """

    uuid: str
    name: str
    level: int
    chunk: int
    raid_disks: int
    events: int
    device_number: int
    write_mostly: bool
    roles: tuple[int, ...]
    size: int = 0
    data_offset: int = 0
    reshaping: bool = False

    def role_of(self, number: int) -> int | None:
        """The slot that this member believes the one with device ``number`` fills; None when it counts as gone."""
        role = self.roles[number] if number < len(self.roles) else _ROLE_FAULTY
        return None if role in (_ROLE_FAULTY, _ROLE_SPARE) else role

    @property
    def spare(self) -> bool:
        """Whether it holds nothing of the array yet."""
        return self.role_of(self.device_number) is None

    @property
    def alone(self) -> bool:
        """Whether it counts all other members as gone."""
        return all(self.role_of(number) is None for number in range(len(self.roles)) if number != self.device_number)


def parse_superblock(data: bytes) -> Superblock | None:
    """Read a superblock of version 1.x; None when there is none, or when its checksum is wrong."""
    if len(data) < _SUPERBLOCK.size:
        return None
    fields = _SUPERBLOCK.unpack_from(data)
    magic, major, _, _, uuid, name, _, level, _, _, chunk_sectors, raid_disks = fields[:12]
    device_number, devflags, events, max_dev = fields[23], fields[26], fields[31], fields[34]
    if magic != _MAGIC or major != 1 or max_dev > 1920:
        return None
    size = _SUPERBLOCK.size + 2 * max_dev
    if len(data) < size or _checksum(data[:size]) != fields[33]:
        return None
    roles = struct.unpack_from(f"<{max_dev}H", data, _SUPERBLOCK.size)
    return Superblock(
        uuid=uuid.hex(),
        name=name.partition(b"\0")[0].decode("utf-8", "replace"),
        level=level,
        chunk=chunk_sectors * 512,
        raid_disks=raid_disks,
        events=events,
        device_number=device_number,
        write_mostly=bool(devflags & _WRITE_MOSTLY),
        roles=roles,
        size=fields[9] * 512,
        data_offset=fields[19] * 512,
        reshaping=bool(fields[2] & _FEATURE_RESHAPE),
    )


def _checksum(data: bytes) -> int:
    """The sum of all 32-bit words (and a last half one), the checksum's own taken as 0, folded to 32 bits."""
    padded = bytearray(data)
    padded[216:220] = bytes(4)
    if len(padded) % 4:
        padded += bytes(2)
    total: int = sum(struct.unpack(f"<{len(padded) // 4}I", padded))
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


def superblock(device: Device) -> Superblock | None:
    """The superblock (1.2) on a device, or None. Raises CannotTell when the device cannot be read."""
    if device.size < 2 * _SUPERBLOCK_AT:
        return None
    return parse_superblock(block.read(device.path, _SUPERBLOCK_AT, 4096))
