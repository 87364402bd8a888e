"""Rows and tables of ``script/bench peers`` from what was measured. Pure.

What was measured comes as ``found[set-up][trace][what][figure]``, a list of single values; the clones' costs as
``found[set-up]["clones"][how many][figure]``. Seconds and bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from appliance.model import KIB, MIB
from bench.report import Limit, Relation, Row, Table, at_least, at_most, number, paired, ratio

Figures = Mapping[str, Mapping[str, Sequence[float]]]
Found = Mapping[str, Mapping[str, Figures]]

NAMES: Mapping[str, str] = {
    "hatchery": "Hatchery",
    "lvm": "LVM thin, lvmcache",
    "qcow2": "qcow2 overlays",
    "nbdkit": "nbdkit, cow and cache",
    "raw-array": "raw array",
}
CLONES = "clones"
RAW_NVME = "raw NVMe"
MEANWHILE = "meanwhile"
"""A first boot that begins together with the prefetch; bytes are those of both."""

ELSEWHERE: Mapping[str, Limit] = {
    "prefetch_over_sequential": at_least(0.8),
    "first_ever_hit_bytes": at_least(0.99),
    "boot_prefetched_over_warm": at_most(1.03),
    "boot_prefetched_hit_bytes": at_least(0.99),
    "learning_cost": at_most(0.03),
}
"""Rows that real boots on the built image give, and User-Mode Linux cannot; they are read from other reports."""


def at_once(clients: int, kind: str) -> str:
    """The name of so many boots at once among the figures; of one there are others already."""
    return kind if clients == 1 else f"storm {clients} {kind}"


class Boots:
    """One trace's figures of Hatchery and of LVM, and what the trace reads: ``distinct`` bytes, in blocks of 4 KiB."""

    def __init__(self, hatchery: Figures, lvm: Figures, distinct: int) -> None:
        self.hatchery = hatchery
        self.lvm = lvm
        self.distinct = distinct

    def seconds(self, what: str) -> Sequence[float]:
        """Seconds of Hatchery's boots."""
        return self.hatchery[what]["seconds"]

    def hit_bytes(self) -> list[float]:
        """Share of what prefetched boots read that came from the cache."""
        found = self.hatchery["prefetched"]
        return [1 - back / client for back, client in zip(found["backend"], found["client"], strict=True)]

    def amplification(self) -> list[float]:
        """Bytes read from the backend, the prefetch's included, over those that the client read."""
        found, fetched = self.hatchery["prefetched"], self.hatchery["prefetch"]
        each = zip(fetched["backend"], found["backend"], found["client"], strict=True)
        return [(ahead + back) / client for ahead, back, client in each]

    def waste(self) -> list[float]:
        """Share of the prefetched bytes that the boot did not read."""
        found, fetched = self.hatchery["prefetched"], self.hatchery["prefetch"]
        each = zip(fetched["backend"], found["backend"], strict=True)
        return [max(0.0, 1 - (self.distinct - back) / ahead) if ahead else 0.0 for ahead, back in each]

    def storm(self, clients: int, figure: str) -> list[float]:
        """What a prefetch and so many boots at once added, together."""
        ahead = self.hatchery[at_once(clients, "prefetch")][figure]
        boots = self.hatchery[at_once(clients, "prefetched")][figure]
        return [one + other for one, other in zip(ahead, boots, strict=True)]


def rows(found: Found, distinct: Mapping[str, int]) -> tuple[Row, ...]:
    """The rows. ``distinct``: bytes that each trace reads at least once.

    With several traces a row's value is that of the trace where it is worst. A row is left out while what it needs was
    not measured.
    """
    every = {
        trace: Boots(found["hatchery"][trace], found.get("lvm", {}).get(trace, {}), size)
        for trace, size in distinct.items()
    }
    made = [_row(every, definition) for definition in _DEFINITIONS]
    return tuple(row for row in made if row is not None)


Compute = Callable[[Boots], tuple[float, dict[str, Sequence[float]]]]


def _times(above: str, below: str, compare: Callable[[Sequence[float], Sequence[float]], float]) -> Compute:
    """Seconds over seconds; ``lvm NAME`` is LVM's."""

    def compute(boots: Boots) -> tuple[float, dict[str, Sequence[float]]]:
        def seconds(what: str) -> Sequence[float]:
            return boots.lvm[what[4:]]["seconds"] if what.startswith("lvm ") else boots.seconds(what)

        one, other = seconds(above), seconds(below)
        return compare(one, other), {f"{above}, s": one, f"{below}, s": other}

    return compute


def _median(what: str, of: Callable[[Boots], Sequence[float]]) -> Compute:
    def compute(boots: Boots) -> tuple[float, dict[str, Sequence[float]]]:
        values = of(boots)
        return median(values), {what: values}

    return compute


def _storms(figure: str) -> Compute:
    def compute(boots: Boots) -> tuple[float, dict[str, Sequence[float]]]:
        many, one = boots.storm(50, figure), boots.storm(1, figure)
        return ratio(many, one), {"50 boots, bytes": many, "1 boot, bytes": one}

    return compute


def _cold_storms(figure: str) -> Compute:
    def compute(boots: Boots) -> tuple[float, dict[str, Sequence[float]]]:
        many, one = boots.hatchery[at_once(50, "first")][figure], boots.hatchery["first"][figure]
        return ratio(many, one), {"50 boots, bytes": many, "1 boot, bytes": one}

    return compute


def _meanwhile(boots: Boots) -> tuple[float, dict[str, Sequence[float]]]:
    both, alone = boots.hatchery[MEANWHILE]["backend"], boots.hatchery["prefetch"]["backend"]
    return ratio(both, alone), {"both, bytes": both, "prefetch, bytes": alone}


@dataclass(frozen=True)
class Definition:
    """A row that is to be: its name, what it says, its limit if it has one, and how it is computed from one trace."""

    name: str
    note: str
    limit: Limit | None
    compute: Compute

    @property
    def unit(self) -> str:
        """A share of something is between 0 and 1."""
        return "share" if self.note.startswith("share ") else "ratio"


_DEFINITIONS: Sequence[Definition] = (
    Definition(
        "prefetched_hit_bytes",
        "share of the bytes read by the first boot after a prefetch into an empty cache that did not come from the"
        " backend; median; the boot set is made of this very boot, and of boots that it is not made of"
        " boot_prefetched_hit_bytes tells",
        at_least(0.995),
        _median("share", Boots.hit_bytes),
    ),
    Definition(
        "prefetched_over_warm",
        "seconds of that boot over those of the next clone's; they take turns, median of the ratios of the pairs",
        at_most(1.05),
        _times("prefetched", "warm", paired),
    ),
    Definition(
        "prefetched_over_raw_nvme",
        "the same against the replay from a raw NVMe partition of the same drive through the same kind of server, which"
        " follows it",
        at_most(1.3),
        _times("prefetched", RAW_NVME, paired),
    ),
    Definition(
        "lvmcache_first_over_prefetched",
        "the first boot with LVM's thin pool and lvmcache, its cache new, over Hatchery's first boot after a prefetch;"
        " medians",
        at_least(20),
        _times("lvm first", "prefetched", ratio),
    ),
    Definition(
        "lvmcache_second_over_warm",
        "the boot of LVM's second clone, right after the first, over Hatchery's warm boot; medians",
        at_least(5),
        _times("lvm second", "warm", ratio),
    ),
    Definition(
        "total_read_amplification",
        "bytes read from the backend by the prefetch and by the boot after it, over those that the boot read; median",
        at_most(1.1),
        _median("ratio", Boots.amplification),
    ),
    Definition(
        "prefetch_waste",
        "share of the prefetched bytes that the boot then did not read; median",
        at_most(0.1),
        _median("share", Boots.waste),
    ),
    Definition(
        "storm50_backend_bytes_over_one",
        "bytes read from the backend by a prefetch into an empty cache and 50 boots at once after it, over those of a"
        " prefetch and one boot; without the prefetch they miss together, and read more: see the tables",
        at_most(1.02),
        _storms("backend"),
    ),
    Definition(
        "storm50_cache_bytes_over_one",
        "bytes written to the cache's partition by the same, over the same",
        at_most(1.05),
        _storms("cache"),
    ),
    Definition(
        "storm50_time_over_fair_share",
        "seconds until the last of 50 prefetched boots at once is done, over those of 50 clients that read the same"
        " from the raw NVMe partition at once: the same bytes at the rate that it reaches at the same depth; they take"
        " turns, median of the ratios of the pairs",
        at_most(1.2),
        _times("storm 50 prefetched", "storm 50 raw NVMe", paired),
    ),
    Definition(
        "storm50_cold_backend_bytes_over_one",
        "bytes read from the backend by 50 boots at once with an empty cache and no prefetch, over those of one: bcache"
        " reads what several miss at the same time for each of them",
        None,
        _cold_storms("backend"),
    ),
    Definition(
        "storm50_cold_cache_bytes_over_one", "bytes written to the cache by the same", None, _cold_storms("cache")
    ),
    Definition(
        "meanwhile_backend_over_prefetch",
        "bytes read from the backend by a first boot and the prefetch that begins with it, over those of a prefetch"
        " alone; medians",
        None,
        _meanwhile,
    ),
)


def names() -> tuple[str, ...]:
    """The rows that a whole report has."""
    return (*(definition.name for definition in _DEFINITIONS if definition.limit), *ELSEWHERE)


def _row(every: Mapping[str, Boots], wanted: Definition) -> Row | None:
    values: dict[str, float] = {}
    runs: dict[str, Sequence[float]] = {}
    for trace, boots in every.items():
        try:
            values[trace], single = wanted.compute(boots)
        except (KeyError, ValueError):
            continue  # not measured for this trace, or it broke off between two that take turns
        runs |= {f"{trace}: {what}": numbers for what, numbers in single.items()}
    if not values:
        return None
    least = wanted.limit is not None and wanted.limit.relation is Relation.AT_LEAST
    worst = min(values.values()) if least else max(values.values())
    note = wanted.note
    if len(values) > 1:
        note += "; by trace: " + ", ".join(f"{trace} {number(value)}" for trace, value in values.items())
    return Row(wanted.name, worst, wanted.unit, note, wanted.limit, runs)


def merged(reports: Sequence[Mapping[str, Any]]) -> tuple[Row, ...]:
    """The rows of other reports (as their JSON) that belong into this one; the last report that has one counts."""
    taken: dict[str, Row] = {}
    for report in reports:
        for row in report["rows"]:
            if row["name"] in ELSEWHERE:
                name = row["name"]
                note = f"{row['note']} (from the bench {report['bench']}, {report['host'].get('taken', 'undated')})"
                taken[name] = Row(name, float(row["value"]), row["unit"], note, ELSEWHERE[name], row.get("runs", {}))
    return tuple(taken[name] for name in ELSEWHERE if name in taken)


def tables(found: Found, traces: Sequence[str]) -> tuple[Table, ...]:
    """The peers side by side: boots and storms by trace, then what clones cost. Medians."""
    made: list[Table] = []
    for trace in traces:
        here = {key: measured[trace] for key, measured in found.items() if trace in measured}
        made += [_boots(here, trace), _storm_table(here, trace)]
    return (*made, _clones({key: measured[CLONES] for key, measured in found.items() if CLONES in measured}))


def _boots(found: Mapping[str, Figures], trace: str) -> Table:
    lines = []
    for key, figures in found.items():
        times = [_seconds(figures, what) for what in ("first", "second", "prefetch", "prefetched")]
        backend = [_mib(figures, what, "backend") for what in ("first", "second", "prefetched")]
        lines.append([NAMES[key], *times, *backend, _mib(figures, "first", "cache")])
    hatchery = found.get("hatchery", {})
    if MEANWHILE in hatchery:
        cells = [_seconds(hatchery, MEANWHILE), "", "", "", _mib(hatchery, MEANWHILE, "backend"), "", ""]
        lines.append([f"{NAMES['hatchery']}, while it is prefetched", *cells, _mib(hatchery, MEANWHILE, "cache")])
    if RAW_NVME in hatchery:
        lines.append([RAW_NVME, _seconds(hatchery, RAW_NVME), *[""] * 7])
    head = (
        "set-up", "first boot, s", "second clone, s", "its prefetch, s", "prefetched, s",
        "backend MiB: first", "second", "prefetched", "cache MiB: first",
    )  # fmt: skip
    return Table(f"Boots, {trace}", head, tuple(map(tuple, lines)))


def _storm_table(found: Mapping[str, Figures], trace: str) -> Table:
    every = {what for figures in found.values() for what in figures if what.startswith("storm")}
    counts = sorted({1, *(int(what.split()[1]) for what in every)})
    lines = []
    for key, figures in found.items():
        lines.append([NAMES[key], *_storm_cells(figures, "first", counts)])
        if key == "hatchery":
            lines.append([f"{NAMES[key]}, prefetched", *_storm_cells(figures, "prefetched", counts)])
            lines.append([RAW_NVME, *_storm_cells(figures, RAW_NVME, counts)])
    head = ["set-up"]
    for title in ("last of {} done, s", "backend MiB of {}", "cache MiB a clone of {}"):
        head += [title.format(count) for count in counts]
    return Table(f"Boots at once, {trace}", tuple(head), tuple(tuple(line) for line in lines if any(line[1:])))


def _storm_cells(figures: Figures, kind: str, counts: Sequence[int]) -> list[str]:
    names = [at_once(count, kind) for count in counts]
    seconds = [_seconds(figures, name) for name in names]
    if kind == RAW_NVME:
        return [*seconds, *[""] * (2 * len(counts))]
    backend = [_mib(figures, name, "backend") for name in names]
    return [*seconds, *backend, *(_mib(figures, name, "cache", n) for name, n in zip(names, counts, strict=True))]


def _clones(found: Mapping[str, Figures]) -> Table:
    counts = sorted({int(count) for figures in found.values() for count in figures})
    head = ["set-up"]
    head += [f"one more beside {count:,}, ms" for count in counts] + [f"KiB a clone of {count:,}" for count in counts]
    lines = []
    for key, figures in found.items():
        cells = [NAMES[key]]
        cells += [_cell(figures, str(count), "seconds", 1e-3) for count in counts]
        cells += [_cell(figures, str(count), "space", KIB) for count in counts]
        lines.append(tuple(cells))
    return Table("What clones cost", tuple(head), tuple(lines))


def _seconds(figures: Figures, what: str) -> str:
    return _cell(figures, what, "seconds", 1)


def _mib(figures: Figures, what: str, figure: str, share: int = 1) -> str:
    return _cell(figures, what, figure, MIB * share)


def _cell(figures: Figures, what: str, figure: str, unit: float) -> str:
    values = figures.get(what, {}).get(figure, ())
    return number(median(values) / unit) if values else ""
