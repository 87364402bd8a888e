"""The boot set of a template, and how several recorded boots become one.

A page belongs to it when most of the boots read it, so that what one guest happened to do does not make it grow with
each boot that is recorded. Pages stand in the mean order of their first reads. Small gaps between them are closed, the
smallest first, as long as all that is closed stays a small part of the whole: on a hard disk it costs less to read
over a gap than to seek over it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from appliance.bootset.extents import PAGE, pages_in_order
from appliance.bootset.trace import Read
from appliance.errors import InvalidInput
from appliance.model import GIB, MIB, Extent

CAP = GIB
"""Bytes that a boot set may have; what boots read last is left out."""

GAP = MIB
"""Bytes of the largest gap that is closed: what a hard disk reads in the time of one seek (8 ms at 130 MB/s)."""

CLOSED_SHARE = 0.04
"""Share of a boot set that may be closed gaps. They are read and then used by no boot."""


@dataclass(frozen=True, slots=True)
class BootSet:
    """What to read before a template's clones boot: extents of whole pages that do not overlap, in the order of their
    first reads. ``size`` is the template's in bytes, ``runs`` how many boots it was learned from."""

    extents: tuple[Extent, ...]
    size: int
    runs: int

    def __post_init__(self) -> None:
        """Raise InvalidInput when extents overlap, are not of whole pages, or lie outside of the template."""
        last = Extent(0, 0)
        for extent in sorted(self.extents):
            if extent.offset % PAGE or extent.length % PAGE or extent.length <= 0 or extent.offset < 0:
                raise InvalidInput(
                    f"{extent} is no extent of a boot set", why=f"it is not of whole pages of {PAGE} bytes"
                )
            if extent.offset < last.end:
                raise InvalidInput(f"{extent} is in the boot set twice", why=f"it overlaps {last}")
            last = extent
        if last.end > -(-self.size // PAGE) * PAGE:
            raise InvalidInput(f"{last} lies outside of the template", why=f"the template has {self.size} bytes")

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(extent.length for extent in self.extents)


def merge(runs: Sequence[Iterable[Read]], size: int, *, cap: int = CAP) -> BootSet:
    """One boot set of several boots of a template of ``size`` bytes. Raises InvalidInput when they read nothing."""
    orders = [pages_in_order(run, size) for run in runs]
    ranks: dict[int, list[float]] = {}
    for order in orders:
        count = sum(last - first for first, last in order) or 1
        seen = 0
        for first, last in order:
            for page in range(first, last):
                # Boots differ in length: the place in a boot counts, not the number of what came before.
                ranks.setdefault(page, []).append(seen / count)
                seen += 1
    pages = {page: fmean(found) for page, found in ranks.items() if 2 * len(found) > len(runs)}
    if not pages:
        raise InvalidInput("the recorded boots have nothing in common", why=f"{len(runs)} boots were compared")
    chosen = sorted(pages, key=lambda page: (pages[page], page))[: max(1, cap // PAGE)]
    stretches = _close_gaps(_stretches(sorted(chosen)), cap // PAGE - len(chosen))
    placed = sorted(stretches, key=lambda found: (min(pages.get(page, 1.0) for page in range(*found)), found))
    extents = tuple(Extent(first * PAGE, (last - first) * PAGE) for first, last in placed)
    return BootSet(extents, size, len(runs))


def _stretches(pages: Sequence[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for page in pages:
        if found and found[-1][1] == page:
            found[-1] = (found[-1][0], page + 1)
        else:
            found.append((page, page + 1))
    return found


def _close_gaps(stretches: Sequence[tuple[int, int]], room: int) -> list[tuple[int, int]]:
    left = min(room, int(sum(last - first for first, last in stretches) * CLOSED_SHARE))
    gaps = sorted((after[0] - before[1], before[1]) for before, after in pairwise(stretches))
    closed = set()
    for gap, where in gaps:
        if gap > left or gap * PAGE > GAP:
            break
        left -= gap
        closed.add(where)
    found: list[tuple[int, int]] = []
    for first, last in stretches:
        if found and found[-1][1] in closed:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found
