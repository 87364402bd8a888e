"""Requests of block devices as the kernel's tracepoint ``block_bio_queue`` tells them, in an instance of tracefs.

Sources: ``Documentation/trace/events.rst`` and ``include/trace/events/block.h`` of Linux 6.12. A request of a device
that is built on others is told once for the device itself, before it is mapped, so that a filter by device sees what
the device's user asked for.
"""

import contextlib
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InvalidInput, NotReady, Unhealthy
from appliance.host import block
from appliance.model import KIB, MIB, SECTOR

TRACEFS = Path("/sys/kernel/tracing")
EVENT = "events/block/block_bio_queue"

MEMORY = 64 * MIB
"""Bytes that the buffers of all processors have together; of which each gets between LEAST and MOST."""

LEAST = 256 * KIB
MOST = 4 * MIB

_PIECE = 64 * KIB

_EVENT = re.compile(
    r"\s(?P<seconds>\d+)\.(?P<micros>\d{6}): block_bio_queue: (?P<device>\d+,\d+) (?P<rwbs>[A-Z]+)"
    r" (?P<sector>\d+) \+ (?P<count>\d+) \["
)
_LOST = re.compile(r"^CPU:\d+ \[LOST (?P<count>\d+ )?EVENTS\]")


@dataclass(frozen=True, slots=True)
class Request:
    """A read or a write of a device (``MAJOR:MINOR``): bytes, and microseconds of the monotonic clock."""

    device: str
    write: bool
    offset: int
    length: int
    micros: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What came since the last look, in order of time, and how many events the kernel had no room for (-1: some)."""

    requests: tuple[Request, ...] = ()
    lost: int = 0


def parse(lines: Iterable[str]) -> Batch:
    """Read lines of ``trace_pipe``: ``TASK-PID [CPU] FLAGS SECONDS: block_bio_queue: MAJOR,MINOR RWBS SECTOR + COUNT``.

    Only reads and writes of data: discards and flushes are left out, as is every line of another kind.
    """
    found = []
    lost = 0
    for line in lines:
        if event := _EVENT.search(line):
            # A leading F stands for a flush that goes before it; a flush alone has no sectors.
            kind = event["rwbs"].removeprefix("F")[:1]
            count = int(event["count"])
            if kind in ("R", "W") and count:
                micros = int(event["seconds"]) * 1_000_000 + int(event["micros"])
                device = event["device"].replace(",", ":")
                found.append(Request(device, kind == "W", int(event["sector"]) * SECTOR, count * SECTOR, micros))
        elif gap := _LOST.match(line):
            lost = -1 if lost < 0 or gap["count"] is None else lost + int(gap["count"])
    # Each processor has a buffer of its own, and they are emptied one after the other.
    return Batch(tuple(sorted(found, key=lambda request: request.micros)), lost)


def filter_for(devices: Collection[str]) -> str:
    """The event's filter that lets some devices (``MAJOR:MINOR``) pass. Raises InvalidInput."""
    words = []
    for device in sorted(devices):
        major, colon, minor = device.partition(":")
        if not colon or not major.isdecimal() or not minor.isdecimal():
            raise InvalidInput(f"{device!r} is not the number of a device", why="it is MAJOR:MINOR")
        # The kernel's own encoding (MKDEV), which is not that of os.makedev.
        words.append(f"dev == {int(major) << 20 | int(minor)}")
    return " || ".join(words)


def buffer_bytes(cpus: int) -> int:
    """The buffer of each of so many processors."""
    return max(LEAST, min(MOST, MEMORY // max(cpus, 1)))


class Tracer:
    """An instance of our own, which others who trace do not notice, from the first device that is watched to ``close``.

    To watch another device, or none, takes the kernel a millisecond; to open and to close some fifty. Not for use by
    two threads at once.
    """

    def __init__(self, name: str = "hatchery", root: Path = TRACEFS) -> None:
        self._root = root
        self._folder = root / "instances" / name
        self._pipe: int | None = None
        self._tail = ""
        self._watched: frozenset[str] = frozenset()

    def watch(self, devices: Collection[str]) -> None:
        """Record the requests of these devices (``MAJOR:MINOR``) from now on, and of no others.

        Raises NotReady where the kernel cannot be asked, Unhealthy with its reason.
        """
        wanted = frozenset(devices)
        if wanted == self._watched:
            return
        if self._pipe is None:
            self._open()
        if wanted:
            # It replaces the one before in one step, so that what goes on being watched has no gap.
            block.write_text(self._folder / EVENT / "filter", filter_for(wanted))
        if not wanted or not self._watched:
            block.write_text(self._folder / EVENT / "enable", "1" if wanted else "0")
        self._watched = wanted

    def read(self) -> Batch:
        """What came since the last look; does not wait. Raises Unhealthy."""
        if self._pipe is None:
            return Batch()
        text = self._tail
        while True:
            try:
                piece = os.read(self._pipe, _PIECE)
            except BlockingIOError:
                break
            except OSError as error:
                raise Unhealthy("the requests of clones cannot be recorded any more", why=str(error)) from error
            if not piece:
                break
            text += piece.decode("utf-8", "replace")
        whole, newline, self._tail = text.rpartition("\n")
        return parse((whole + newline).splitlines())

    def close(self) -> None:
        """Stop, and take the instance away."""
        self._watched = frozenset()
        self._tail = ""
        if self._pipe is not None:
            # While it is open, the instance cannot go.
            os.close(self._pipe)
            self._pipe = None
        self.clean()

    def clean(self) -> None:
        """Take away an instance that a former process left. Raises Unhealthy while somebody reads from it."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self._folder.rmdir()
        except OSError as error:
            raise Unhealthy(f"{self._folder} cannot be removed", why=error.strerror or str(error)) from error

    def check(self) -> None:
        """Raise NotReady where requests cannot be recorded at all."""
        if not (self._root / EVENT).is_dir():
            raise NotReady(
                "requests cannot be recorded here",
                why=f"{self._root / EVENT} is not there",
                hint="the kernel needs block tracepoints, and tracefs must be mounted: "
                "`systemctl start sys-kernel-tracing.mount`",
            )

    def _open(self) -> None:
        self.check()
        self.clean()
        try:
            self._folder.mkdir()
        except OSError as error:
            raise NotReady("requests cannot be recorded here", why=f"{self._folder}: {error.strerror}") from error
        try:
            block.write_text(self._folder / "buffer_size_kb", str(buffer_bytes(os.cpu_count() or 1) // KIB))
            # Time that can be compared with ours, and between processors.
            block.write_text(self._folder / "trace_clock", "mono")
            self._pipe = os.open(self._folder / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException as error:
            self.clean()
            if isinstance(error, OSError):
                raise NotReady("requests cannot be recorded here", why=error.strerror or str(error)) from error
            raise
