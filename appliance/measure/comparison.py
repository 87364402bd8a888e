"""Two measurements of one kind as a page: the figures of both, and plots of what both have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.errors import InvalidInput
from appliance.measure import history, pages, plots

_CARDS = {
    "boot time, median": "{} boot, median",
    "the first was done after": "First",
    "the median one": "Median",
    "the last": "Last",
}
"""Figures that stand above all others, by their name in a comparison, and what they are called there."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One phase of boots, or all clones that began at once, in one of the two. ``seconds``: of each boot, or clone;
    ``read_bytes`` and ``backend_bytes``: of a boot in the mean, or of all clones; ``rates``: by bytes, by requests."""

    name: str
    colour: str
    seconds: Sequence[float]
    read_bytes: float
    backend_bytes: float
    rates: tuple[float | None, ...]


def page(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """One HTML file with its plots inside. Raises as ``history.compare``, NotReady without matplotlib."""
    rows = history.rows(before, after)
    kind = after.get("kind", "boot")
    parts = _parts(before, after)
    hits = [plots.Hits(part.name, part.colour, [(rate, ()) for rate in part.rates]) for part in parts]
    templates = " and ".join(dict.fromkeys(str(found["template"]) for found in (before, after)))
    return pages.render(
        "comparison.html.j2",
        heading=f"{kind.capitalize()}s of {templates}, before and after",
        both=[(word, history.about(found), _facts(found)) for word, found in (("before", before), ("after", after))],
        cards=cards(rows),
        notes=history.warnings(before, after),
        one="boot" if kind == "boot" else "clone",
        time_plot=plots.medians([(part.name, part.colour, part.seconds) for part in parts], "seconds"),
        source_plot=plots.shares([(part.name, part.read_bytes, part.backend_bytes) for part in parts], "MiB"),
        hit_plot=plots.hits(hits),
        by_requests=len(parts[0].rates) > 1,
        rows=rows,
    )


def cards(rows: Sequence[tuple[str, str, str, str, str]]) -> list[tuple[str, str, str]]:
    """How the most wanted figures changed: name, change, remark."""
    return [
        (_CARDS[name].format(phase.capitalize()), change, f"{old} before, {new} after")
        for phase, name, old, new, change in rows
        if name in _CARDS
    ]


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(found["facts"].get(key, "not known")) for key in ("host", "guests", "appliance")}


def _parts(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[_Part]:
    """Of the phases that both have, or of all clones: what was before, and what came after."""
    both = (("before", before), ("after", after))
    if after.get("kind", "boot") != "boot":
        named = [(word, plots.BACKEND, found, _seconds(found)) for word, found in both]
    else:
        colours = {phase.value: colour for phase, colour in plots.COLOURS.items()}
        named = [
            (f"{phase}, {word}", colours.get(phase, plots.BACKEND), found["summary"][phase], _seconds(found, phase))
            for phase in history.phases(before, after)
            for word, found in both
        ]
    known = all("hit_rate_requests" in figures for _, _, figures, _ in named)
    return [
        _Part(
            name,
            colour,
            seconds,
            history.value(figures, ("read_bytes",)),
            history.value(figures, ("backend_bytes",)),
            tuple(_rate(figures, key) for key in ("hit_rate_bytes", *(["hit_rate_requests"] if known else []))),
        )
        for name, colour, figures, seconds in named
    ]


def _rate(figures: Mapping[str, Any], key: str) -> float | None:
    return None if figures.get(key) is None else history.value(figures, (key,))


def _seconds(found: Mapping[str, Any], phase: str = "") -> list[float]:
    """Of each boot of that phase, or of each clone. Raises InvalidInput."""
    try:
        match found.get("kind", "boot"):
            case "boot":
                times = [boot["seconds"] for boot in found["boots"] if boot["phase"] == phase]
            case "storm":
                times = [login["seconds"] for login in found["logins"]]
            case _:
                times = found["seconds"]
        if times:
            return [float(each) for each in times]
        why = "it has no times"
    except (KeyError, TypeError, ValueError) as error:
        why = str(error)
    raise InvalidInput("a measurement is damaged", why=f"the times of its boots or clones: {why}")
