"""Latencies of whole disks, always on, from block statistics alone: coarse, and free.

The kernel adds up how many requests a disk has finished and how long they took together
(``Documentation/block/stat.rst``: fields 1, 4, 5, 8). Between two looks that gives a mean, and all requests between
them are counted as having taken that long; reads and writes each on their own. So a histogram made of it shows how a
disk does over time, and hides a slow request among fast ones: a measurement traces each (``biolatency``).
"""

from collections.abc import Iterable, Mapping

from appliance.host import block
from appliance.host.block import Device, Times
from appliance.model import Histogram

CLEAR_MILLIS = 8
"""The kernel tells milliseconds. With fewer between two looks a mean would be off by more than a power of two can
bear, so the next look is waited for."""

PATIENT_LOOKS = 30
"""After so many looks it is taken as it is."""


class Latency:
    """One disk's reads, or its writes."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._millis = 0
        self._seen: tuple[int, int] | None = None
        self._looks = 0

    def look(self, requests: int, millis: int) -> None:
        """Be told what the kernel has counted so far."""
        if self._seen is None or requests < self._seen[0] or millis < self._seen[1]:
            # The first look, or another disk has the name now.
            self._seen, self._looks = (requests, millis), 0
            return
        more, took = requests - self._seen[0], millis - self._seen[1]
        self._looks = self._looks + 1 if more else 0
        if not more or (took < CLEAR_MILLIS and self._looks < PATIENT_LOOKS):
            return
        # Less than a millisecond is half of one, on average.
        slot = max(1, int(max(took, 0.5) * 1000 / more)).bit_length() - 1
        self._counts.extend([0] * (slot + 1 - len(self._counts)))
        self._counts[slot] += more
        self._millis += took
        self._seen, self._looks = (requests, millis), 0

    @property
    def histogram(self) -> Histogram:
        """What was counted since the first look."""
        return Histogram(tuple(self._counts), self._millis / 1000)


class Latencies:
    """All disks'. Thread-safe enough for one that looks and others that read."""

    def __init__(self) -> None:
        self._disks: dict[str, tuple[Latency, Latency]] = {}

    def look(self, disks: Iterable[Device]) -> None:
        """Look at disks; those that cannot be asked any more keep what was counted. Raises CannotTell."""
        for disk in disks:
            self.take(disk.name, block.times(disk))

    def take(self, disk: str, found: Times) -> None:
        """What the statistics of a disk say now."""
        reads, writes = self._disks.setdefault(disk, (Latency(), Latency()))
        reads.look(found.reads, found.read_millis)
        writes.look(found.writes, found.write_millis)

    def histograms(self) -> Mapping[str, Histogram]:
        """By disk, reads and writes together."""
        return {name: reads.histogram + writes.histogram for name, (reads, writes) in list(self._disks.items())}
