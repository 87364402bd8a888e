"""A measurement as text, as JSON and as a page."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from appliance.measure import maps, pages, plots
from appliance.measure.histogram import ascii_form
from appliance.measure.result import (
    PREFETCHED_HITS,
    WARM_SHARE,
    BootResult,
    CacheCost,
    Phase,
    Spread,
    Summary,
    cache_cost,
    percent,
    prefetched_enough,
    summary,
    warm_enough,
)
from appliance.measure.session import Measurement
from appliance.model import MIB

FORMAT = 1
"""Version of the JSON form; grows when a field changes its meaning or goes away."""

DRAWN = {"places", "picture"}
"""Of a boot set, what pages draw; JSON leaves it out, for it is in the set's own file."""

BOOT_COLUMNS = (
    "run",
    "clone",
    "cache",
    "seconds",
    "I/O wait s",
    "CPU s",
    "requests",
    "MiB",
    "hits, bytes",
    "hits, requests",
    "backend reads",
    "backend MiB",
    "amplification",
)


@dataclass(frozen=True, slots=True)
class Digest:
    """What all forms say, computed once."""

    phases: Mapping[Phase, Summary]
    cost: CacheCost | None
    warm_enough: bool | None
    prefetched_enough: bool | None

    @classmethod
    def of(cls, boots: Sequence[BootResult]) -> "Digest":
        """Of these boots."""
        found = {phase: summary(boots, phase) for phase in Phase}
        phases = {phase: one for phase, one in found.items() if one is not None}
        return cls(phases, cache_cost(boots), warm_enough(boots), prefetched_enough(boots))

    def of_phase(self, phase: Phase) -> Summary | None:
        """The boots of one phase; None when there was none."""
        return self.phases.get(phase)


def boot_rows(boots: Sequence[BootResult]) -> list[list[str]]:
    """One row for each boot, under BOOT_COLUMNS."""
    return [
        [
            str(boot.run),
            boot.clone,
            boot.phase.value,
            f"{boot.seconds:.2f}",
            "-" if boot.io_seconds is None else f"{boot.io_seconds:.2f}",
            f"{boot.cpu_seconds:.1f}",
            f"{boot.requests:,}",
            mib(boot.read_bytes),
            percent(boot.hit_rate_bytes),
            percent(boot.hit_rate_requests),
            f"{boot.backend_requests:,}",
            mib(boot.backend_bytes),
            f"{boot.amplification:.3f}",
        ]
        for boot in boots
    ]


def comparison_rows(digest: Digest) -> list[list[str]]:
    """The phases side by side: a head with their names, then the figure's name and the value in each."""

    def row(name: str, show: Callable[[Summary], str]) -> list[str]:
        return [name, *map(show, digest.phases.values())]

    return [
        ["", *digest.phases],
        row("boots", lambda s: str(s.boots)),
        row("boot time, median", lambda s: f"{s.seconds.median:.2f} s"),
        row("least to most", lambda s: f"{s.seconds.least:.1f} to {s.seconds.most:.1f} s"),
        row("I/O wait, median", lambda s: _median(s.io_seconds)),
        row("the rest, median", lambda s: _median(s.rest_seconds)),
        row("processor time of QEMU, median", lambda s: f"{s.cpu_spread.median:.1f} s"),
        row("its least to most", lambda s: f"{s.cpu_spread.least:.1f} to {s.cpu_spread.most:.1f} s"),
        row("requests a boot", lambda s: f"{s.requests:,.0f}"),
        row("read a boot", lambda s: f"{mib(s.read_bytes)} MiB"),
        row("hit rate by bytes", lambda s: percent(s.hit_rate_bytes)),
        row("hit rate by requests", lambda s: percent(s.hit_rate_requests)),
        row("backend reads a boot", lambda s: f"{s.backend_requests:,.0f}"),
        row("read from the backend a boot", lambda s: f"{mib(s.backend_bytes)} MiB"),
        row("read amplification", lambda s: f"{s.amplification:.3f}"),
    ]


def _median(spread: Spread | None) -> str:
    return "-" if spread is None else f"{spread.median:.2f} s"


def conclusions(measurement: Measurement, digest: Digest) -> list[str]:
    """The results in sentences."""
    prefetched, warm = digest.of_phase(Phase.PREFETCHED), digest.of_phase(Phase.WARM)
    *others, base = digest.phases.values()
    lines = [
        f"A {base.phase} boot took {base.seconds.median:.1f} s, a {one.phase} one {one.seconds.median:.1f} s"
        f" ({one.phase} / {base.phase} {one.seconds.median / base.seconds.median:.2f}, of medians)."
        for one in others
    ]
    if warm is not None:
        verdict = "kept" if digest.warm_enough else "NOT KEPT"
        lines.append(
            f"Warm boots of clones that never booted before read {warm.amplification:.2%} of their bytes from"
            f" the backend (limit {WARM_SHARE:.0%}: {verdict})."
        )
    if prefetched is not None:
        verdict = "kept" if digest.prefetched_enough else "NOT KEPT"
        least = min(boot.hit_rate_bytes for boot in measurement.boots if boot.phase is Phase.PREFETCHED)
        lines.append(
            f"The first boots after a prefetch found {percent(prefetched.hit_rate_bytes)} of their bytes in the cache,"
            f" the worst of them {percent(least)} (at least {PREFETCHED_HITS:.0%}: {verdict})."
        )
    if measurement.prefetches:
        took = median(each.seconds for each in measurement.prefetches)
        lines.append(
            f"The prefetch of {mib(measurement.prefetches[-1].total_bytes)} MiB took {took:.1f} s before each of them"
            " (median), which is not part of their boot time."
        )
    if digest.cost is not None and digest.cost.clones > 1:
        lines.append(
            f"The cache took in {mib(digest.cost.first_bytes)} MiB while the first clone booted and"
            f" {mib(digest.cost.all_bytes)} MiB for all {digest.cost.clones}: {digest.cost.clones} clones cost"
            f" {digest.cost.ratio:.2f} times the first, what the guests wrote included."
        )
    return lines


def text(measurement: Measurement) -> str:
    """The measurement for a terminal."""
    digest = Digest.of(measurement.boots)
    about = measurement.facts
    parts = [
        f"Boots of {measurement.template}, {about.taken}",
        columns([["host:", about.host], ["guests:", about.guests], ["appliance:", about.appliance]], right=()),
        columns([list(BOOT_COLUMNS), *boot_rows(measurement.boots)], right=range(3, len(BOOT_COLUMNS))),
        columns(comparison_rows(digest), right=range(1, len(digest.phases) + 1)),
        "\n".join(conclusions(measurement, digest)),
    ]
    parts += [f"Note: {note}." for note in measurement.notes]
    parts += [
        f"{latency.device}, {latency.phase}: {latency.total:,} requests\n{ascii_form(latency.counts)}"
        for latency in measurement.latencies
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_json(measurement: Measurement) -> str:
    """The measurement for programs: sizes in bytes, times in seconds, latencies in microseconds."""
    digest = Digest.of(measurement.boots)
    cost, boot_set = digest.cost, measurement.boot_set
    document: dict[str, Any] = {
        "format": FORMAT,
        "kind": "boot",
        "template": measurement.template,
        "facts": asdict(measurement.facts),
        "boots": [
            asdict(boot)
            | {
                "rest_seconds": boot.rest_seconds,
                "hit_rate_bytes": boot.hit_rate_bytes,
                "hit_rate_requests": boot.hit_rate_requests,
                "amplification": boot.amplification,
            }
            for boot in measurement.boots
        ],
        "summary": {phase: asdict(digest.phases[phase]) if phase in digest.phases else None for phase in Phase},
        "cache_cost": asdict(cost) | {"ratio": cost.ratio} if cost else None,
        "warm_enough": digest.warm_enough,
        "prefetched_enough": digest.prefetched_enough,
        "prefetches": [each.model_dump() for each in measurement.prefetches],
        "boot_set": boot_set.model_dump(exclude=DRAWN) if boot_set else None,
        "histograms": [asdict(latency) for latency in measurement.latencies],
        "notes": list(measurement.notes),
    }
    return json.dumps(document, indent=2) + "\n"


def page(measurement: Measurement) -> str:
    """The measurement as one HTML file with its plots inside. Raises NotReady without matplotlib."""
    digest = Digest.of(measurement.boots)
    return pages.render(
        "report.html.j2",
        heading=f"Boots of {measurement.template}",
        facts=measurement.facts,
        notes=measurement.notes,
        columns=BOOT_COLUMNS,
        rows=boot_rows(measurement.boots),
        comparison=comparison_rows(digest),
        conclusions=conclusions(measurement, digest),
        cards=cards(digest),
        time_plot=plots.boot_times(measurement.boots),
        source_plot=plots.sources(measurement.boots),
        hit_plot=plots.hit_rates(measurement.boots),
        heat_maps=maps.heat_maps(measurement.latencies),
        boot_set=measurement.boot_set,
        disk_map=maps.disk_map(measurement.boot_set) if measurement.boot_set else "",
    )


def cards(digest: Digest) -> list[tuple[str, str, str]]:
    """The most wanted figures: name, value, remark."""
    found: list[tuple[str, str, str]] = []
    remarks = {
        Phase.COLD: "cache empty",
        Phase.PREFETCHED: "cache empty but for the boot set",
        Phase.WARM: "after another clone's boot",
    }
    for phase, one in digest.phases.items():
        found.append((f"{phase.capitalize()} boot", f"{one.seconds.median:.1f} s", f"median; {remarks[phase]}"))
    if fast := digest.of_phase(Phase.PREFETCHED) or digest.of_phase(Phase.WARM):
        found.append(("From the cache", percent(fast.hit_rate_bytes), f"of a {fast.phase} boot's bytes"))
    if cold := digest.of_phase(Phase.COLD):
        found.append(("Read amplification", f"{cold.amplification:.2f}", "backend bytes a byte read, cold"))
    if digest.cost and digest.cost.clones > 1:
        found.append((f"{digest.cost.clones} clones cost", f"{digest.cost.ratio:.2f} x", "the cache of the first"))
    return found


def columns(rows: Sequence[Sequence[str]], *, right: Sequence[int]) -> str:
    """Rows of words as aligned columns; the columns ``right`` are right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def mib(count: float) -> str:
    """Bytes as MiB with one decimal."""
    return f"{count / MIB:,.1f}"
