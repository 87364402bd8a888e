"""A boot set as a picture of the disk: which part of each stretch belongs to it."""

from collections.abc import Iterable
from math import ceil

from appliance.model import Extent

SHADES = " ░▒▓█"


def shares(extents: Iterable[Extent], size: int, cells: int) -> list[float]:
    """The share, 0 to 1, of each of ``cells`` equal stretches of a disk of ``size`` bytes that extents cover."""
    filled = [0.0] * cells
    width = size / cells
    for extent in extents:
        at, end = float(extent.offset), float(min(extent.end, size))
        cell = int(at // width)
        while at < end and cell < cells:
            upto = min(end, (cell + 1) * width)
            filled[cell] += max(0.0, upto - at)
            at, cell = upto, cell + 1
    return [min(1.0, each / width) for each in filled]


def draw(extents: Iterable[Extent], size: int, *, columns: int = 64, rows: int = 8) -> str:
    """Lines of shaded cells, the disk's begin at the upper left. A cell that holds anything at all is not blank."""
    found = shares(extents, size, columns * rows)
    cells = [SHADES[ceil(share * (len(SHADES) - 1))] for share in found]
    return "\n".join("".join(cells[row * columns : (row + 1) * columns]) for row in range(rows))
