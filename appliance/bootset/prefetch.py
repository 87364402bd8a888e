"""Reading parts of a sealed volume into the cache, until they are in it.

bcache keeps a missed read only if it gets a free bucket at once, so that more at a time than it has room for leaves
holes. No more than that is under way therefore, requests become smaller, and then rarer, when what the backend read
does not come into the cache; and a pass is followed by others, until one finds nothing left to fetch. Requests are as
large as that allows: a disk gives much of a run for one seek, and little of it for many.

What a request asked for is in the cache when the backend read nothing while it was under way, whoever else was at
work; then it is not asked for again. The others are: the backend read for them, or for a guest at the same moment.

An I/O priority would be lost in bcache, which reads what it misses with requests of its own. Guests go first by being
asked after instead: while one of their requests is under way, this has one of its own at most, and pauses before each;
and its requests are small until no guest was seen for a while.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from time import monotonic, sleep

from appliance.bootset.extents import PAGE
from appliance.errors import Unhealthy
from appliance.model import KIB, MIB, Extent, joined

LARGEST = 4 * MIB
SMALL = 256 * KIB
SMALLEST = 64 * KIB
"""Bytes of a request: at most; while guests are at work; and where the cache has trouble to keep what comes. Linux
makes bios of 1 MiB of it, and adjacent parts of several become one request of a disk."""

DEPTH, CACHED_DEPTH = 32, 4
"""How many requests are under way at a time at most: of the first pass, most of which the disks have to fetch, as many
as there is room for, because Linux joins only those requests of a disk that wait before it; and of the others, most of
which the cache answers at once."""

MOST_ROOM, LEAST_ROOM = 16 * MIB, 64 * KIB
"""How much is under way at a time at most, because more would be in the way of a guest that comes; and in a cache of a
GiB or less, where bcache has one bucket or two free and takes longer to free the next than a quick backend to fill
it: with a MiB under way up to 62 % of a first pass were dropped there, like this up to 5 %."""

PASSES = 10
"""After so many passes it is left at that. All but the first two read little: what was missed before."""

ENOUGH = 0.005
"""When this share may be missing, or less, a pass was the last."""

GAINED = 0.1
"""A pass after which nothing is known to be in the cache has gained something if the cache took in this share of what
the backend read. Without a cache not even the first one does."""

PAUSE = 0.05
LOOK = 0.002
"""Seconds that a request waits at most for guests whose requests are under way, and from one look at them to the next.
They get the disks; a prefetch in a box that is never idle ends nevertheless."""

QUIET = 1.0
"""Seconds after the last request of a guest that was seen, from which on requests become larger again."""

EASE_ROOMS = 4
EASE_SHARE = 0.1
EASE_LEAST, EASE_MOST = 0.01, 0.08
"""After as many bytes as have room so many times, and after each pass: if more than this share of what the backend read
is not in the cache, requests become smaller. When they cannot, there is a pause of so many seconds before each, twice
as long each time, and half as long when all came."""

SETTLE, SETTLE_MOST = 0.01, 0.2
"""What was read is in the cache a moment after its request has ended: when that becomes no more from one look to the
next, so many seconds apart, it is all there."""

TELL_SECONDS = 0.2
"""From one word about the progress to the next."""


def room(cache: int) -> int:
    """Bytes that may be under way so that a cache of ``cache`` bytes takes them in.

    bcache keeps a 1,024th of its buckets free for those who do not wait, their number rounded up to a power of two
    (``cache_alloc`` in bcache's super.c); it fills up again what was taken while the other half is left, unless that
    is next to nothing.
    """
    half = (1 << (cache - 1).bit_length()) // 2048 if cache > 0 else 0
    return min(half, MOST_ROOM) if half >= MIB else LEAST_ROOM


@dataclass(frozen=True, slots=True)
class Fetched:
    """How a prefetch went: bytes asked for, bytes that the backend read in each pass (for guests too), bytes that may
    be missing in the cache at most, seconds. ``held``: bytes that are no holes, None where that is not known."""

    total: int
    passes: tuple[int, ...]
    left: int
    seconds: float
    held: int | None = None

    @property
    def complete(self) -> bool:
        """Whether all but a negligible rest is in the cache."""
        return self.left <= self.total * ENOUGH


@dataclass
class Surroundings:
    """What a prefetch looks at, so often that it must be cheap. ``flow``: bytes read from the backend and written
    to the cache so far. ``guests``: how many requests of guests are under way. ``room``: bytes that may be under way.
    ``stopped`` ends it. ``gate`` is gone through before each request: it may keep one waiting."""

    flow: Callable[[], tuple[int, int]]
    guests: Callable[[], int]
    room: int = LEAST_ROOM
    stopped: threading.Event = field(default_factory=threading.Event)
    gate: Callable[[], None] = lambda: None


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
    pace = Pace(around.room)

    def told(done: int) -> None:
        tell(len(passes) + 1, total - left + done)

    while len(passes) < PASSES and not around.stopped.is_set():
        told(0)
        before = around.flow()
        doubts = read_once(device, extents, around, told, pace, CACHED_DEPTH if passes else DEPTH)
        read, kept = (now - then for now, then in zip(settled(around.flow), before, strict=True))
        passes.append(read)
        if around.stopped.is_set():
            break
        asked, extents = left, joined(doubt.piece for doubt in doubts)
        left = sum(extent.length for extent in extents)
        # Requests that were under way together are all in doubt for what one of them missed.
        missed = min(read, sum(doubt.missed for doubt in doubts))
        nothing = left == asked and kept < read * GAINED
        if missed <= total * ENOUGH or (nothing and (len(passes) == 1 or pace.size <= SMALLEST)):
            break
        pace.look(read, kept)
    return Fetched(total, tuple(passes), missed, monotonic() - begin)


def settled(flow: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """The flow, when what was read is in the cache."""
    found, end = flow(), monotonic() + SETTLE_MOST
    while True:
        sleep(SETTLE)
        before, found = found, flow()
        if found[1] == before[1] or monotonic() >= end:
            return found


def read_once(
    device: Path,
    extents: Iterable[Extent],
    around: Surroundings,
    tell: Callable[[int], None] = lambda _: None,
    pace: "Pace | None" = None,
    depth: int = CACHED_DEPTH,
) -> tuple[Doubt, ...]:
    """One pass; returns the pieces that are not known to be in the cache. Raises Unhealthy when it cannot be read."""
    direct = os.O_DIRECT if device.is_block_device() else 0
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | direct)
        try:
            return _Pass(fd, Pieces(extents, around.room), around, tell, pace or Pace(around.room)).run(depth)
        finally:
            os.close(fd)
    except OSError as error:
        raise Unhealthy(f"{device} cannot be read", why=str(error), hint="see `hatchery status`") from error


def in_pages(page: memoryview, length: int) -> list[memoryview]:
    """Where to read so many bytes to that nobody looks at: all to the same page.

    Of a bio bcache keeps one MiB at most (BIO_MAX_VECS pages: ``cached_dev_cache_miss`` in its request.c). Linux makes
    bios of as many parts, but pages that happen to follow each other in memory are one part of them: those of a buffer
    would make larger bios, now and then. A page does not follow itself.
    """
    whole, rest = divmod(length, len(page))
    return [page] * whole + ([page[:rest]] if rest else [])


class Pieces:
    """Extents in the order of the disk, handed out in pieces, to as many as there is ``room`` for (bytes)."""

    def __init__(self, extents: Iterable[Extent], room: int) -> None:
        self._left = sorted(extents, reverse=True)
        self._room = room
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, most: Callable[[], int]) -> Iterator[Extent | None]:
        """Wait for room for the next piece, and have it; None when all were taken.

        ``most``: of how many bytes it may be, asked when its turn comes. What is larger than the room goes alone.
        """
        with self._changed:
            while (piece := self._next(most())) is not None and self._used and self._used + piece.length > self._room:
                self._changed.wait()
            if piece is not None:
                self._take(piece)
            # Each who goes on wakes the next: there may be room for one more, or nothing left for anybody.
            self._changed.notify()
        try:
            yield piece
        finally:
            with self._changed:
                self._used -= piece.length if piece is not None else 0
                self._changed.notify()

    def _next(self, most: int) -> Extent | None:
        return Extent(self._left[-1].offset, min(self._left[-1].length, most)) if self._left else None

    def _take(self, piece: Extent) -> None:
        extent = self._left.pop()
        if extent.length > piece.length:
            self._left.append(Extent(piece.end, extent.length - piece.length))
        self._used += piece.length


class Pace:
    """How large requests are, and how long each waits, so that the cache finds room for what comes, and guests find the
    disks free. One for all passes: those that read only what was missed are what the cache had no room for; so what was
    too large once does not come again."""

    def __init__(self, room: int) -> None:
        self._most = min(room, LARGEST)
        self.size = self._most
        self.seconds = 0.0
        self._seen = float("-inf")

    def look(self, fetched: int, kept: int, late: int = 0) -> None:
        """So many bytes came from the backend since the last look, and so many went into the cache; ``late`` more may
        still be on their way."""
        if fetched - kept > fetched * EASE_SHARE + late:
            if self.size > SMALLEST:
                self.size = self._most = max(SMALLEST, self.size // 2)
            else:
                self.seconds = min(EASE_MOST, max(EASE_LEAST, 2 * self.seconds))
        elif self.seconds:
            self.seconds = self.seconds / 2 if self.seconds > EASE_LEAST else 0.0
        elif monotonic() - self._seen >= QUIET:
            self.size = min(self._most, 2 * self.size)

    def give_way(self) -> None:
        """A guest was seen at work."""
        self.size = min(self.size, SMALL)
        self._seen = monotonic()


class _Pass:
    """Some threads that take piece after piece."""

    def __init__(self, fd: int, pieces: Pieces, around: Surroundings, tell: Callable[[int], None], pace: Pace) -> None:
        self._fd = fd
        self._pieces = pieces
        self._around = around
        self._tell = tell
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._done = 0
        self._told = float("-inf")
        self._doubts: list[Doubt] = []
        self._pace = pace
        self._looked = around.flow()
        self._due = self._next_look()

    def _next_look(self) -> int:
        return self._done + EASE_ROOMS * self._around.room

    def run(self, depth: int) -> tuple[Doubt, ...]:
        # Anonymous memory is aligned to a page, as O_DIRECT wants it.
        page = memoryview(mmap(-1, PAGE))
        with ThreadPoolExecutor(depth, thread_name_prefix="prefetch") as pool:
            for each in [pool.submit(self._work, page) for _ in range(depth)]:
                each.result()
        self._tell(self._done)
        return tuple(self._doubts)

    def _work(self, page: memoryview) -> None:
        stopped = self._around.stopped
        while not stopped.is_set():
            self._around.gate()
            with self._pieces.taken(self._size) as piece:
                if piece is None or stopped.is_set():
                    return
                doubt = self._read(piece, in_pages(page, piece.length))
                # Before another has its room: what it learns about the pace counts for that one.
                with self._lock:
                    self._count(doubt)
            stopped.wait(self._pace.seconds)

    def _size(self) -> int:
        if self._around.guests():
            self._pace.give_way()
        return self._pace.size

    def _count(self, doubt: Doubt) -> None:
        if doubt.backend:
            self._doubts.append(doubt)
        self._done += doubt.piece.length
        if self._done >= self._due:
            before, self._looked = self._looked, self._around.flow()
            fetched, kept = (now - then for now, then in zip(self._looked, before, strict=True))
            self._pace.look(fetched, kept, self._around.room // 2)
            self._due = self._next_look()
        if monotonic() - self._told >= TELL_SECONDS:
            self._told = monotonic()
            self._tell(self._done)

    def _read(self, piece: Extent, places: list[memoryview]) -> Doubt:
        guests = self._around.guests
        if not guests():
            return self._judge(piece, places, alone=True)
        self._pace.give_way()
        with self._alone:
            end = monotonic() + PAUSE
            while (busy := guests() > 0) and monotonic() < end and not self._around.stopped.wait(LOOK):
                pass
            return self._judge(piece, places, alone=not busy)

    def _judge(self, piece: Extent, places: list[memoryview], *, alone: bool) -> Doubt:
        before, _ = self._around.flow()
        os.preadv(self._fd, places, piece.offset)
        after, _ = self._around.flow()
        return Doubt(piece, after - before, alone)
