"""Reading parts of a sealed volume into the cache, until they are in it.

bcache keeps a missed read only if it gets a free bucket at once, so that large or many requests leave holes. Requests
are small and few at a time therefore, and rarer when what the backend read does not come into the cache; and a pass is
followed by others, until one finds nothing left to fetch.

What a request asked for is in the cache when the backend read nothing while it was under way, whoever else was at
work; then it is not asked for again. The others are: the backend read for them, or for a guest at the same moment.

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

PASSES = 10
"""After so many passes it is left at that. All but the first two read little: what was missed before."""

ENOUGH = 0.005
"""When this share may be missing, or less, a pass was the last."""

GAINED = 0.1
"""A pass after which nothing is known to be in the cache has gained something if the cache took in this share of what
the backend read. Without a cache none does."""

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
    """How a prefetch went: bytes asked for, bytes that the backend read in each pass (for guests too), bytes that may
    be missing in the cache at most, seconds."""

    total: int
    passes: tuple[int, ...]
    left: int
    seconds: float

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


@dataclass(frozen=True, slots=True)
class Doubt:
    """A piece that may have come from the backend: it read ``backend`` bytes meanwhile. When ``alone``, no guest had a
    request under way as it began, so that they were read for the piece."""

    piece: Extent
    backend: int
    alone: bool

    @property
    def missed(self) -> int:
        """Bytes of it that may be missing, at most."""
        return min(self.piece.length, self.backend)


def requests(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The extents in pieces of at most REQUEST bytes, in the order of the disk."""
    for extent in sorted(extents):
        for offset in range(extent.offset, extent.end, REQUEST):
            yield Extent(offset, min(REQUEST, extent.end - offset))


def fetch(
    device: Path, extents: Sequence[Extent], around: Surroundings, tell: Callable[[int, int], None] = lambda *_: None
) -> Fetched:
    """Read the extents of a device, past the page cache, in passes, until all is in the cache or a pass gained nothing.

    ``tell``: the number of the pass, and bytes that are in the cache or that it has read. Raises Unhealthy when the
    device cannot be read.
    """
    begin = monotonic()
    passes: list[int] = []
    total = left = missed = sum(extent.length for extent in extents)
    ease = Ease()

    def told(done: int) -> None:
        tell(len(passes) + 1, total - left + done)

    while len(passes) < PASSES and not around.stopped.is_set():
        told(0)
        before = around.flow()
        doubts = read_once(device, extents, around, told, ease)
        read, kept = (now - then for now, then in zip(around.flow(), before, strict=True))
        passes.append(read)
        if around.stopped.is_set():
            break
        asked, extents = left, [doubt.piece for doubt in doubts]
        left = sum(extent.length for extent in extents)
        # Requests that were under way together are all in doubt for what one of them missed.
        missed = min(read, sum(doubt.missed for doubt in doubts))
        if missed <= total * ENOUGH or (left == asked and kept < read * GAINED):
            break
    return Fetched(total, tuple(passes), missed, monotonic() - begin)


def read_once(
    device: Path,
    extents: Iterable[Extent],
    around: Surroundings,
    tell: Callable[[int], None] = lambda _: None,
    ease: "Ease | None" = None,
) -> tuple[Doubt, ...]:
    """One pass; returns the pieces that are not known to be in the cache. Raises Unhealthy when it cannot be read."""
    direct = os.O_DIRECT if device.is_block_device() else 0
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | direct)
        try:
            return _Pass(fd, around, tell, ease or Ease()).run(requests(extents))
        finally:
            os.close(fd)
    except OSError as error:
        raise Unhealthy(f"{device} cannot be read", why=str(error), hint="see `hatchery status`") from error


class Ease:
    """How long a request waits, so that the cache finds room for what comes. One for all passes: those that read only
    what was missed are what the cache had no room for."""

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

    def __init__(self, fd: int, around: Surroundings, tell: Callable[[int], None], ease: Ease) -> None:
        self._fd = fd
        self._around = around
        self._tell = tell
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._done = 0
        self._doubts: list[Doubt] = []
        self._ease = ease
        self._looked = around.flow()
        self._due = EASE_BYTES

    def run(self, pieces: Iterator[Extent]) -> tuple[Doubt, ...]:
        with ThreadPoolExecutor(DEPTH, thread_name_prefix="prefetch") as pool:
            for each in [pool.submit(self._work, pieces) for _ in range(DEPTH)]:
                each.result()
        return tuple(self._doubts)

    def _work(self, pieces: Iterator[Extent]) -> None:
        # Anonymous memory is aligned to a page, as O_DIRECT wants it.
        with mmap(-1, REQUEST) as memory, memoryview(memory) as buffer:
            while not self._around.stopped.is_set():
                with self._lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                with buffer[: piece.length] as place:
                    doubt = self._read(piece, place)
                with self._lock:
                    if doubt.backend:
                        self._doubts.append(doubt)
                    self._done += piece.length
                    self._tell(self._done)
                    if self._done >= self._due:
                        before, self._looked = self._looked, self._around.flow()
                        self._ease.look(*(now - then for now, then in zip(self._looked, before, strict=True)))
                        self._due = self._done + EASE_BYTES
                self._around.stopped.wait(self._ease.seconds)

    def _read(self, piece: Extent, place: memoryview) -> Doubt:
        guests = self._around.guests
        if not guests():
            return self._judge(piece, place, alone=True)
        with self._alone:
            end = monotonic() + PAUSE
            while (busy := guests() > 0) and monotonic() < end and not self._around.stopped.wait(LOOK):
                pass
            return self._judge(piece, place, alone=not busy)

    def _judge(self, piece: Extent, place: memoryview, *, alone: bool) -> Doubt:
        before, _ = self._around.flow()
        os.preadv(self._fd, [place], piece.offset)
        after, _ = self._around.flow()
        return Doubt(piece, after - before, alone)
