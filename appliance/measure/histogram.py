"""Latency histograms in power-of-two microseconds, added up and drawn in the ASCII form of the BPF tools."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest

from appliance.schema import Histograms

STARS = 40
"""Width of a full bar."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies of one device in one phase, or with a cache that was so at the beginning.

    ``counts[0]`` is 0 to 1 us, ``counts[i]`` is 2**i to 2**(i+1) - 1 us.
    """

    phase: StrEnum
    device: str
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many requests."""
        return sum(self.counts)

    def percentile(self, share: float) -> int | None:
        """Upper bound in microseconds of the bucket that holds the request at ``share`` (0 to 1) of all, by latency."""
        reached, wanted = 0, share * self.total
        for index, count in enumerate(self.counts):
            reached += count
            if count and reached >= wanted:
                return bounds(index)[1]
        return None


def bounds(index: int) -> tuple[int, int]:
    """First and last microsecond of a bucket."""
    return (0, 1) if index == 0 else (1 << index, (1 << (index + 1)) - 1)


def added(parts: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Histograms added bucket by bucket; shorter ones count as zero above their end."""
    return tuple(sum(column) for column in zip_longest(*parts, fillvalue=0))


def latencies(recorded: Sequence[tuple[StrEnum, Histograms]]) -> tuple[Latency, ...]:
    """All recordings of a measurement by phase and device: cache drive, backend disks, clones."""
    parts: dict[tuple[StrEnum, int, str], list[Sequence[int]]] = {}
    order = {"cache": 0, "backend": 1, "other": 2}
    for phase, histograms in recorded:
        for disk in histograms.disks:
            kind = {"cache": "cache drive", "backend": "backend disk", "other": "disk"}[disk.role]
            key = (phase, order[disk.role], f"{kind} {disk.disk}")
            parts.setdefault(key, []).append(disk.histogram.counts)
        for clone in histograms.clones:
            parts.setdefault((phase, 3, f"clone {clone.clone}"), []).append(clone.histogram.counts)
    made = (Latency(phase, device, added(counts)) for (phase, _, device), counts in sorted(parts.items()))
    return tuple(latency for latency in made if latency.total)


def ascii_form(counts: Sequence[int]) -> str:
    """A histogram as text, from the first bucket to the last that is not empty."""
    last = max((index for index, count in enumerate(counts) if count), default=-1)
    if last < 0:
        return "no requests"
    most = max(counts)
    lines = ["     usecs               : count     distribution"]
    for index in range(last + 1):
        low, high = bounds(index)
        bar = "*" * round(STARS * counts[index] / most)
        lines.append(f"{low:>10} -> {high:<10} : {counts[index]:<8} |{bar:<{STARS}}|")
    return "\n".join(lines)
