"""Writing an image onto a volume as it comes in: sequentially, without a copy elsewhere, leaving out zeros.

A new thin volume reads as zeros where nothing was written, so blocks of zeros need not be.
"""

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from appliance.errors import BadImage, NoSpace, Unhealthy
from appliance.model import KIB, MIB, SECTOR

BLOCK = 64 * KIB
"""Zeros are left out in pieces of this size."""

BUFFER = 1 * MIB
"""Largest single write."""

_ZEROS = bytes(BLOCK)


class VolumeWriter:
    """Writes a stream to a volume from its beginning. Use as a context manager; ``finish`` makes it durable.

    Block devices are written with O_DIRECT: the bytes go through the cache under the pool, not through the page
    cache.
    """

    def __init__(self, path: Path, size: int) -> None:
        """Open ``path``, which takes at most ``size`` bytes."""
        self._size = size
        self._taken = 0
        self._flushed = 0
        self._fill = 0
        self.written = 0
        """Bytes that were really written, zeros left out."""
        # Anonymous memory is aligned to a page, as O_DIRECT wants it.
        self._buffer = mmap.mmap(-1, BUFFER)
        direct = os.O_DIRECT if path.is_block_device() else 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | direct)

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. Raises BadImage when they are more than fit, NoSpace when the pool is full."""
        self._taken += len(chunk)
        if self._taken > self._size:
            raise BadImage(
                "the image is longer than announced",
                why=f"more than {self._size} bytes came",
                hint="state its exact size",
            )
        view = memoryview(chunk)
        while view:
            room = min(len(view), BUFFER - self._fill)
            self._buffer[self._fill : self._fill + room] = view[:room]
            self._fill += room
            view = view[room:]
            if self._fill == BUFFER:
                self._flush()

    def _flush(self) -> None:
        # The last sector is filled up with zeros: O_DIRECT writes whole ones.
        end = -(-self._fill // SECTOR) * SECTOR
        self._buffer[self._fill : end] = bytes(end - self._fill)
        start = 0
        while start < end:
            stop = self._run_of_data(start, end)
            if stop == start:
                start = min(start + BLOCK, end)
                continue
            self._write_all(start, stop)
            start = stop
        self._flushed += end
        self._fill = 0

    def _run_of_data(self, start: int, end: int) -> int:
        """End of the run of blocks from ``start`` on that hold something; ``start`` when the first is all zeros."""
        stop = start
        while stop < end:
            piece = self._buffer[stop : min(stop + BLOCK, end)]
            if piece == _ZEROS[: len(piece)]:
                break
            stop += len(piece)
        return stop

    def _write_all(self, start: int, stop: int) -> None:
        with memoryview(self._buffer) as whole:
            while start < stop:
                with whole[start:stop] as piece:
                    try:
                        done = os.pwrite(self._fd, piece, self._flushed + start)
                    except OSError as error:
                        raise _explain(error) from error
                start += done
                self.written += done

    def finish(self) -> None:
        """Write what is left and make all of it durable. Raises NoSpace when the pool is full."""
        if self._fill:
            self._flush()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise _explain(error) from error

    def close(self) -> None:
        """Let go of the volume."""
        self._buffer.close()
        os.close(self._fd)

    def __enter__(self) -> "VolumeWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _explain(error: OSError) -> Exception:
    # dm-thin answers writes that find no free block with ENOSPC (error_if_no_space).
    if error.errno == errno.ENOSPC:
        return NoSpace("the pool is full", why="a block of the image could not be written", hint="remove clones first")
    return Unhealthy("the image cannot be written to its volume", why=str(error), hint="see `hatchery status`")


def read_at(fd: int) -> Callable[[int, int], bytes]:
    """A function that reads ``length`` bytes at ``offset`` of an open file, fewer at its end."""

    def read(offset: int, length: int) -> bytes:
        parts = []
        while length and (part := os.pread(fd, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    return read
