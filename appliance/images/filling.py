"""Copying a disk into its own volume while others read it already: what matters first, then all of it in order.

The device shows what is in the volume, and where nothing is, what another server has (``store.fetching``). So to fetch
a piece is to read it here and to write it back, whole blocks of the pool at a time; what was written is never asked of
the server again. Blocks of zeros are not written: the volume reads as zeros there when nothing is behind it any more.
"""

import errno
import hashlib
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import NoSpace, NotReady, Unhealthy
from appliance.model import KIB, MIB, Extent

BLOCK = 64 * KIB
"""Blocks of the pool: one that is written whole needs nothing from the server any more."""

PIECE = 256 * KIB
"""Bytes that are read at once; a guest's read waits for those that are under way."""

UNDER_WAY = 4
"""Pieces that are read at the same time: in 1 MiB, a server that answers after 10 ms gives 100 MiB a second."""

SAVE_SECONDS, SAVE_BYTES = 10.0, 256 * MIB
"""After so many seconds, or bytes, what came is made durable, and told: a start goes on behind it."""

_ZEROS = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the copying calls.

    ``before`` each piece, and it may raise to end the copying; ``told`` of bytes that are in; ``saved`` of the byte
    before which all is in and durable.
    """

    before: Callable[[], None]
    told: Callable[[int], None]
    saved: Callable[[int], None]


class Filling:
    """One copying of ``size`` bytes; all before ``begin`` is in already, and read again for the digest alone."""

    def __init__(self, device: Path, size: int, begin: int, hooks: Hooks) -> None:
        self._device = device
        self._size = size
        self._saved = begin
        self._hooks = hooks
        self._in = bytearray(-(-size // BLOCK))
        self._in[: begin // BLOCK] = b"\1" * (begin // BLOCK)
        self._fetched = begin // BLOCK * BLOCK
        self._at = 0
        self._digest = hashlib.sha256()

    def run(self, first: Iterable[Extent]) -> str:
        """Fetch ``first``, then all; the SHA-256 of the disk. One that broke off goes on where it was.

        Raises NotReady, NoSpace, Unhealthy, what hooks raise.
        """
        due = time.monotonic() + SAVE_SECONDS
        with self._open() as fd:
            for offset, piece in self._pieces(fd, self._places(first)):
                self._take(fd, offset, piece)
            for offset, piece in self._pieces(fd, range(self._at, self._size, PIECE)):
                self._take(fd, offset, piece)
                self._digest.update(piece)
                self._at = offset + len(piece)
                if self._at - self._saved >= SAVE_BYTES or (self._at > self._saved and time.monotonic() >= due):
                    _sync(fd)
                    self._saved, due = self._at, time.monotonic() + SAVE_SECONDS
                    self._hooks.saved(self._saved)
            _sync(fd)
        return self._digest.hexdigest()

    @contextmanager
    def _open(self) -> Iterator[int]:
        direct = os.O_DIRECT if self._device.is_block_device() else 0
        try:
            fd = os.open(self._device, os.O_RDWR | os.O_CLOEXEC | direct)
        except OSError as error:
            raise NotReady(
                f"{self._device} cannot be opened",
                why=str(error),
                hint="is the other server up, and is the network well?",
            ) from error
        try:
            yield fd
        finally:
            os.close(fd)

    def _places(self, first: Iterable[Extent]) -> Iterator[int]:
        """Where the pieces begin in which the extents are, each once, in the order of the disk; not what is in."""
        found = {
            place
            for extent in first
            for place in range(extent.offset // PIECE * PIECE, min(extent.end, self._size), PIECE)
        }
        return iter([place for place in sorted(found) if self._fresh(place, min(PIECE, self._size - place))])

    def _pieces(self, fd: int, places: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Pieces in the order of ``places``, some of them read ahead."""
        reads: deque[tuple[int, Future[bytes]]] = deque()
        pool = ThreadPoolExecutor(UNDER_WAY, thread_name_prefix="fetch")
        try:
            for place in places:
                self._hooks.before()
                reads.append((place, pool.submit(_read, fd, place, min(PIECE, self._size - place))))
                if len(reads) == UNDER_WAY:
                    yield _taken(*reads.popleft())
            while reads:
                yield _taken(*reads.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _fresh(self, offset: int, length: int) -> list[int]:
        """The blocks of a piece that are not in yet."""
        blocks = range(offset // BLOCK, -(-(offset + length) // BLOCK))
        return [block for block in blocks if not self._in[block]]

    def _take(self, fd: int, offset: int, piece: bytes) -> None:
        """Write those blocks of a piece that are not in yet and hold something."""
        for block in self._fresh(offset, len(piece)):
            begin = block * BLOCK - offset
            data = piece[begin : begin + BLOCK]
            if data != _ZEROS[: len(data)]:
                _write(fd, block * BLOCK, data)
            self._in[block] = 1
            self._fetched += len(data)
            self._hooks.told(self._fetched)


def _taken(place: int, read: "Future[bytes]") -> tuple[int, bytes]:
    return place, read.result()


def _read(fd: int, offset: int, length: int) -> bytes:
    # Anonymous memory is aligned to a page, as O_DIRECT wants it.
    with mmap.mmap(-1, PIECE) as memory, memoryview(memory) as view:
        done = 0
        while done < length:
            with view[done:length] as rest:
                try:
                    count = os.preadv(fd, [rest], offset + done)
                except OSError as error:
                    raise NotReady(
                        "the disk cannot be read any further",
                        why=str(error),
                        hint="is the other server up, and is the network well?",
                    ) from error
            if not count:
                raise Unhealthy(
                    "the disk ends too early",
                    why=f"at byte {offset + done}",
                    hint="is the other server's disk still the one that it was?",
                )
            done += count
        return bytes(view[:length])


def _write(fd: int, offset: int, data: bytes) -> None:
    with mmap.mmap(-1, BLOCK) as memory, memoryview(memory) as view:
        view[: len(data)] = data
        done = 0
        while done < len(data):
            with view[done : len(data)] as rest:
                try:
                    done += os.pwrite(fd, rest, offset + done)
                except OSError as error:
                    raise _explain(error) from error


def _sync(fd: int) -> None:
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise _explain(error) from error


def _explain(error: OSError) -> NoSpace | Unhealthy:
    if error.errno == errno.ENOSPC:
        return NoSpace("the pool is full", why="a block that was fetched could not be written")
    return Unhealthy("what was fetched cannot be written", why=str(error), hint="see `hatchery status`")
