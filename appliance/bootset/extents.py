"""What reads cover of a disk: whole pages, each counted once."""

import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from appliance.bootset.trace import Read
from appliance.model import Extent

PAGE = 4096
"""Bytes. Smaller reads count as reads of all of it, as a guest's page cache asks for them."""


class Covered:
    """Stretches of a disk that grow and are asked for what is new in others. Offsets in any unit."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Add a stretch; returns the parts of it that were not covered before, in order."""
        first = bisect_left(self._ends, start)
        last = first
        new = []
        at = start
        while last < len(self._starts) and self._starts[last] <= end:
            if at < self._starts[last]:
                new.append((at, self._starts[last]))
            at = max(at, self._ends[last])
            last += 1
        if at < end:
            new.append((at, end))
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        return new

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """All of it, ascending."""
        return zip(tuple(self._starts), tuple(self._ends), strict=True)

    def total(self) -> int:
        """How much is covered."""
        return sum(self._ends) - sum(self._starts)


def pages_in_order(reads: Iterable[Read], size: int) -> list[tuple[int, int]]:
    """Page numbers that were read, as half-open ranges: each page once, in the order of its first read.

    What lies past ``size``, the disk's bytes, is left out.
    """
    covered = Covered()
    found: list[tuple[int, int]] = []
    for read in reads:
        end = min(read.offset + read.length, size)
        if read.offset >= end:
            continue
        for first, last in covered.add(read.offset // PAGE, -(-end // PAGE)):
            if found and found[-1][1] == first:
                found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
    return found


def pages_read(reads: Iterable[Read], size: int) -> int:
    """Bytes of all pages that were read at least once, of a disk of ``size`` bytes."""
    return PAGE * sum(last - first for first, last in pages_in_order(reads, size))


def overlap(left: Iterable[Extent], right: Iterable[Extent]) -> int:
    """Bytes that two sets of extents share; neither overlaps itself."""
    ours, theirs = sorted(left), sorted(right)
    total = at = 0
    for extent in ours:
        while at < len(theirs) and theirs[at].end <= extent.offset:
            at += 1
        look = at
        while look < len(theirs) and theirs[look].offset < extent.end:
            total += min(extent.end, theirs[look].end) - max(extent.offset, theirs[look].offset)
            look += 1
    return total


def sampled(extents: Sequence[Extent], count: int, dice: random.Random) -> tuple[Extent, ...]:
    """Up to ``count`` pages of the extents, each as likely as any other. Pure but for the dice."""
    pages = sum(extent.length for extent in extents) // PAGE
    chosen = sorted(dice.sample(range(pages), min(count, pages)))
    found = []
    seen, at = 0, 0
    for page in chosen:
        while page >= seen + extents[at].length // PAGE:
            seen += extents[at].length // PAGE
            at += 1
        found.append(Extent(extents[at].offset + (page - seen) * PAGE, PAGE))
    return tuple(found)
