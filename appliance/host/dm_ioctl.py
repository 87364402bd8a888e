"""The binary form of device-mapper requests and answers: pure packing and unpacking.

Source of the format: ``include/uapi/linux/dm-ioctl.h`` of Linux 6.12 (interface version 4.48); the structures are the
same since 4.0. Numbers are in the machine's byte order; lengths of targets are sectors of 512 bytes.

    struct dm_ioctl (312 bytes) | data: dm_target_spec + text, dm_target_msg, dm_name_list, dm_target_deps ...
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from appliance.errors import CannotTell, InvalidInput

_HEADER = struct.Struct("=3I I I I i I I I Q 128s 129s 7x")
_SPEC = struct.Struct("=Q Q i I 16s")
_NAME_LIST = struct.Struct("=Q I")
_DEPS = struct.Struct("=I 4x")

HEADER_BYTES = _HEADER.size
"""Size of ``struct dm_ioctl``, which every request begins with."""

INTERFACE = (4, 0, 0)
"""Version that requests carry: the oldest one that has all that is used here, as libdevmapper does."""

_NAME_MAX = 127
_UUID_MAX = 128
_IOCTL_TYPE = 0xFD


class Command(IntEnum):
    """Numbers of the requests."""

    VERSION = 0
    LIST_DEVICES = 2
    DEV_CREATE = 3
    DEV_REMOVE = 4
    DEV_SUSPEND = 6
    DEV_STATUS = 7
    TABLE_LOAD = 9
    TABLE_CLEAR = 10
    TABLE_DEPS = 11
    TABLE_STATUS = 12
    TARGET_MSG = 14
    DEV_ARM_POLL = 16

    @property
    def request(self) -> int:
        """The ioctl request number: ``_IOWR(0xfd, number, struct dm_ioctl)``."""
        return (3 << 30) | (HEADER_BYTES << 16) | (_IOCTL_TYPE << 8) | self.value


class Flag(IntFlag):
    """Bits of ``flags``; some are set by the caller, some by the kernel."""

    NONE = 0
    READ_ONLY = 1 << 0
    SUSPEND = 1 << 1
    STATUS_TABLE = 1 << 4
    ACTIVE_PRESENT = 1 << 5
    INACTIVE_PRESENT = 1 << 6
    BUFFER_FULL = 1 << 8
    SKIP_LOCKFS = 1 << 10
    NO_FLUSH = 1 << 11
    QUERY_INACTIVE = 1 << 12
    UEVENT_GENERATED = 1 << 13
    UUID = 1 << 14
    DATA_OUT = 1 << 16
    DEFERRED_REMOVE = 1 << 17


@dataclass(frozen=True, slots=True)
class Target:
    """A line of a table or of its status: where it begins and how long it is (sectors), its kind and the rest."""

    start: int
    length: int
    kind: str
    params: str

    def __str__(self) -> str:
        return f"{self.start} {self.length} {self.kind} {self.params}".rstrip()


@dataclass(frozen=True, slots=True)
class DeviceNumber:
    """Major and minor number of a block device."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"

    @property
    def node(self) -> str:
        """The kernel's name of a device-mapper device with this number."""
        return f"dm-{self.minor}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list of all devices."""

    name: str
    uuid: str
    number: DeviceNumber


@dataclass(frozen=True, slots=True)
class Info:
    """What the kernel says about one device, its table aside."""

    name: str
    uuid: str
    number: DeviceNumber
    open_count: int
    event_nr: int
    target_count: int
    flags: Flag

    @property
    def suspended(self) -> bool:
        """Whether its I/O is held."""
        return Flag.SUSPEND in self.flags

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return Flag.READ_ONLY in self.flags

    @property
    def live(self) -> bool:
        """Whether it has a table in use."""
        return Flag.ACTIVE_PRESENT in self.flags


@dataclass(frozen=True, slots=True)
class Answer:
    """A decoded answer: the header's facts and the raw data behind them."""

    info: Info
    version: tuple[int, int, int]
    data: bytes


def pack(
    name: str = "",
    *,
    uuid: str = "",
    flags: Flag = Flag.NONE,
    event_nr: int = 0,
    target_count: int = 0,
    data: bytes = b"",
    room: int = 0,
) -> bytearray:
    """A request, with at least ``room`` bytes behind the header for the answer. Raises InvalidInput."""
    packed_name = _checked(name, _NAME_MAX, "device-mapper name")
    packed_uuid = _checked(uuid, _UUID_MAX, "device-mapper uuid")
    size = HEADER_BYTES + max(len(data), room)
    buffer = bytearray(size)
    header = (*INTERFACE, size, HEADER_BYTES, target_count, 0, int(flags), event_nr, 0, 0, packed_name, packed_uuid)
    _HEADER.pack_into(buffer, 0, *header)
    buffer[HEADER_BYTES : HEADER_BYTES + len(data)] = data
    return buffer


def _checked(text: str, limit: int, kind: str) -> bytes:
    raw = text.encode()
    if len(raw) > limit or b"\0" in raw or b"/" in raw:
        raise InvalidInput(f"{text!r} is not a valid {kind}", why=f"at most {limit} bytes, without '/'")
    return raw


def unpack(buffer: bytes | bytearray) -> Answer:
    """Decode the answer that the kernel left in a request's buffer."""
    fields = _HEADER.unpack_from(buffer)
    data_size, data_start, target_count, open_count, flags, event_nr, _, dev, name, uuid = fields[3:]
    info = Info(
        name=_text(name),
        uuid=_text(uuid),
        number=DeviceNumber(os.major(dev), os.minor(dev)),
        open_count=open_count,
        event_nr=event_nr,
        target_count=target_count,
        flags=Flag(flags),
    )
    return Answer(info, (fields[0], fields[1], fields[2]), bytes(buffer[data_start:data_size]))


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def pack_targets(targets: Sequence[Target]) -> bytes:
    """The data of a TABLE_LOAD request; each target begins on a multiple of 8 bytes."""
    data = bytearray()
    for target in targets:
        kind = target.kind.encode()
        if not 0 < len(kind) < 16:
            raise InvalidInput(f"{target.kind!r} is not a kind of target", why="its name is empty or too long")
        text = target.params.encode() + b"\0"
        size = _align(_SPEC.size + len(text))
        data += _SPEC.pack(target.start, target.length, 0, size, kind) + text.ljust(size - _SPEC.size, b"\0")
    return bytes(data)


def unpack_targets(data: bytes, count: int) -> tuple[Target, ...]:
    """The targets in the answer to TABLE_STATUS. Offsets in it count from the beginning of ``data``."""
    targets = []
    offset = 0
    for _ in range(count):
        start, length, _, following, kind = _SPEC.unpack_from(data, offset)
        targets.append(Target(start, length, _text(kind), _text(data[offset + _SPEC.size :])))
        offset = following
    return tuple(targets)


def pack_message(text: str, sector: int = 0) -> bytes:
    """The data of a TARGET_MSG request."""
    return struct.pack("=Q", sector) + text.encode() + b"\0"


def unpack_names(data: bytes) -> tuple[Entry, ...]:
    """The devices in the answer to LIST_DEVICES, which must have been asked with the flag UUID."""
    entries = []
    offset = 0
    if len(data) < _NAME_LIST.size or _NAME_LIST.unpack_from(data)[0] == 0:
        return ()
    while True:
        dev, following = _NAME_LIST.unpack_from(data, offset)
        begin = offset + _NAME_LIST.size
        end = data.index(b"\0", begin)
        _, flags = struct.unpack_from("=II", data, _align(end + 1))
        if flags not in (1, 2):
            raise CannotTell(
                "the kernel's list of device-mapper devices has no uuids",
                why="its driver is older than the list of Linux 5.13",
                hint="use a newer kernel",
            )
        uuid = _text(data[_align(end + 1) + 8 :]) if flags == 1 else ""
        entries.append(Entry(data[begin:end].decode(), uuid, DeviceNumber(os.major(dev), os.minor(dev))))
        if following == 0:
            return tuple(entries)
        offset += following


def unpack_deps(data: bytes) -> tuple[DeviceNumber, ...]:
    """The devices in the answer to TABLE_DEPS: those that a device's table refers to."""
    (count,) = _DEPS.unpack_from(data)
    numbers = struct.unpack_from(f"={count}Q", data, _DEPS.size)
    return tuple(DeviceNumber(os.major(dev), os.minor(dev)) for dev in numbers)


def _align(value: int) -> int:
    return (value + 7) & ~7
