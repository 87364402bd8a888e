"""Reading parts of a sealed volume into the cache, until they are in it.

bcache keeps a missed read only if it gets a free bucket at once, so that large or many requests leave holes. Requests
are small and few at a time therefore, and rarer when what the backend read does not come into the cache; and a pass is
followed by others, which cost the backend nothing but the holes, until one finds nothing left to fetch.

An I/O priority would be lost in bcache, which reads what it misses with requests of its own. Guests go first by being
asked after instead: while one of their requests is under way, this has one of its own at most, and pauses before each.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from time import monotonic

from appliance.errors import Unhealthy
from appliance.model import KIB, Extent

REQUEST = 256 * KIB
DEPTH = 4
"""Bytes of a request, and how many are under way at a time: what bcache takes, and hard disks are busy with."""

PASSES = 5
"""After so many passes it is left at that."""

ENOUGH = 0.005
"""A pass that still took this share from the backend, or less, was the last."""

PAUSE = 0.05
LOOK = 0.002
"""Seconds that a request waits at most for guests whose requests are under way, and from one look at them to the next.
They get the disks; a prefetch in a box that is never idle ends nevertheless."""


EASE_BYTES = 512 * KIB
EASE_SHARE = 0.1
EASE_LEAST, EASE_MOST = 0.01, 0.08
"""After so many bytes: if more than this share of what the backend read is not in the cache, there is a pause of
so many seconds before each request, twice as long each time, and half as long when all came."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a prefetch went: bytes asked for, bytes that each pass took from the backend, seconds."""

    total: int
    passes: tuple[int, ...]
    seconds: float

    @property
    def left(self) -> int:
        """Bytes that the last pass still took from the backend: at most so many may be missing."""
        return self.passes[-1]

    @property
    def complete(self) -> bool:
        """Whether all but a negligible rest is in the cache."""
        return self.left <= self.total * ENOUGH


@dataclass
class Surroundings:
    """What a prefetch looks at, so often that it must be cheap. ``flow``: bytes read from the backend and written
    to the cache so far. ``guests``: how many requests of guests are under way. ``stopped`` ends it."""

    flow: Callable[[], tuple[int, int]]
    guests: Callable[[], int]
    stopped: threading.Event = field(default_factory=threading.Event)


def requests(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The extents in pieces of at most REQUEST bytes, in the order of the disk."""
    for extent in sorted(extents):
        for offset in range(extent.offset, extent.end, REQUEST):
            yield Extent(offset, min(REQUEST, extent.end - offset))


def fetch(
    device: Path, extents: Sequence[Extent], around: Surroundings, tell: Callable[[int, int], None] = lambda *_: None
) -> Fetched:
    """Read the extents of a device, past the page cache, in passes. ``tell``: the number of the pass, its bytes so far.

    Raises Unhealthy when the device cannot be read.
    """
    begin = monotonic()
    passes: list[int] = []
    total = sum(extent.length for extent in extents)
    while len(passes) < PASSES and not around.stopped.is_set():
        before, _ = around.flow()
        read_once(device, extents, around, lambda done: tell(len(passes) + 1, done))
        passes.append(around.flow()[0] - before)
        if passes[-1] <= total * ENOUGH:
            break
    return Fetched(total, tuple(passes) or (total,), monotonic() - begin)


def read_once(
    device: Path, extents: Iterable[Extent], around: Surroundings, tell: Callable[[int], None] = lambda _: None
) -> None:
    """One pass. Raises Unhealthy when the device cannot be read."""
    direct = os.O_DIRECT if device.is_block_device() else 0
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | direct)
        try:
            _Pass(fd, around, tell).run(requests(extents))
        finally:
            os.close(fd)
    except OSError as error:
        raise Unhealthy(f"{device} cannot be read", why=str(error), hint="see `hatchery status`") from error


class Ease:
    """How long a request waits, so that the cache finds room for what comes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def look(self, fetched: int, kept: int) -> None:
        """So many bytes came from the backend since the last look, and so many went into the cache."""
        if fetched - kept > fetched * EASE_SHARE:
            self.seconds = min(EASE_MOST, max(EASE_LEAST, 2 * self.seconds))
        else:
            self.seconds = self.seconds / 2 if self.seconds > EASE_LEAST else 0.0


class _Pass:
    """Some threads that take piece after piece."""

    def __init__(self, fd: int, around: Surroundings, tell: Callable[[int], None]) -> None:
        self._fd = fd
        self._around = around
        self._tell = tell
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._done = 0
        self._ease = Ease()
        self._looked = around.flow()
        self._due = EASE_BYTES

    def run(self, pieces: Iterator[Extent]) -> None:
        with ThreadPoolExecutor(DEPTH, thread_name_prefix="prefetch") as pool:
            for each in [pool.submit(self._work, pieces) for _ in range(DEPTH)]:
                each.result()

    def _work(self, pieces: Iterator[Extent]) -> None:
        # Anonymous memory is aligned to a page, as O_DIRECT wants it.
        with mmap(-1, REQUEST) as memory, memoryview(memory) as buffer:
            while not self._around.stopped.is_set():
                with self._lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                with buffer[: piece.length] as place:
                    self._read(piece, place)
                with self._lock:
                    self._done += piece.length
                    self._tell(self._done)
                    if self._done >= self._due:
                        before, self._looked = self._looked, self._around.flow()
                        self._ease.look(*(now - then for now, then in zip(self._looked, before, strict=True)))
                        self._due = self._done + EASE_BYTES
                self._around.stopped.wait(self._ease.seconds)

    def _read(self, piece: Extent, place: memoryview) -> None:
        guests = self._around.guests
        if not guests():
            os.preadv(self._fd, [place], piece.offset)
            return
        with self._alone:
            end = monotonic() + PAUSE
            while guests() and monotonic() < end and not self._around.stopped.wait(LOOK):
                pass
            os.preadv(self._fd, [place], piece.offset)
