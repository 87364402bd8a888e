"""Plots of a measurement as SVG, to stand inside a page. They need matplotlib (the extra ``measure``)."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from appliance.errors import NotReady
from appliance.measure.histogram import Latency, bounds
from appliance.measure.result import BootResult, Phase
from appliance.model import MIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {Phase.COLD: "#004488", Phase.PREFETCHED: "#ddaa33", Phase.WARM: "#bb5566"}
"""Told apart by those who do not see all colours, and in grey (Paul Tol, "Colour schemes", high contrast)."""
CACHE, BACKEND = "#e8743b", "#3b7dd8"
INK, FAINT = "#333a45", "#d9dee5"

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
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "axes.axisbelow": True,
}


def require() -> None:
    """Raise NotReady unless plots can be made."""
    try:
        import matplotlib  # noqa: F401 - an optional, slow library: loaded when a page is wanted
    except ImportError as error:
        raise NotReady(
            "a page with plots cannot be made",
            why="matplotlib is not installed",
            hint="install hatchery[measure], or leave --html out",
        ) from error


def boot_times(boots: Sequence[BootResult]) -> str:
    """Seconds of each boot, cold and warm in their colours, with the processor time of QEMU marked."""

    def draw(axes: "Axes") -> None:
        at = range(len(boots))
        bars = axes.bar(at, [boot.seconds for boot in boots], color=[COLOURS[boot.phase] for boot in boots], width=0.7)
        axes.bar_label(bars, labels=[f"{boot.seconds:.1f}" for boot in boots], padding=2)
        axes.set_ylabel("seconds to the login prompt")
        axes.margins(y=0.12)
        _names(axes, boots)
        _legend(axes, [(phase.value, COLOURS[phase]) for phase in Phase if any(b.phase is phase for b in boots)])

    return _svg(draw, 7.2, 3.2)


def sources(boots: Sequence[BootResult]) -> str:
    """Where each boot's bytes came from."""

    def draw(axes: "Axes") -> None:
        at = range(len(boots))
        backend = [min(boot.backend_bytes, boot.read_bytes) / MIB for boot in boots]
        cache = [boot.read_bytes / MIB - slow for boot, slow in zip(boots, backend, strict=True)]
        axes.bar(at, backend, color=BACKEND, width=0.7)
        bars = axes.bar(at, cache, bottom=backend, color=CACHE, width=0.7)
        axes.bar_label(bars, labels=[f"{boot.read_bytes / MIB:.0f}" for boot in boots], padding=2)
        axes.set_ylabel("MiB read by the guest")
        axes.margins(y=0.12)
        _names(axes, boots)
        _legend(axes, [("from the backend", BACKEND), ("from the cache", CACHE)])

    return _svg(draw, 7.2, 3.2)


def hit_rates(boots: Sequence[BootResult]) -> str:
    """Hit rate of each boot, by bytes and by requests."""

    def draw(axes: "Axes") -> None:
        width = 0.38
        for offset, colour, values in (
            (-width / 2, "#5b8c5a", [100 * boot.hit_rate_bytes for boot in boots]),
            (width / 2, "#a9cf9f", [100 * (boot.hit_rate_requests or 0) for boot in boots]),
        ):
            bars = axes.bar([index + offset for index in range(len(boots))], values, color=colour, width=width)
            axes.bar_label(bars, labels=[f"{value:.1f}" for value in values], padding=2, fontsize=8)
        axes.set_ylabel("hit rate, %")
        axes.set_ylim(0, 112)
        axes.set_yticks(range(0, 101, 20))
        _names(axes, boots)
        _legend(axes, [("by bytes", "#5b8c5a"), ("by requests", "#a9cf9f")])

    return _svg(draw, 7.2, 3.2)


def latency(group: Sequence[Latency]) -> str:
    """One device's histograms, the phases side by side."""

    def draw(axes: "Axes") -> None:
        used = [index for item in group for index, count in enumerate(item.counts) if count]
        first, last = min(used), max(used)
        width = 0.8 / len(group)
        for number, item in enumerate(group):
            counts = [*item.counts, *([0] * (last + 1 - len(item.counts)))][first : last + 1]
            places = [index + (number - (len(group) - 1) / 2) * width for index in range(len(counts))]
            axes.bar(places, counts, width=width, color=COLOURS[item.phase])
        axes.set_xticks(range(last - first + 1), [short(bounds(index)[0]) for index in range(first, last + 1)])
        axes.tick_params(axis="x", labelsize=8, rotation=45 if last - first > 9 else 0)
        axes.set_xlabel("latency from")
        axes.set_ylabel("requests")
        _legend(axes, [(item.phase.value, COLOURS[item.phase]) for item in group])

    return _svg(draw, 5.2, 2.4)


def short(microseconds: int) -> str:
    """A latency for an axis: ``4µs``, ``2ms``, ``1s``."""
    if microseconds < 1000:
        return f"{microseconds}µs"
    if microseconds < 1_000_000:
        return f"{round(microseconds / 1000)}ms"
    return f"{round(microseconds / 1_000_000)}s"


def _names(axes: "Axes", boots: Sequence[BootResult]) -> None:
    many = len(boots) > 8
    axes.set_xticks(range(len(boots)), [boot.clone for boot in boots], rotation=60 if many else 0)
    axes.tick_params(axis="x", labelsize=8 if many else 9, length=0)


def _legend(axes: "Axes", entries: Sequence[tuple[str, str]]) -> None:
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=colour, label=name) for name, colour in entries]
    axes.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(patches), frameon=False)


def _svg(draw: "Callable[[Axes], None]", width: float, height: float) -> str:
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
