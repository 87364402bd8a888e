"""The status page: one look at the appliance, made anew for each request. Pure but for its template's file.

Nothing comes from elsewhere: it works without the internet, on a phone, with a keyboard and in the dark, and it renews
itself. A script draws lines and live heat maps with uPlot, which is kept beside it; without one all can be read.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import log
from typing import get_args

import jinja2

from appliance import schema
from appliance.bootset.picture import shares
from appliance.model import Extent, Histogram
from appliance.web.metrics import Answers
from appliance.words import micros, size

RENEW_SECONDS = 10

CELLS = 240
"""A boot set's map has so many cells, from the first byte of the disk to the last."""

SHADES = 8

PHASES: tuple[schema.MeasuredPhase, ...] = get_args(schema.MeasuredPhase)


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that fills: its name, how full it is (0 to 100), that in words, and whether it is good to be full."""

    name: str
    percent: float
    words: str
    good: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A disk of the heat map: a shade (0 to SHADES) and words for each bucket."""

    disk: str
    role: str
    cells: tuple[tuple[int, str], ...]
    half: str
    most: str


@dataclass(frozen=True, slots=True)
class Heat:
    """How long disks take: the buckets' names, the quickest first, and a row for each disk."""

    buckets: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class BootRow:
    """The boots of one phase, in words."""

    phase: str
    median: str
    spread: str
    io: str
    hits: str


@dataclass(frozen=True, slots=True)
class Boots:
    """Measurements of a template's boots: the last one in words, and all of them, oldest first."""

    template: str
    words: str
    rows: tuple[BootRow, ...]
    past: tuple[schema.MeasurementView, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.past)

    def lines(self) -> dict[str, list[float | None]]:
        """When they were taken, and the median seconds of each phase, None where there is none."""
        found: dict[str, list[float | None]] = {"taken": [view.taken for view in self.past]}
        for phase in PHASES:
            medians = [{each.phase: each.seconds_median for each in view.phases} for view in self.past]
            found[phase] = [each.get(phase) for each in medians]
        return found


def render(answers: Answers, maps: Mapping[str, schema.BootSetView], now: float | None = None) -> str:
    """The page. ``maps`` has boot sets by their template."""
    status = answers.status
    return _template().render(
        status=status,
        answers=answers,
        bars=(*bars(status.store), *cache_bars(status.store.cache, answers.counters)),
        boots=(measured := boots(answers.measurements)),
        numbers=numbers(answers, measured),
        most_clones=max((template.clones for template in answers.templates), default=0) or 1,
        heat=heat(status.disks),
        hit_percent=hit_percent(answers.counters),
        arrays=[array for array in (status.store.backend, status.store.meta) if array is not None],
        attached=sum(len(client.clones) for client in status.clients),
        maps=(drawn := {ref: cells(view.places, view.size) for ref, view in maps.items()}),
        map_words={ref: map_words(found, maps[ref].size) for ref, found in drawn.items()},
        prefetch=prefetch_words,
        size=size,
        renew=RENEW_SECONDS,
        now=clock(now),
    )


def bars(store: schema.StoreView) -> tuple[Bar, ...]:
    """How full the pools are."""
    found = []
    for pool in (store.pool, store.fast):
        if pool is None:
            continue
        for what, used, total in (
            ("data", pool.data_used, pool.data_total),
            ("metadata", pool.metadata_used, pool.metadata_total),
        ):
            percent = 100 * used / total if total else 0.0
            found.append(Bar(f"{pool.name} pool, {what}", percent, f"{size(used)} of {size(total)}, {percent:.1f} %"))
    return tuple(found)


def cache_bars(cache: schema.CacheView | None, counters: schema.Counters | None) -> Iterator[Bar]:
    """How often the cache has what is asked for, and how much of it waits to be written to the disks."""
    hits = hit_percent(counters)
    if hits is not None:
        yield Bar("cache, hits", hits, f"{hits:.1f} % of requests, since it was set up", good=True)
    if cache is not None and cache.available_percent is not None:
        dirty = 100 - cache.available_percent
        yield Bar("cache, not yet on the disks", dirty, f"{dirty} % of {size(cache.size)}")


def hit_percent(counters: schema.Counters | None) -> float | None:
    """The cache's hits of a hundred requests, since it was last set up; None before any."""
    if counters is None:
        return None
    asked = counters.cache_stats.hits + counters.cache_stats.misses
    return 100 * counters.cache_stats.hits / asked if asked else None


def heat(disks: Sequence[schema.DiskHistogram]) -> Heat:
    """The disks' latencies as shades: each disk's fullest bucket is the darkest, on a scale of logarithms."""
    used = [index for disk in disks for index, count in enumerate(disk.histogram.counts) if count]
    if not used:
        return Heat((), ())
    first, last = min(used), max(used)
    rows = []
    for disk in disks:
        counts = (*disk.histogram.counts, *(0 for _ in range(last + 1)))[first : last + 1]
        top = max(counts)
        shown = tuple((shade(count, top), f"{count:,} requests") for count in counts)
        found = Histogram(disk.histogram.counts)
        rows.append(Row(disk.disk, disk.role, shown, micros(found.bound(0.5)), micros(found.bound(0.99))))
    return Heat(tuple(micros(2 ** (index + 1)) for index in range(first, last + 1)), tuple(rows))


def shade(count: int, top: int) -> int:
    """0 for none, SHADES for ``top``, and logarithms between."""
    return 0 if count <= 0 else 1 + round((SHADES - 1) * log(count + 1) / log(top + 1))


def boots(measurements: Sequence[schema.MeasurementView]) -> tuple[Boots, ...]:
    """The measurements, newest first, by their template: the one that was measured last comes first."""
    of: dict[str, list[schema.MeasurementView]] = {}
    for view in measurements:
        of.setdefault(view.template, []).append(view)
    return tuple(
        Boots(ref, _about(views[0]), tuple(map(_boot_row, views[0].phases)), tuple(reversed(views)))
        for ref, views in of.items()
    )


def _about(view: schema.MeasurementView) -> str:
    boots = sum(each.boots for each in view.phases)
    return f"{clock(view.taken)}, {boots} boot(s){f', on {view.on}' if view.on else ''}"


def _boot_row(times: schema.BootTimes) -> BootRow:
    return BootRow(
        times.phase,
        f"{times.seconds_median:.1f} s",
        f"{times.seconds_least:.1f} to {times.seconds_most:.1f} s",
        "-" if times.io_seconds is None else f"{times.io_seconds:.1f} s",
        # Never rounds what is below 1 up to 100 %.
        f"{int(1000 * times.hit_ratio) / 10:.1f} %",
    )


def numbers(answers: Answers, measured: Sequence[Boots]) -> dict[str, object]:
    """What the script draws: past measurements, oldest first, and counters that only grow."""
    counters = answers.counters
    live = counters and {
        "taken": counters.taken,
        "asked": counters.cached.read_bytes,
        "backend": counters.backend.read_bytes,
        "disks": {f"{each.disk} ({each.role})": each.histogram.counts for each in answers.status.disks},
    }
    return {"live": live, "boots": {each.template: each.lines() for each in measured}}


def clock(moment: float | None) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(moment))


def cells(places: Sequence[tuple[int, int]], length: int) -> tuple[int, ...]:
    """A disk of ``length`` bytes as CELLS shades: how much of each cell the places (offset, length) cover."""
    found = shares((Extent(offset, count) for offset, count in places), length, CELLS)
    return tuple(0 if share <= 0 else max(1, round(SHADES * share)) for share in found)


def map_words(found: Sequence[int], length: int) -> str:
    """What a map of a disk of ``length`` bytes shows, for who does not see it."""
    used = [at for at, level in enumerate(found) if level]
    if not used:
        return "nowhere"
    piece = length / len(found)
    where = f"from {size(used[0] * piece)} to {size((used[-1] + 1) * piece)}"
    return f"in {len(used)} of {len(found)} stretches of {size(piece)}, {where}"


def prefetch_words(view: schema.PrefetchView) -> str:
    """How a prefetch went or goes."""
    if view.state in ("waiting", "running"):
        done = f"{size(view.done_bytes)} of {size(view.total_bytes)}, pass {view.passes}"
        return f"{view.state}: {done}, {size(view.rate)}/s"
    words = {"warm": "in the cache", "incomplete": "not all in the cache"}.get(view.state, view.state)
    return f"{words}, {view.seconds:.1f} s" if view.seconds else words


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("appliance.web", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
