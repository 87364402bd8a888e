"""A measurement as text, as JSON and as a page."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import jinja2

from appliance.measure import plots
from appliance.measure.histogram import Latency, ascii_form
from appliance.measure.result import (
    WARM_SHARE,
    BootResult,
    CacheCost,
    Phase,
    Summary,
    cache_cost,
    summary,
    warm_enough,
)
from appliance.measure.session import Measurement
from appliance.model import MIB

FORMAT = 1
"""Version of the JSON form; grows when a field changes its meaning or goes away."""

BOOT_COLUMNS = (
    "run",
    "clone",
    "cache",
    "seconds",
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

    cold: Summary | None
    warm: Summary | None
    cost: CacheCost | None
    warm_enough: bool | None

    @classmethod
    def of(cls, boots: Sequence[BootResult]) -> "Digest":
        """Of these boots."""
        return cls(summary(boots, Phase.COLD), summary(boots, Phase.WARM), cache_cost(boots), warm_enough(boots))


def boot_rows(boots: Sequence[BootResult]) -> list[list[str]]:
    """One row for each boot, under BOOT_COLUMNS."""
    return [
        [
            str(boot.run),
            boot.clone,
            boot.phase.value,
            f"{boot.seconds:.2f}",
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
    """Cold and warm side by side: the figure's name and both values."""

    def both(name: str, cold: str, warm: str) -> list[str]:
        return [name, cold, warm]

    def cells(show: Any) -> tuple[str, str]:
        cold, warm = ("-" if one is None else str(show(one)) for one in (digest.cold, digest.warm))
        return cold, warm

    return [
        both("boots", *cells(lambda s: s.boots)),
        both("boot time, mean", *cells(lambda s: f"{s.seconds.mean:.2f} s")),
        both("boot time, least to most", *cells(lambda s: f"{s.seconds.least:.2f} to {s.seconds.most:.2f} s")),
        both("processor time of QEMU", *cells(lambda s: f"{s.cpu_seconds:.1f} s")),
        both("requests a boot", *cells(lambda s: f"{s.requests:,.0f}")),
        both("read a boot", *cells(lambda s: f"{mib(s.read_bytes)} MiB")),
        both("hit rate by bytes", *cells(lambda s: percent(s.hit_rate_bytes))),
        both("hit rate by requests", *cells(lambda s: percent(s.hit_rate_requests))),
        both("backend reads a boot", *cells(lambda s: f"{s.backend_requests:,.0f}")),
        both("read from the backend a boot", *cells(lambda s: f"{mib(s.backend_bytes)} MiB")),
        both("read amplification", *cells(lambda s: f"{s.amplification:.3f}")),
    ]


def conclusions(digest: Digest) -> list[str]:
    """The results in sentences."""
    lines = []
    if digest.cold and digest.warm:
        ratio = digest.cold.seconds.mean / digest.warm.seconds.mean
        lines.append(
            f"A warm boot took {digest.warm.seconds.mean:.1f} s, a cold one {digest.cold.seconds.mean:.1f} s"
            f" (cold / warm {ratio:.2f})."
        )
    if digest.warm is not None:
        verdict = "kept" if digest.warm_enough else "NOT KEPT"
        lines.append(
            f"Warm boots of clones that never booted before read {digest.warm.amplification:.2%} of their bytes from"
            f" the backend (limit {WARM_SHARE:.0%}: {verdict})."
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
        columns([["", "cold", "warm"], *comparison_rows(digest)], right=(1, 2)),
        "\n".join(conclusions(digest)),
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
    cost = digest.cost
    document: dict[str, Any] = {
        "format": FORMAT,
        "template": measurement.template,
        "facts": asdict(measurement.facts),
        "boots": [
            asdict(boot)
            | {
                "hit_rate_bytes": boot.hit_rate_bytes,
                "hit_rate_requests": boot.hit_rate_requests,
                "amplification": boot.amplification,
            }
            for boot in measurement.boots
        ],
        "summary": {
            phase: asdict(found) if found else None for phase, found in (("cold", digest.cold), ("warm", digest.warm))
        },
        "cache_cost": asdict(cost) | {"ratio": cost.ratio} if cost else None,
        "warm_enough": digest.warm_enough,
        "histograms": [asdict(latency) for latency in measurement.latencies],
        "notes": list(measurement.notes),
    }
    return json.dumps(document, indent=2) + "\n"


def page(measurement: Measurement) -> str:
    """The measurement as one HTML file with its plots inside. Raises NotReady without matplotlib."""
    digest = Digest.of(measurement.boots)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("appliance.measure", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        measurement=measurement,
        digest=digest,
        columns=BOOT_COLUMNS,
        rows=boot_rows(measurement.boots),
        comparison=comparison_rows(digest),
        conclusions=conclusions(digest),
        cards=cards(digest),
        time_plot=plots.boot_times(measurement.boots),
        source_plot=plots.sources(measurement.boots),
        hit_plot=plots.hit_rates(measurement.boots),
        devices=_devices(measurement.latencies),
        ascii_form=ascii_form,
    )


def cards(digest: Digest) -> list[tuple[str, str, str]]:
    """The most wanted figures: name, value, remark."""
    found: list[tuple[str, str, str]] = []
    if digest.cold:
        found.append(("Cold boot", f"{digest.cold.seconds.mean:.1f} s", "cache empty"))
    if digest.warm:
        found.append(("Warm boot", f"{digest.warm.seconds.mean:.1f} s", "clones that never booted before"))
        found.append(("From the cache", percent(digest.warm.hit_rate_bytes), "of a warm boot's bytes"))
    if digest.cold:
        found.append(("Read amplification", f"{digest.cold.amplification:.2f}", "backend bytes a byte read, cold"))
    if digest.cost and digest.cost.clones > 1:
        found.append((f"{digest.cost.clones} clones cost", f"{digest.cost.ratio:.2f} x", "the cache of the first"))
    return found


def _devices(latencies: Sequence[Latency]) -> list[tuple[str, str, list[Latency]]]:
    """Histograms of both phases by device: its name, the plot, the histograms."""
    names = list(dict.fromkeys(latency.device for latency in latencies))
    grouped = [(name, [latency for latency in latencies if latency.device == name]) for name in names]
    return [(name, plots.latency(group), group) for name, group in grouped]


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


def percent(share: float | None) -> str:
    """A share for people; ``-`` when not known. Never rounds what is below 1 up to 100 %."""
    if share is None:
        return "-"
    shown = f"{share:.2%}"
    return "99.99%" if shown == "100.00%" and share < 1 else shown
