"""The kernel's tracer as a model: tells of requests that a test makes, of devices that are watched."""

import threading
import time
from collections.abc import Collection

from appliance.errors import HatcheryError
from appliance.host.trace import Batch, Request
from appliance.model import KIB


def now() -> int:
    """Microseconds of the monotonic clock."""
    return time.monotonic_ns() // 1000


class ModelTracer:
    """``error`` is raised by whatever is asked of it."""

    def __init__(self) -> None:
        self.watched: frozenset[str] = frozenset()
        self.waiting: list[Request] = []
        self.lost = 0
        self.closed = 0
        self.error: HatcheryError | None = None
        self._lock = threading.RLock()

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def watch(self, devices: Collection[str]) -> None:
        self.check()
        self.watched = frozenset(devices)

    def read(self) -> Batch:
        self.check()
        with self._lock:
            batch = Batch(tuple(sorted(self.waiting, key=lambda request: request.micros)), self.lost)
            self.waiting, self.lost = [], 0
        return batch

    def close(self) -> None:
        self.closed += 1
        self.watched = frozenset()

    def request(self, device: str, offset: int, length: int = 4 * KIB, *, write: bool = False, ago: float = 0) -> None:
        """A guest asks for something, ``ago`` seconds before now; heard if somebody listens."""
        if device not in self.watched:
            return
        with self._lock:
            self.waiting.append(Request(device, write, offset, length, now() - int(ago * 1_000_000)))

    def boot(self, device: str, *, megabytes: int = 2, ago: float = 150) -> None:
        """A guest boots: reads so much of the begin of its disk in pieces of 64 KiB, a millisecond each."""
        with self._lock:
            for number in range(16 * megabytes):
                self.request(device, number * 64 * KIB, 64 * KIB, ago=ago - number / 1000)
