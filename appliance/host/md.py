"""Software RAID: arrays in sysfs, and mdadm for what changes them.

Sources: ``Documentation/admin-guide/md.rst`` of Linux 6.12; mdadm 4.4. Assembly is always explicit: an array's members
are named, nothing is scanned for (rule 10).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from appliance import wait
from appliance.errors import CannotTell, CommandFailed, HatcheryError, NotFound
from appliance.host import block, glance
from appliance.host.block import Device
from appliance.host.md_superblock import Superblock, superblock
from appliance.model import KIB
from appliance.run import Runner

__all__ = ["Superblock", "superblock"]

_AT_REST = 15
"""How often, 20 ms apart, an array must be found without I/O to be at rest."""


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
    """An array as sysfs shows it. ``policy`` is its consistency policy, a word of ``Consistency`` or another.

    ``reshaping`` while it is being rearranged, also while that waits for the first write after a start.
    """

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
    policy: str = ""
    reshaping: bool = False

    @property
    def running(self) -> bool:
        """Whether it can be read."""
        return self.state not in {"clear", "inactive"}


@glance.remembered
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
        policy=block.read_text_or(md / "consistency_policy"),
        reshaping=block.read_text_or(md / "reshape_position", "none") != "none",
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
    RESYNC = "resync"


class Fill(Enum):
    """What is done about members whose content differs when an array is made.

    Nothing need be done where nobody reads what was never written.
    """

    SYNCHRONISE = "synchronise"
    NEVER_READ_UNWRITTEN = "never-read-unwritten"


@dataclass(frozen=True, slots=True)
class NewArray:
    """An array to be made. ``chunk_kib`` 0 for levels without; ``slow`` members are read only if there is no other.

    ``missing`` members come later. With a ``size`` (bytes of each member's data) and ``data_offset`` (where it begins)
    members of different sizes are used alike.
    """

    name: str
    homehost: str
    level: str
    chunk_kib: int
    consistency: Consistency
    members: tuple[Path, ...]
    slow: tuple[Path, ...] = ()
    missing: int = 0
    size: int = 0
    data_offset: int = 0
    fill: Fill = Fill.SYNCHRONISE


def create_command(new: NewArray) -> list[str | Path]:
    """The mdadm command that makes an array."""
    count = len(new.members) + len(new.slow) + new.missing
    words: list[str | Path] = ["mdadm", "--create", f"/dev/md/{new.homehost}-{new.name}", "--run", "--metadata=1.2"]
    words += [f"--homehost={new.homehost}", f"--name={new.name}", f"--level={new.level}", f"--raid-devices={count}"]
    if new.chunk_kib:
        words.append(f"--chunk={new.chunk_kib}")
    words.append("--consistency-policy=ppl" if new.consistency is Consistency.PPL else "--bitmap=internal")
    if new.size:
        words += [f"--size={new.size // KIB}K", f"--data-offset={new.data_offset // KIB}K"]
    if new.fill is Fill.NEVER_READ_UNWRITTEN:
        words.append("--assume-clean")
    words += [*new.members, *["missing"] * new.missing]
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


def widen(runner: Runner, array: Array, count: int) -> None:
    """Give an array places for ``count`` members; one with parity is then rearranged. Raises CommandFailed."""
    # mdadm refuses while the array is being checked.
    end_check(array)
    runner.run(["mdadm", "--grow", array.device.path, f"--raid-devices={count}"], timeout=120)


def add_spare(runner: Runner, array: Array, member: Path) -> None:
    """Add a disk that has no place yet. Raises CommandFailed."""
    runner.run(["mdadm", "--manage", array.device.path, "--add", member])


def go_on(array: Array) -> None:
    """Let an array that was just started write, which it puts off until somebody else does. Raises Unhealthy."""
    if block.read_text_or(array.device.sysfs / "md/array_state") == "read-auto":
        block.write_text(array.device.sysfs / "md/array_state", "active")


def begin_check(array: Array, speed: int) -> None:
    """Let the kernel read and compare all of the array, at most ``speed`` bytes a second. Raises Unhealthy."""
    block.write_text(array.device.sysfs / "md/sync_speed_max", str(speed // KIB))
    block.write_text(array.device.sysfs / "md/sync_action", "check")


def end_check(array: Array) -> None:
    """Break off a check, and let what comes after it be as fast as it can; fine when none runs. Raises Unhealthy."""
    if block.read_text_or(array.device.sysfs / "md/sync_action") == "check":
        block.write_text(array.device.sysfs / "md/sync_action", "idle")
    block.write_text(array.device.sysfs / "md/sync_speed_max", "system")


def mismatches(array: Array) -> int:
    """Sectors that the last check found to differ from their copy or parity. Raises CannotTell."""
    return int(block.read_text(array.device.sysfs / "md/mismatch_cnt"))


def again(array: Array) -> Array:
    """The same array as it is now. Raises NotFound when it is gone."""
    found = _array(array.device.sysfs)
    if found is None:
        raise NotFound(f"the array {array.device.name} is gone", why="the kernel has it no more")
    return found


def hold_writes(array: Array, deadline: float = 30.0) -> None:
    """Let all writes to the array wait until ``release_writes``, and those under way end. Raises DeadlineExceeded.

    Readers go on. At rest means: for a while nothing is under way in the array or on a member, where the flushes of
    the partial parity log come after the writes that they belong to have been answered.
    """
    # Its reads would never end.
    end_check(array)
    folder = array.device.sysfs / "md"
    members = [found for found in (block.by_name(member.name) for member in array.members) if found is not None]
    block.write_text(folder / "suspend_hi", str(array.device.size // 512))
    quiet = 0

    def at_rest() -> bool:
        nonlocal quiet
        busy = any(block.inflight(device) for device in (array.device, *members))
        written = block.read_text_or(folder / "array_state") in ("clean", "read-auto", "readonly")
        quiet = quiet + 1 if written and not busy else 0
        return quiet >= _AT_REST

    try:
        wait.until(at_rest, f"{array.device.name} to be at rest", deadline=deadline, interval=0.02)
    except BaseException:
        release_writes(array)
        raise


def release_writes(array: Array) -> None:
    """Let writes go on; fine when none are held. Raises Unhealthy."""
    folder = array.device.sysfs / "md"
    if block.read_text_or(folder / "suspend_hi", "0") != "0":
        block.write_text(folder / "suspend_hi", "0")


def set_consistency(runner: Runner, array: Array, policy: Consistency) -> None:
    """Change how the running array finds out after a crash what to put right. Raises CommandFailed, DeadlineExceeded.

    Writes are held meanwhile: Linux 6.12.101 and 6.12.117 die in ``ppl_flush_endio`` when the partial parity log goes
    away while its flushes are under way.
    """
    hold_writes(array)
    try:
        runner.run(["mdadm", "--grow", array.device.path, f"--consistency-policy={policy.value}"])
    finally:
        release_writes(array)


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
