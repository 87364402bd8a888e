"""Software RAID: superblocks, arrays in sysfs, and mdadm for what changes them.

Sources: ``include/uapi/linux/raid/md_p.h`` (superblock 1.x) and ``Documentation/admin-guide/md.rst`` of Linux 6.12;
mdadm 4.4. Assembly is always explicit: an array's members are named, nothing is scanned for (rule 10).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from appliance import wait
from appliance.errors import CannotTell, CommandFailed, HatcheryError, NotFound
from appliance.host import block
from appliance.host.block import Device
from appliance.model import KIB
from appliance.run import Runner

_SUPERBLOCK_AT = 4096
_SUPERBLOCK = struct.Struct("<4I 16s 32s Q iI Q II I I Q IIII QQQQ II 16s BBHI QQQ II 32x")
_MAGIC = 0xA92B4EFC
_ROLE_SPARE = 0xFFFF
_ROLE_FAULTY = 0xFFFE
_WRITE_MOSTLY = 1


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a member of an array says about the array and itself. Sizes in bytes; ``uuid`` as 32 hex digits."""

    uuid: str
    name: str
    level: int
    chunk: int
    raid_disks: int
    events: int
    device_number: int
    write_mostly: bool
    roles: tuple[int, ...]

    def role_of(self, number: int) -> int | None:
        """The slot that this member believes the one with device ``number`` fills; None when it counts as gone."""
        role = self.roles[number] if number < len(self.roles) else _ROLE_FAULTY
        return None if role in (_ROLE_FAULTY, _ROLE_SPARE) else role


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


@dataclass(frozen=True, slots=True)
class Member:
    """A device in a running array. ``slot`` is None for spares and those thrown out."""

    name: str
    state: frozenset[str]
    slot: int | None

    @property
    def working(self) -> bool:
        """Whether it has all data."""
        return "in_sync" in self.state and "faulty" not in self.state


@dataclass(frozen=True, slots=True)
class Array:
    """An array as sysfs shows it."""

    device: Device
    uuid: str
    level: str
    state: str
    raid_disks: int
    degraded: int
    sync_action: str
    sync_percent: float | None
    backlog: int | None
    members: tuple[Member, ...]

    @property
    def running(self) -> bool:
        """Whether it can be read."""
        return self.state not in {"clear", "inactive"}


def arrays() -> tuple[Array, ...]:
    """All arrays that the kernel has, inactive ones too."""
    found = (_array(folder.parent) for folder in sorted(Path("/sys/block").glob("md*/md")))
    return tuple(array for array in found if array is not None)


def find(uuid: str) -> Array | None:
    """The array with this uuid (32 hex digits), or None."""
    for array in arrays():
        if array.uuid == uuid:
            return array
    return None


def with_member(device: Device) -> Array | None:
    """The array that holds the device, or None."""
    for array in arrays():
        if any(member.name == device.name for member in array.members):
            return array
    return None


def _array(folder: Path) -> Array | None:
    device = block.by_name(folder.name)
    if device is None:
        return None
    md = folder / "md"
    members = tuple(_member(child) for child in sorted(md.glob("dev-*")))
    uuid = "".join(char for char in block.read_text_or(md / "uuid") if char in "0123456789abcdef")
    backlog = block.read_text_or(md / "bitmap/backlog")
    degraded = block.read_text_or(md / "degraded", "0")
    disks = block.read_text_or(md / "raid_disks", "0").split()
    return Array(
        device=device,
        uuid=uuid or _uuid_of(members),
        level=block.read_text_or(md / "level"),
        state=block.read_text_or(md / "array_state"),
        raid_disks=int(disks[0]) if disks else 0,
        degraded=int(degraded) if degraded.isdecimal() else 0,
        sync_action=block.read_text_or(md / "sync_action", "idle"),
        sync_percent=parse_sync(block.read_text_or(md / "sync_completed", "none")),
        backlog=int(backlog) if backlog.isdecimal() else None,
        members=members,
    )


def _uuid_of(members: Sequence[Member]) -> str:
    """An inactive array shows no uuid: its members' superblocks tell."""
    for member in members:
        device = block.by_name(member.name)
        try:
            found = superblock(device) if device else None
        except CannotTell:
            continue
        if found is not None:
            return found.uuid
    return ""


def _member(folder: Path) -> Member:
    slot = block.read_text_or(folder / "slot", "none")
    state = block.read_text_or(folder / "state")
    name = folder.name.removeprefix("dev-").replace("!", "/")
    return Member(name, frozenset(state.split(",")), int(slot) if slot.isdecimal() else None)


def parse_sync(text: str) -> float | None:
    """Percent done, from ``sync_completed`` (``SECTORS / SECTORS``, ``none`` or ``delayed``)."""
    words = text.split()
    if len(words) == 3 and words[0].isdecimal() and words[2].isdecimal() and int(words[2]) > 0:
        return round(100 * int(words[0]) / int(words[2]), 1)
    return None


class Consistency(Enum):
    """How an array finds out after a crash what to put right."""

    PPL = "ppl"
    BITMAP = "bitmap"


@dataclass(frozen=True, slots=True)
class NewArray:
    """An array to be made. ``chunk_kib`` 0 for levels without; ``slow`` members are read only if there is no other."""

    name: str
    homehost: str
    level: str
    chunk_kib: int
    consistency: Consistency
    members: tuple[Path, ...]
    slow: tuple[Path, ...] = ()


def create_command(new: NewArray) -> list[str | Path]:
    """The mdadm command that makes an array."""
    count = len(new.members) + len(new.slow)
    words: list[str | Path] = ["mdadm", "--create", f"/dev/md/{new.homehost}-{new.name}", "--run", "--metadata=1.2"]
    words += [f"--homehost={new.homehost}", f"--name={new.name}", f"--level={new.level}", f"--raid-devices={count}"]
    if new.chunk_kib:
        words.append(f"--chunk={new.chunk_kib}")
    words.append("--consistency-policy=ppl" if new.consistency is Consistency.PPL else "--bitmap=internal")
    words += new.members
    if new.slow:
        words += ["--write-mostly", *new.slow]
    return words


def create(runner: Runner, new: NewArray) -> Array:
    """Make an array and return it; it is synchronised in the background. Raises CommandFailed."""
    runner.run(create_command(new))
    block.settle(runner)
    first = block.get((*new.members, *new.slow)[0])
    found = with_member(first)
    if found is None:
        raise NotFound(f"the array {new.name} is not there", why="mdadm made it, but the kernel does not show it")
    return found


def assemble(runner: Runner, name: str, uuid: str, members: Sequence[Path]) -> Array:
    """Start an array from exactly these members, degraded if need be. Raises CommandFailed, NotFound.

    An inactive array of the same members, left by somebody else's attempt, is stopped first.
    """
    present = find(uuid)
    if present is not None:
        if present.running:
            return present
        stop(runner, present)
    dashed = ":".join(uuid[at : at + 8] for at in range(0, 32, 8))
    runner.run(["mdadm", "--assemble", "--run", f"/dev/md/{name}", f"--uuid={dashed}", *members])
    block.settle(runner)
    found = find(uuid)
    if found is None or not found.running:
        state = found.state if found else "not there"
        raise NotFound(f"the array {name} did not start", why=f"it is {state}", hint="see `mdadm --examine`")
    return found


def rejoin(runner: Runner, array: Array, member: Path) -> str:
    """Put a member back: only what changed is copied where that is known, else all. Returns ``re-add`` or ``add``."""
    for verb in ("re-add", "add"):
        try:
            runner.run(["mdadm", "--manage", array.device.path, f"--{verb}", member])
        except CommandFailed:
            if verb == "add":
                raise
        else:
            return verb
    raise AssertionError("unreachable: the last verb returns or raises")


def forget(runner: Runner, member: Path) -> None:
    """Take a device's superblock away, so that it holds nothing of its array any more."""
    runner.run(["mdadm", "--zero-superblock", member])


def remove_failed(runner: Runner, array: Array) -> None:
    """Let go of members that have failed."""
    runner.run(["mdadm", "--manage", array.device.path, "--remove", "failed"], check=False)


def stop(runner: Runner, array: Array, *, deadline: float = 30.0) -> None:
    """Stop an array; at most ``deadline`` seconds. Raises DeadlineExceeded."""

    def attempt() -> bool:
        try:
            runner.run(["mdadm", "--stop", array.device.path], timeout=deadline)
        except HatcheryError:
            return _array(array.device.sysfs) is None
        return True

    wait.until(attempt, f"{array.device.name} to stop", deadline=deadline, interval=0.2)


def data_disks(level: str, disks: int) -> int:
    """How many disks' worth of data a stripe holds."""
    return {"raid1": 1, "raid5": disks - 1, "raid6": disks - 2, "raid10": max(disks // 2, 1)}[level]


def full_stripe(level: str, disks: int, chunk_kib: int) -> int:
    """Bytes in a full stripe; 4096 for a mirror, which has none."""
    return 4096 if level == "raid1" else data_disks(level, disks) * chunk_kib * KIB
