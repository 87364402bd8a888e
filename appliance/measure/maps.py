"""Pictures with two axes and a colour: latencies as heat maps, and a boot set's places on its disk. As SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from appliance.bootset.picture import shares
from appliance.measure.histogram import Latency, bounds
from appliance.measure.plots import INK, short, svg
from appliance.model import GIB, MIB, Extent
from appliance.schema import BootSetView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 11.3
"""Inches of a figure that has all of the page."""

MOST_NAMES, LETTERS = 40, 125
"""Columns of a heat map that can have a name each, and letters that these can have side by side."""

SHADES = 16
"""Colours between few and many: as many as a legend of plain rectangles needs."""

CELLS, ROWS = 96, 16
"""A disk's map: its cells in a row, and rows."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A heat map and the histograms that it was made of."""

    title: str
    svg: str
    latencies: tuple[Latency, ...]


def heat_maps(latencies: Sequence[Latency]) -> tuple[HeatMap, ...]:
    """Disks with their phases side by side, and clones by phase; what has no latencies has no map."""
    clones = [each for each in latencies if each.device.startswith("clone ")]
    disks = [each for each in latencies if each not in clones]
    found = []
    if disks:
        devices = list(dict.fromkeys(each.device for each in disks))
        by_device = [[each for each in disks if each.device == device] for device in devices]
        columns = [[(each.phase.value, each.counts) for each in group] for group in by_device]
        picture = _heat(["\n".join(device.rsplit(" ", 1)) for device in devices], columns)
        found.append(HeatMap("Disks", picture, tuple(each for group in by_device for each in group)))
    if clones:
        phases = list(dict.fromkeys(each.phase for each in clones))
        by_phase = [[each for each in clones if each.phase is phase] for phase in phases]
        columns = [[(each.device.removeprefix("clone "), each.counts) for each in group] for group in by_phase]
        picture = _heat([phase.value for phase in phases], columns)
        found.append(HeatMap("Clones, as their devices saw it", picture, tuple(clones)))
    return tuple(found)


def _heat(titles: Sequence[str], groups: Sequence[Sequence[tuple[str, tuple[int, ...]]]]) -> str:
    """Groups of columns under their titles; a column is a name and a histogram."""
    every = [counts for group in groups for _, counts in group]
    used = [index for counts in every for index, count in enumerate(counts) if count]
    first, last = min(used), max(used)

    def draw(axes: "Axes") -> None:
        from matplotlib import colormaps
        from matplotlib.colors import LogNorm
        from matplotlib.patches import Rectangle

        shades = colormaps["viridis_r"].resampled(SHADES)
        norm = LogNorm(1, max(10, *(max(counts) for counts in every)))
        at, places, names = 0.0, [], []
        for title, group in zip(titles, groups, strict=True):
            axes.text(at + len(group) / 2, last + 1.15, title, ha="center", va="bottom", fontsize=9)
            for name, counts in group:
                for index, count in enumerate(counts):
                    if count:
                        axes.add_patch(Rectangle((at, index), 1, 1, facecolor=shades(norm(count)), linewidth=0))
                places.append(at + 0.5)
                names.append(name)
                at += 1
            at += 0.4
        axes.set_xlim(-0.2, at - 0.2)
        axes.set_ylim(first, last + 1)
        if len(names) > MOST_NAMES:
            axes.set_xticks([])
        elif max(map(len, names)) * len(names) > LETTERS:
            axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor")
        else:
            axes.set_xticks(places, names)
        axes.set_yticks(range(first, last + 1), [short(bounds(index)[0]) for index in range(first, last + 1)])
        axes.tick_params(labelsize=8, length=0)
        axes.set_ylabel("latency from")
        axes.grid(visible=False)
        from matplotlib.cm import ScalarMappable

        legend: dict[str, Any] = {"label": "requests", "aspect": 30, "pad": 0.02, "format": "{x:,.0f}"}
        bar = axes.figure.colorbar(ScalarMappable(norm, shades), ax=axes, **legend)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8, color=INK)

    return svg(draw, WIDTH, 1.6 + 0.17 * (last - first + 1))


def disk_map(found: BootSetView) -> str:
    """Where a boot set lies on its disk: cells from the upper left, the darker the more of one belongs to it."""
    cells = shares((Extent(offset, length) for offset, length in found.places), found.size, CELLS * ROWS)
    width = found.size / (CELLS * ROWS)
    side, gap = 9, 1
    step = side + gap
    parts = []
    for place, share in enumerate(cells):
        x, y = place % CELLS * step, place // CELLS * step
        if share == 0:
            parts.append(f'<rect x="{x}" y="{y}" width="{side}" height="{side}" class="none"/>')
            continue
        said = f"from {place * width / MIB:,.1f} MiB: {share:.0%} of {width / MIB:.1f} MiB"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{side}" height="{side}" fill-opacity="{0.25 + 0.75 * share:.2f}">'
            f"<title>{escape(said)}</title></rect>"
        )
    across, down = CELLS * step - gap, ROWS * step - gap
    about = f"{len(found.places)} extents, {found.total_bytes / MIB:.1f} MiB of {found.size / GIB:.1f} GiB"
    return (
        f'<svg viewBox="0 0 {across} {down}" role="img" class="disk" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(about)}</title>{''.join(parts)}</svg>"
    )
