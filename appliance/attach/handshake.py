"""The NBD handshake up to the point where the kernel takes over. Pure: bytes in, bytes out.

Source: the NBD project's doc/proto.md: fixed newstyle, option GO. Sizes of blocks are not asked for: who does not ask
may use blocks of 512 bytes, which is what guests see their disks with, and the server takes care of its own.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from appliance.attach.target import Target, no_tls
from appliance.errors import HatcheryError, NotFound, NotReady, Refused, Unhealthy

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_REPLY = struct.Struct(">QIII")
_EXPORT = struct.Struct(">HQH")

GREETING_BYTES = _GREETING.size
"""How much a server says first."""

REPLY_BYTES = _REPLY.size
"""How much a reply to an option has before its payload."""

_MAGIC, _OPTION_MAGIC, _REPLY_MAGIC = b"NBDMAGIC", b"IHAVEOPT", 0x3E889045565A9
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_GO = 7
_INFO_EXPORT = 0
_LARGEST_PAYLOAD = 64 * 1024
_LONGEST_NAME = 4096


class Flags(IntFlag):
    """Transmission flags that matter here. The kernel gets all that the server sent."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    CAN_MULTI_CONN = 1 << 8


class _Kind(IntEnum):
    """Kinds of replies."""

    ACK = 1
    INFO = 3
    UNSUPPORTED = 1 << 31 | 1
    POLICY = 1 << 31 | 2
    INVALID = 1 << 31 | 3
    PLATFORM = 1 << 31 | 4
    TLS_REQUIRED = 1 << 31 | 5
    UNKNOWN = 1 << 31 | 6
    SHUTDOWN = 1 << 31 | 7
    BLOCK_SIZE_REQUIRED = 1 << 31 | 8
    TOO_BIG = 1 << 31 | 9


_ERROR = 1 << 31


@dataclass(frozen=True, slots=True)
class Export:
    """What the server says of an export: its size in bytes, and its transmission flags."""

    size: int
    flags: int

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return bool(self.flags & Flags.READ_ONLY)

    @property
    def many(self) -> bool:
        """Whether several connections see each other's flushed writes, so that one client may have several."""
        return bool(self.flags & Flags.CAN_MULTI_CONN)


@dataclass(frozen=True, slots=True)
class Reply:
    """The beginning of a reply: its kind, and how many bytes of payload follow."""

    kind: int
    length: int


def answer(greeting: bytes, target: Target) -> bytes:
    """What to say to a server's greeting: the client's flags, and that it wants the export. Raises Unhealthy."""
    if len(greeting) < GREETING_BYTES or greeting[:8] != _MAGIC:
        raise Unhealthy(
            f"{target.server} does not speak NBD",
            why=f"it began with {greeting[:8].hex() or 'nothing'}",
            hint="is that the right address?",
        )
    _, kind, flags = _GREETING.unpack(greeting)
    if kind != _OPTION_MAGIC or not flags & _FIXED_NEWSTYLE:
        raise _too_old(target)
    name = target.export.encode()
    if len(name) > _LONGEST_NAME:
        raise NotFound(f"no export has so long a name as {target.export[:32]}...", hint="correct it")
    data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
    ours = struct.pack(">I", _FIXED_NEWSTYLE | flags & _NO_ZEROES)
    return ours + _OPTION.pack(_OPTION_MAGIC, _GO, len(data)) + data


def reply(header: bytes, target: Target) -> Reply:
    """The beginning of a reply to what ``answer`` said. Raises Unhealthy."""
    magic, option, kind, length = _REPLY.unpack(header)
    if magic != _REPLY_MAGIC or option != _GO or length > _LARGEST_PAYLOAD:
        raise Unhealthy(f"{target.server} does not speak NBD as it should", why=f"it sent {header.hex()}")
    return Reply(kind, length)


class Negotiation:
    """Takes the server's replies, one after the other, until it knows the export."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._export: Export | None = None

    def take(self, head: Reply, payload: bytes) -> Export | None:
        """A reply; the export once the server is through, None until then.

        Raises NotFound for an unknown export, Refused (TLS, policy), NotReady while the server goes down, and
        Unhealthy for what no server should say.
        """
        if head.kind & _ERROR:
            raise _refusal(head.kind, payload, self._target)
        if head.kind == _Kind.ACK:
            if self._export is None:
                why = "it accepted without information about the export"
                raise Unhealthy(f"{self._target.server} does not say how large {self._target.export} is", why=why)
            return self._export
        # Information that was not asked for is passed over, as the protocol has it.
        if head.kind == _Kind.INFO and payload[:2] == struct.pack(">H", _INFO_EXPORT):
            if len(payload) != _EXPORT.size:
                raise Unhealthy(f"{self._target.server} does not speak NBD as it should", why=payload.hex())
            _, size, flags = _EXPORT.unpack(payload)
            self._export = Export(size, flags)
        return None


def _too_old(target: Target) -> Refused:
    return Refused(
        f"{target.server} speaks an NBD that is too old",
        why="the fixed newstyle handshake with the option GO is needed",
        hint="qemu-storage-daemon, qemu-nbd, nbdkit and nbd-server since 3.17 have it",
    )


def _refusal(kind: int, payload: bytes, target: Target) -> HatcheryError:
    """What a server's error means. Its own words are for people, and are shown as it sent them."""
    said = "".join(char if char.isprintable() else " " for char in payload.decode("utf-8", "replace"))[:200]
    where = f"{target.server} refuses {target.export or 'its default export'}"
    why = f"it says: {said}" if said else ""
    match kind:
        case _Kind.UNKNOWN:
            hint = "`hatchery clone show` says to which client a clone is attached, and its address"
            return NotFound(f"{target.server} has no export {target.export!r}", why=why, hint=hint)
        case _Kind.TLS_REQUIRED:
            return no_tls(f"{target.server} lets nobody in without TLS")
        case _Kind.SHUTDOWN:
            return NotReady(f"{target.server} is shutting down", why=why, hint="try again")
        case _Kind.UNSUPPORTED:
            return _too_old(target)
        case _Kind.BLOCK_SIZE_REQUIRED:
            why = why or "it takes blocks of its own size only, and guests see their disks in blocks of 512 bytes"
            return Refused(where, why=why, hint="export it with a server that takes requests of any size")
        case _Kind.POLICY | _Kind.PLATFORM:
            return Refused(where, why=why or "by its policy", hint="see the server's log")
    return Unhealthy(where, why=why or f"it sent the error {kind & ~_ERROR}", hint="see the server's log")
