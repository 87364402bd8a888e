"""Many clones at once: what storms of boots and replays have in common, as JSON and as a page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, ClassVar

from appliance.measure import maps, pages, plots
from appliance.measure.facts import Facts
from appliance.measure.histogram import Latency, added, ascii_form
from appliance.measure.prepare import Begin
from appliance.measure.report import DRAWN, FORMAT, mib
from appliance.measure.result import percent
from appliance.schema import BootSetView, PrefetchView

MOST_CLONES = 100
"""Clones that have a column each in a heat map; of more, one column has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """Bytes and requests are those of all clones together; ``latencies`` those of disks and clones meanwhile.

    ``boot_set`` is the template's, afterwards.
    """

    kind: ClassVar[str]
    done: ClassVar[str]
    """What a clone has done when its time is over, in words."""

    template: str
    begin: Begin
    requests: int
    read_bytes: int
    backend_bytes: int
    cache_added_bytes: int
    prefetch: PrefetchView | None = None
    boot_set: BootSetView | None = None
    facts: Facts | None = None
    notes: tuple[str, ...] = ()
    latencies: tuple[Latency, ...] = ()

    @property
    def times(self) -> tuple[tuple[str, float], ...]:
        """Each clone with its seconds from the common begin, the first one first."""
        raise NotImplementedError

    @property
    def first(self) -> float:
        """Seconds to the first."""
        return self.times[0][1]

    @property
    def median(self) -> float:
        """Seconds to the median one."""
        return median(seconds for _, seconds in self.times)

    @property
    def last(self) -> float:
        """Seconds to the last."""
        return self.times[-1][1]

    @property
    def hit_rate_bytes(self) -> float:
        """Share of the bytes that did not need the backend, at least 0."""
        return max(0.0, 1 - self.backend_bytes / self.read_bytes)

    @property
    def hit_rates(self) -> tuple[float | None, ...]:
        """By bytes first; then others that were counted, None when they are not known."""
        return (self.hit_rate_bytes,)

    def heading(self) -> str:
        """What was measured, in a line."""
        raise NotImplementedError

    def text(self) -> str:
        """For people."""
        raise NotImplementedError

    def as_json(self) -> dict[str, Any]:
        """For programs: sizes in bytes, times in seconds, latencies in microseconds."""
        document = asdict(self)
        histograms = document.pop("latencies")
        found = {name: getattr(self, name) for name in ("first", "median", "last", "hit_rate_bytes")}
        views = {
            "prefetch": None if self.prefetch is None else self.prefetch.model_dump(),
            "boot_set": None if self.boot_set is None else self.boot_set.model_dump(exclude=DRAWN),
        }
        head = {"format": FORMAT, "kind": self.kind, "clones": len(self.times)}
        return {**head, **document, **views, **found, "histograms": histograms}

    def closing(self) -> list[str]:
        """The last lines for people: notes, and how long the disks took."""
        disks = [latency for latency in self.latencies if not latency.device.startswith("clone ")]
        return [f"Note: {note}." for note in self.notes] + [
            f"\n{disk.device}: {disk.total:,} requests\n{ascii_form(disk.counts)}" for disk in disks
        ]


def page(found: Together) -> str:
    """One HTML file with its plots inside. Raises NotReady without matplotlib."""
    return pages.render(
        "together.html.j2",
        found=found,
        heading=found.heading(),
        facts=found.facts,
        cards=cards(found),
        notes=found.notes,
        time_plot=plots.times(found.times, f"seconds until it {found.done}"),
        source_plot=plots.shares([("read by the clones", found.read_bytes, found.backend_bytes)], "MiB"),
        hit_plot=plots.hits([hits(found)]),
        by_requests=len(found.hit_rates) > 1,
        times=found.times,
        heat_maps=maps.heat_maps(bounded(found.latencies)),
        boot_set=found.boot_set,
        disk_map=maps.disk_map(found.boot_set) if found.boot_set else "",
    )


def hits(found: Together) -> plots.Hits:
    """The hit rates of all clones together, named by what the cache held."""
    return plots.Hits(found.begin.replace("-", " "), plots.BACKEND, [(rate, ()) for rate in found.hit_rates])


def cards(found: Together) -> list[tuple[str, str, str]]:
    """The most wanted figures: name, value, remark."""
    made = [
        ("First", f"{found.first:.2f} s", f"until it {found.done}"),
        ("Median", f"{found.median:.2f} s", f"of {len(found.times)} clones"),
        ("Last", f"{found.last:.2f} s", f"until it {found.done}"),
        ("From the cache", percent(found.hit_rate_bytes), "of all bytes that were read"),
        ("From the backend", f"{mib(found.backend_bytes)} MiB", f"of {mib(found.read_bytes)} MiB that were read"),
        ("Into the cache", f"{mib(found.cache_added_bytes)} MiB", "what was written included"),
    ]
    if found.prefetch is not None:
        size = f"for {mib(found.prefetch.total_bytes)} MiB, in none of these figures"
        made.append(("Prefetch before", f"{found.prefetch.seconds:.1f} s", size))
    return made


def bounded(latencies: Sequence[Latency]) -> tuple[Latency, ...]:
    """The same with all clones as one, if they are many."""
    clones = [each for each in latencies if each.device.startswith("clone ")]
    if len(clones) <= MOST_CLONES:
        return tuple(latencies)
    all_ = Latency(clones[0].phase, f"clone all {len(clones)}", added(each.counts for each in clones))
    return (*(each for each in latencies if each not in clones), all_)
