"""A cache before a volume, as os.preadv and the block statistics show it."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence

import pytest


class ModelCache:
    """It keeps what ``keeps`` says, of the offset of a read, its length, and how often it was missed."""

    def __init__(self, patch: pytest.MonkeyPatch, keeps: Callable[[int, int, int], bool] = lambda *_: True) -> None:
        self.read = self.written = self.asked = 0
        self.lengths: list[int] = []
        """Of all that was read, in order."""
        self.missed: Counter[int] = Counter()
        self.held: set[int] = set()
        """Pages, by offset."""
        self._keeps = keeps
        self._lock = threading.Lock()
        self._preadv = os.preadv
        patch.setattr(os, "preadv", self._read)

    def _read(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        done = self._preadv(fd, buffers, offset)
        pages = set(range(offset // 4096 * 4096, offset + done, 4096))
        with self._lock:
            self.asked += 1
            self.lengths.append(done)
            missing = pages - self.held
            if missing:
                self.missed[offset] += 1
                self.read += len(missing) * 4096
                if self._keeps(offset, done, self.missed[offset]):
                    self.held |= pages
                    self.written += len(missing) * 4096
        return done

    def flow(self) -> tuple[int, int]:
        """Bytes read from the backend, bytes written to the cache."""
        return self.read, self.written
