"""Plots of a measurement as SVG, to stand inside a page. They need matplotlib (the extra ``measure``)."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from appliance.errors import NotReady
from appliance.measure.result import BootResult, Phase, percent, summary
from appliance.model import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {Phase.COLD: "#004488", Phase.PREFETCHED: "#ddaa33", Phase.WARM: "#bb5566"}
"""Told apart by those who do not see all colours, and in grey (Paul Tol, "Colour schemes", high contrast)."""
CACHE, BACKEND = "#9fc9c3", "#2f5d62"
INK, FAINT = "#333a45", "#d9dee5"
WIDTH = 5.6
"""Inches of a figure that has half of the page."""
MOST_NAMES = 40
"""Bars that are named."""
PALE = 0.35
"""How much of its colour the lesser part of a bar has."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: small, sharp, and found by a search in the page
    "svg.hashsalt": "hatchery",  # equal measurements give equal files
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": FAINT,
    "axes.axisbelow": True,
}


def require() -> None:
    """Raise NotReady unless plots can be made."""
    try:
        import jinja2  # noqa: F401 - not everywhere where there is this program: loaded when a page is wanted
        import matplotlib  # noqa: F401 - an optional, slow library: the same
    except ImportError as error:
        raise NotReady(
            "a page with plots cannot be made",
            why=f"{error.name} is not installed",
            hint="install hatchery[measure], on Debian python3-jinja2 and python3-matplotlib, or leave --html out",
        ) from error


def boot_times(boots: Sequence[BootResult]) -> str:
    """A line for each boot, from QEMU's start to the login prompt: in full colour the time with I/O under way."""

    def draw(axes: "Axes") -> None:
        longest = max(boot.seconds for boot in boots)
        for at, boot in enumerate(boots):
            colour, waited = COLOURS[boot.phase], boot.io_seconds or 0.0
            axes.barh(at, waited, color=colour, height=0.7)
            axes.barh(at, boot.seconds - waited, left=waited, color=_pale(colour), height=0.7)
            apart = "" if boot.io_seconds is None else f" ({waited:.1f} I/O)"
            axes.text(boot.seconds + longest / 100, at, f"{boot.seconds:.1f} s{apart}", va="center", fontsize=9)
        axes.set_xlim(0, longest * 1.35)
        axes.set_xlabel("seconds to the login prompt")
        _names(axes, [boot.clone for boot in boots])
        shown = [phase for phase in Phase if any(boot.phase is phase for boot in boots)]
        _legend(axes, [(phase.value, COLOURS[phase]) for phase in shown])

    return svg(draw, WIDTH, _height(len(boots)))


def sources(boots: Sequence[BootResult]) -> str:
    """Where each boot's bytes came from."""
    return shares([(boot.clone, boot.read_bytes, boot.backend_bytes) for boot in boots], "MiB read by the guest")


def shares(read: Sequence[tuple[str, float, float]], label: str) -> str:
    """Bars by name of bytes that were read, and of those that came from the backend."""

    def draw(axes: "Axes") -> None:
        most = max(all_ for _, all_, _ in read) / MIB
        for at, (_, all_, slow) in enumerate(read):
            size, slow_size = all_ / MIB, min(slow, all_) / MIB
            axes.barh(at, slow_size, color=BACKEND, height=0.7)
            axes.barh(at, size - slow_size, left=slow_size, color=CACHE, height=0.7)
            axes.text(size + most / 100, at, f"{slow_size:.1f} of {size:.1f}", va="center", fontsize=9)
        axes.set_xlim(0, most * 1.25)
        axes.set_xlabel(label)
        _names(axes, [name for name, _, _ in read])
        _legend(axes, [("from the backend", BACKEND), ("from the cache", CACHE)])

    return svg(draw, WIDTH, _height(len(read)))


def times(found: Sequence[tuple[str, float]], label: str) -> str:
    """A bar for each clone with its seconds, and a line at the median."""

    def draw(axes: "Axes") -> None:
        seconds = [each for _, each in found]
        axes.barh(range(len(found)), seconds, color=BACKEND, height=0.7 if named else 1.0)
        axes.axvline(median(seconds), color=INK, linewidth=1)
        axes.set_xlim(0, max(seconds) * 1.15)
        axes.set_xlabel(label)
        _names(axes, [name for name, _ in found])
        if named:
            for at, each in enumerate(seconds):
                axes.text(each + max(seconds) / 100, at, f"{each:.2f} s", va="center", fontsize=9)
        else:
            axes.set_yticks([])

    named = len(found) <= MOST_NAMES
    return svg(draw, WIDTH, _height(len(found) if named else MOST_NAMES))


@dataclass(frozen=True, slots=True)
class Hits:
    """Hit rates, 0 to 1, of what has one name: each of all together, None when it is not known, with single ones."""

    name: str
    colour: str
    rates: Sequence[tuple[float | None, Sequence[float | None]]]


def hit_rates(boots: Sequence[BootResult]) -> str:
    """Hit rates by phase, by bytes and by requests: a bar for all boots together, a dot for each."""
    rows = []
    for phase in Phase:
        own = [boot for boot in boots if boot.phase is phase]
        if (found := summary(own, phase)) is not None:
            by_bytes = found.hit_rate_bytes, [boot.hit_rate_bytes for boot in own]
            by_requests = found.hit_rate_requests, [boot.hit_rate_requests for boot in own]
            rows.append(Hits(phase.value, COLOURS[phase], (by_bytes, by_requests)))
    return hits(rows)


def hits(rows: Sequence[Hits]) -> str:
    """Bars by name, one below the other for each of its rates, the first one in full colour; a dot for a single one."""

    def draw(axes: "Axes") -> None:
        height = 0.38
        for at, row in enumerate(rows):
            for number, (rate, single) in enumerate(row.rates):
                place = at + (number - (len(row.rates) - 1) / 2) * height
                if rate is None:
                    axes.text(0.01, place, "not known", va="center", fontsize=9)
                    continue
                axes.barh(place, 100 * rate, color=_pale(row.colour) if number else row.colour, height=height)
                dots = [100 * each for each in single if each is not None]
                axes.plot(dots, [place] * len(dots), "o", color=INK, markersize=3, clip_on=False)
                axes.text(102.5, place, percent(rate), va="center", fontsize=9)
        axes.set_xlim(0, 116)
        axes.set_xticks(range(0, 101, 20))
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("hit rate, %")

    return svg(draw, WIDTH, 0.9 + 0.7 * len(rows))


def medians(rows: Sequence[tuple[str, str, Sequence[float]]], label: str) -> str:
    """Bars by name, each in its colour but pale, to the median of its seconds; a dot for each of these."""

    def draw(axes: "Axes") -> None:
        longest = max(max(seconds) for _, _, seconds in rows)
        for at, (_, colour, seconds) in enumerate(rows):
            axes.barh(at, median(seconds), color=_pale(colour), height=0.7)
            axes.plot(seconds, [at] * len(seconds), "o", color=INK, markersize=3)
            axes.text(max(seconds) + longest / 50, at, f"{median(seconds):.2f} s", va="center", fontsize=9)
        axes.set_xlim(0, longest * 1.2)
        axes.set_xlabel(label)
        _names(axes, [name for name, _, _ in rows])

    return svg(draw, WIDTH, _height(len(rows)))


def short(microseconds: int) -> str:
    """A latency for an axis: ``4µs``, ``2ms``, ``1s``."""
    if microseconds < 1000:
        return f"{microseconds}µs"
    if microseconds < 1_000_000:
        return f"{round(microseconds / 1000)}ms"
    return f"{round(microseconds / 1_000_000)}s"


def _height(lines: int) -> float:
    """Inches: so many lines, and place for the axis and the legend."""
    return 1.0 + 0.26 * lines


def _names(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", labelsize=9, length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)


def _pale(colour: str) -> str:
    """The colour (``#rrggbb``) mixed with white."""
    parts = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return "#" + "".join(f"{round(255 - PALE * (255 - part)):02x}" for part in parts)


def _legend(axes: "Axes", entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour, label=name) for name, colour in entries]
    axes.legend(
        handles=patches,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderpad=0,
        ncols=len(patches),
        frameon=False,
        fontsize=9,
    )


def svg(draw: "Callable[[Axes], None]", width: float, height: float) -> str:
    """Let ``draw`` draw on fresh axes and return the figure as an ``<svg>`` element."""
    require()
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot())
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    document = text.getvalue()
    return document[document.index("<svg") :]
