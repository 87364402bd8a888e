"""Mounted file systems."""

from dataclasses import dataclass
from pathlib import Path

from appliance.host import block
from appliance.host.block import Device
from appliance.run import Runner


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo: the device's number, where it is mounted, its type and source."""

    number: str
    target: str
    kind: str
    source: str


def parse(text: str) -> tuple[Mount, ...]:
    """Read /proc/self/mountinfo (proc(5)); blanks in paths are undone."""
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        words, rest = left.split(), right.split()
        if len(words) >= 5 and len(rest) >= 2:
            target = words[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
            found.append(Mount(words[2], target, rest[0], rest[1]))
    return tuple(found)


def mounts() -> tuple[Mount, ...]:
    """What is mounted now. Raises CannotTell."""
    return parse(block.read_text(Path("/proc/self/mountinfo")))


def mounted_at(target: Path) -> Mount | None:
    """The file system that is mounted at ``target``, or None."""
    found = [mount for mount in mounts() if mount.target == str(target)]
    return found[-1] if found else None


def targets(device: Device) -> tuple[str, ...]:
    """Where the device is mounted, swap included."""
    places = [mount.target for mount in mounts() if mount.number == device.number]
    for line in block.read_text_or(Path("/proc/swaps")).splitlines()[1:]:
        swap = block.find(line.split()[0]) if line.split() else None
        if swap is not None and swap.number == device.number:
            places.append("swap")
    return tuple(places)


def mount(runner: Runner, device: Path, target: Path, options: str) -> None:
    """Mount an ext4 file system. Raises CommandFailed."""
    target.mkdir(mode=0o755, parents=True, exist_ok=True)
    runner.run(["mount", "-t", "ext4", "-o", options, device, target])


def unmount(runner: Runner, target: Path, *, deadline: float) -> None:
    """Unmount. Raises CommandFailed, DeadlineExceeded."""
    runner.run(["umount", target], timeout=deadline)
