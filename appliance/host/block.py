"""Block devices as sysfs, /proc and their own first sectors show them. Sizes and offsets in bytes."""

import errno
import json
import mmap
import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

from appliance import wait
from appliance.errors import CannotTell, NotFound, Unhealthy
from appliance.host import glance
from appliance.model import MIB, SECTOR
from appliance.run import Runner

_SYS = Path("/sys")
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Signature:
    """Something that ``wipefs`` recognised on a device: what it is, where it is, and its uuid and label."""

    kind: str
    offset: int
    uuid: str = ""
    label: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.label})" if self.label else self.kind


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a device has done since the kernel knows it: requests, bytes, milliseconds with a request under way."""

    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    discards: int
    busy_millis: int


@dataclass(frozen=True, slots=True)
class Times:
    """How many requests a device has finished, and the milliseconds that they took together."""

    reads: int
    read_millis: int
    writes: int
    write_millis: int


@dataclass(frozen=True, slots=True)
class Device:
    """A block device of the kernel: its name (``sda``), number and facts that do not change."""

    name: str
    number: str
    size: int
    logical_block: int
    parent: str | None
    start: int

    @property
    def path(self) -> Path:
        """Its node."""
        return Path("/dev") / self.name

    @property
    def sysfs(self) -> Path:
        """Its folder in sysfs."""
        return _SYS / "class/block" / self.name


def read_text(path: Path) -> str:
    """A sysfs or /proc file without its newline. Raises CannotTell."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError as error:
        raise CannotTell(f"cannot read {path}", why=error.strerror or str(error)) from error


def read_text_or(path: Path, default: str = "") -> str:
    """A sysfs file that not every device has."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return default


def write_text(path: Path, text: str) -> None:
    """Write to a sysfs file. Raises Unhealthy with the kernel's reason."""
    try:
        path.write_text(text, encoding="ascii")
    except OSError as error:
        raise Unhealthy(f"cannot write {text!r} to {path}", why=error.strerror or str(error)) from error


def find(path: str | Path) -> Device | None:
    """The device behind a node or a link to one, or None when there is no such device."""
    try:
        found = Path(path).stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise CannotTell(f"cannot look at {path}", why=error.strerror or str(error)) from error
    if not stat.S_ISBLK(found.st_mode):
        return None
    return by_number(f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}")


def get(path: str | Path) -> Device:
    """The device behind a node. Raises NotFound."""
    device = find(path)
    if device is None:
        raise NotFound(f"{path} is not there", why="no such block device", hint="check the cabling, or the name given")
    return device


@glance.remembered
def by_number(number: str) -> Device | None:
    """The device with the number ``MAJOR:MINOR``, or None."""
    folder = _SYS / "dev/block" / number
    try:
        real = folder.resolve(strict=True)
    except OSError:
        return None
    return _describe(real)


@glance.remembered
def by_name(name: str) -> Device | None:
    """The device that the kernel calls ``name``, or None."""
    try:
        real = (_SYS / "class/block" / name).resolve(strict=True)
    except OSError:
        return None
    return _describe(real)


def _describe(real: Path) -> Device | None:
    is_part = (real / "partition").exists()
    disk = real.parent if is_part else real
    try:
        return Device(
            name=real.name.replace("!", "/"),
            number=(real / "dev").read_text().strip(),
            size=int((real / "size").read_text()) * SECTOR,
            logical_block=int((disk / "queue/logical_block_size").read_text()),
            parent=disk.name if is_part else None,
            start=int((real / "start").read_text()) * SECTOR if is_part else 0,
        )
    except OSError:
        return None


@glance.remembered
def partitions(disk: Device) -> tuple[Device, ...]:
    """The partitions that the kernel knows on ``disk``, in order of their start."""
    found = [by_name(child.name) for child in disk.sysfs.iterdir() if (child / "partition").exists()]
    return tuple(sorted((part for part in found if part is not None), key=lambda part: part.start))


def holders(device: Device) -> tuple[str, ...]:
    """Names of the devices that are built on this one."""
    folder = device.sysfs / "holders"
    return tuple(sorted(child.name for child in folder.iterdir())) if folder.is_dir() else ()


def below(device: Device) -> frozenset[str]:
    """Names of the device itself and of all that it is built on, partitions' disks included."""
    found: set[str] = set()
    todo = [device.name]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        known = by_name(name)
        if known is None:
            continue
        if known.parent:
            todo.append(known.parent)
        slaves = known.sysfs / "slaves"
        if slaves.is_dir():
            todo.extend(child.name for child in slaves.iterdir())
    return frozenset(found)


def statistics(device: Device) -> Statistics:
    """What the device has done, exact at this moment. Raises CannotTell."""
    return parse_statistics(read_text(device.sysfs / "stat"))


class OpenStatistics:
    """The statistics of a device for those who ask hundreds of times a second: each time is one system call."""

    def __init__(self, device: Device) -> None:
        """Raises CannotTell."""
        self._path = device.sysfs / "stat"
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CannotTell(f"cannot read {self._path}", why=error.strerror or str(error)) from error
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def read(self) -> Statistics:
        """What the device has done, exact at this moment. Raises CannotTell when it has gone."""
        try:
            text = os.pread(self._fd, _PAGE, 0)
        except OSError as error:
            raise CannotTell(f"cannot read {self._path}", why=error.strerror or str(error)) from error
        return parse_statistics(text.decode("ascii", "replace"))


def every_statistics() -> dict[str, tuple[str, Statistics]]:
    """What all devices have done, by their number ``MAJOR:MINOR``, with their names. Raises CannotTell."""
    return parse_every_statistics(read_text(Path("/proc/diskstats")))


def parse_every_statistics(text: str) -> dict[str, tuple[str, Statistics]]:
    """Read ``/proc/diskstats`` (Documentation/admin-guide/iostats.rst). Raises CannotTell."""
    found = {}
    for line in text.splitlines():
        major, minor, name, rest = (*line.split(None, 3), "", "", "", "")[:4]
        found[f"{major}:{minor}"] = (name.replace("!", "/"), parse_statistics(rest))
    return found


def times(device: Device) -> Times:
    """How long the device has taken for its requests so far. Raises CannotTell."""
    return parse_times(read_text(device.sysfs / "stat"))


def inflight(device: Device) -> int:
    """Requests that are under way."""
    return sum(int(word) for word in read_text_or(device.sysfs / "inflight", "0").split())


def parse_statistics(text: str) -> Statistics:
    """Read ``/sys/block/*/stat`` (Documentation/block/stat.rst). Raises CannotTell."""
    words = text.split()
    try:
        numbers = [int(word) for word in words]
        discards = numbers[11] if len(numbers) > 11 else 0
        busy = numbers[9]  # io_ticks: however many requests there are, their time counts once
        return Statistics(numbers[0], numbers[2] * SECTOR, numbers[4], numbers[6] * SECTOR, discards, busy)
    except (IndexError, ValueError) as error:
        raise CannotTell("block statistics cannot be read", why=repr(text)) from error


def parse_times(text: str) -> Times:
    """Read the times in ``/sys/block/*/stat``. Raises CannotTell."""
    words = text.split()
    try:
        return Times(*(int(words[place]) for place in (0, 3, 4, 7)))
    except (IndexError, ValueError) as error:
        raise CannotTell("block statistics cannot be read", why=repr(text)) from error


def serials(device: Device, given: str = "") -> frozenset[str]:
    """All serial numbers that a disk is known by.

    From sysfs and udev; where neither has one, the name under /dev/disk/by-id that it was ``given`` by, without its
    bus.
    """
    found = {
        read_text_or(device.sysfs / "serial"),
        read_text_or(device.sysfs / "device/serial"),
        parse_vpd80(_bytes(device.sysfs / "device/vpd_pg80")),
        *parse_udev_serials(read_text_or(Path("/run/udev/data") / f"b{device.number}")),
    }
    known = {serial for serial in found if serial and serial != "(null)"}
    if not known and given.startswith("/dev/disk/by-id/"):
        known.add(Path(given).name.partition("-")[2])
    return frozenset(known)


def parse_vpd80(page: bytes) -> str:
    """The serial number in SCSI's vital product data page 80h: 4 bytes of header, then text."""
    return page[4:].decode("ascii", "ignore").strip("\0 ") if len(page) > 4 else ""


def parse_udev_serials(record: str) -> tuple[str, ...]:
    """Serial numbers in a record of udev's database."""
    keys = ("E:ID_SERIAL_SHORT=", "E:ID_SERIAL=", "E:ID_SCSI_SERIAL=")
    return tuple(line.partition("=")[2].strip() for line in record.splitlines() if line.startswith(keys))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def signatures(runner: Runner, device: Device) -> tuple[Signature, ...]:
    """What ``wipefs`` recognises on the device; it changes nothing."""
    done = runner.run(["wipefs", "--no-act", "--json", device.path])
    return parse_signatures(done.stdout)


def parse_signatures(text: str) -> tuple[Signature, ...]:
    """Read the output of ``wipefs --json``. Raises CannotTell."""
    if not text.strip():
        return ()
    try:
        lines = json.loads(text)["signatures"]
        return tuple(
            Signature(line["type"], int(line["offset"], 16), line.get("uuid") or "", line.get("label") or "")
            for line in lines
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CannotTell("the signatures on a device cannot be read", why=text[:200]) from error


def read(path: Path, offset: int, length: int) -> bytes:
    """Read from a device past the page cache, which does not see what the kernel writes below it.

    ``offset`` and ``length`` are multiples of 4096. Raises CannotTell.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, length) as buffer:
                count = os.preadv(fd, [buffer], offset)
                return buffer[:count]
        finally:
            os.close(fd)
    except OSError as error:
        raise CannotTell(f"cannot read {path}", why=error.strerror or str(error), hint="is the disk dying?") from error


def zero(path: Path, offset: int, length: int) -> None:
    """Write zeros and flush them. Raises Unhealthy."""
    chunk = bytes(MIB)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            while length > 0:
                done = os.pwrite(fd, chunk[: min(length, MIB)], offset)
                offset, length = offset + done, length - done
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise Unhealthy(f"cannot write to {path}", why=error.strerror or str(error)) from error


def settle(runner: Runner) -> None:
    """Wait until udev, where it runs, has worked off its events: it opens devices and reads partition tables again."""
    if Path("/run/udev/control").exists():
        runner.run(["udevadm", "settle", "--timeout=30"], timeout=40, check=False)


def await_node(path: Path, deadline: float = 15.0) -> Device:
    """Wait until a device's node is there. Raises DeadlineExceeded."""
    return wait.until(lambda: find(path), f"{path} to appear", deadline=deadline)
