"""What ``script/bench learn`` measured, and its rows. Pure."""

import json
from dataclasses import asdict, dataclass, field
from statistics import median

from appliance.schema import PrefetchView
from bench.report import Report, Row, at_least, at_most, paired, ratio


@dataclass(frozen=True)
class Booted:
    """One boot: seconds to the login prompt, bytes read, bytes that the backend was read for.

    ``service_cpu``: seconds of processor time that hatcheryd used from the clone's making to the end of what its boot
    led to. ``io_seconds``: in which the clone's device had a request under way. ``guest_cpu``: processor seconds that
    QEMU used.
    """

    name: str
    seconds: float
    read_bytes: int
    backend_bytes: int
    service_cpu: float
    io_seconds: float
    guest_cpu: float


@dataclass(frozen=True)
class Replayed:
    """A boot's reads, asked for one after the other of two fresh clones of a warm template: the seconds of each."""

    recorded: float
    unrecorded: float


@dataclass
class Found:
    """All that was measured, in order. ``ever`` and ``first`` are None where no guest was booted."""

    ever: Booted | None = None
    """Of the template's first clone, with the cache as the import left it."""
    first: Booted | None = None
    """After the cache was emptied, with nothing to fetch into it yet."""
    prefetched: list[Booted] = field(default_factory=list)
    warm: list[Booted] = field(default_factory=list)
    recorded: list[Booted] = field(default_factory=list)
    unrecorded: list[Booted] = field(default_factory=list)
    replays: list[Replayed] = field(default_factory=list)
    prefetches: list[PrefetchView] = field(default_factory=list)
    """Of the large boot set."""
    sequential: list[float] = field(default_factory=list)
    """Bytes a second, of the array alone."""


def report(found: Found, host: dict[str, str]) -> Report:
    """The rows. Pure."""

    def seconds(boots: list[Booted]) -> list[float]:
        return [boot.seconds for boot in boots]

    def hits(boots: list[Booted]) -> list[float]:
        return [1 - boot.backend_bytes / boot.read_bytes for boot in boots]

    rows = []
    if found.ever:
        rows.append(
            Row(
                "first_ever_hit_bytes",
                hits([found.ever])[0],
                "share",
                "bytes of the first boot ever of a template, right after its import and without a boot set, that the"
                " backend was not needed for: what an import writes goes through the cache and stays there",
                at_least(0.99),
                {"first ever": hits([found.ever])},
            )
        )
    if found.prefetched:
        rows += [
            Row(
                "boot_prefetched_over_warm",
                ratio(seconds(found.prefetched), seconds(found.warm)),
                "ratio",
                "median seconds of real boots to the login prompt, with an empty cache that the boot set was fetched"
                " into, over those of the clones that booted next",
                at_most(1.03),
                {
                    "first, from disk, s": seconds([found.first] if found.first else []),
                    "prefetched, s": seconds(found.prefetched),
                    "warm, s": seconds(found.warm),
                },
            ),
            _of_pairs("boot_prefetched_over_warm", found.prefetched, found.warm),
            _waited_more(found.prefetched, found.warm),
            Row(
                "boot_prefetched_hit_bytes",
                min(hits(found.prefetched)),
                "share",
                "bytes of a real boot, the first after a prefetch, that the backend was not needed for; the worst boot",
                at_least(0.99),
                {
                    "first": hits([found.first] if found.first else []),
                    "prefetched": hits(found.prefetched),
                    "warm": hits(found.warm),
                },
            ),
        ]
    if found.prefetches:
        # What a later pass took once more is no gain, and where the template has holes nothing is read.
        rates = [min(each.total_bytes, each.backend_bytes) / each.seconds for each in found.prefetches]
        rows.append(
            Row(
                "prefetch_over_sequential",
                paired(rates, found.sequential),
                "ratio",
                "bytes a second that the prefetch of a boot set of 100 MiB and more takes from the backend, all passes"
                " and their check included, over those of reading as much from the array in order",
                at_least(0.8),
                {"prefetch, MB/s": [r / 1e6 for r in rates], "array, MB/s": [r / 1e6 for r in found.sequential]},
            )
        )
    booted = found.unrecorded or found.warm
    if found.replays and booted:
        with_it = [each.recorded for each in found.replays]
        without = [each.unrecorded for each in found.replays]
        more = [one - other for one, other in zip(with_it, without, strict=True)]
        rows += [
            Row(
                "learning_cost",
                median(more) / median(seconds(booted)),
                "share",
                "seconds that the reads of a warm boot, one after the other, take longer when they are recorded, of the"
                " median seconds of a boot that is not recorded; the median of pairs of replays, recorded and not",
                at_most(0.03),
                {
                    "replay, recorded, s": with_it,
                    "replay, unrecorded, s": without,
                    "recorded less unrecorded, s": more,
                    "boot, s": seconds(booted),
                },
            ),
            Row(
                "learning_cost_reads",
                paired(with_it, without) - 1,
                "share",
                "the same, of the seconds that the reads take by themselves, which a guest that computes hides",
                None,
                {},
            ),
        ]
    if found.recorded:
        cpu = [one.service_cpu - other.service_cpu for one, other in zip(found.recorded, found.unrecorded, strict=True)]
        rows += [
            Row(
                "learning_cost_boots",
                ratio(seconds(found.recorded), seconds(found.unrecorded)) - 1,
                "share",
                "median seconds that whole warm boots take longer when they are recorded, of those of others",
                None,
                {"recorded, s": seconds(found.recorded), "unrecorded, s": seconds(found.unrecorded)},
            ),
            _of_pairs("learning_cost_boots", found.recorded, found.unrecorded, less=1),
            Row(
                "learning_cpu_share",
                median(one / boot.seconds for one, boot in zip(cpu, found.unrecorded, strict=True)),
                "share",
                "processor seconds that hatcheryd used more for a recorded boot, until its boot set was made, of the"
                " boot's seconds: most of them come after the boot; median",
                None,
                {"hatcheryd's processor seconds more": cpu},
            ),
        ]
    figures = json.loads(json.dumps(asdict(found), default=lambda view: view.model_dump()))
    return Report("learn", host, tuple(rows), figures=figures)


def _waited_more(prefetched: list[Booted], warm: list[Booted]) -> Row:
    """What storage alone adds to a boot, whatever the host's speed does to the rest of it."""
    kinds = {"prefetched": prefetched, "warm": warm}
    waits = {f"{kind}, waits for storage, s": [boot.io_seconds for boot in boots] for kind, boots in kinds.items()}
    more = median(boot.io_seconds for boot in prefetched) - median(boot.io_seconds for boot in warm)
    return Row(
        "boot_prefetched_waits_more",
        more / median(boot.seconds for boot in warm),
        "share",
        "median seconds in which a prefetched boot's disk has a request under way, less those of a warm boot's, of a"
        " warm boot's seconds",
        None,
        {**waits, **{f"{kind}, QEMU's processor, s": [b.guest_cpu for b in boots] for kind, boots in kinds.items()}},
    )


def _of_pairs(name: str, above: list[Booted], below: list[Booted], less: float = 0) -> Row:
    """Beside a row of medians: the same of boots one after the other, which drift does not move, and the spread."""
    many, few = [boot.seconds for boot in above], [boot.seconds for boot in below]
    spread = max(max(each) / min(each) for each in (many, few))
    note = f"the same as {name}, the median of pairs; single boots of one kind differ by up to {spread - 1:.0%}"
    return Row(f"{name}_pairs", paired(many, few) - less, "share" if less else "ratio", note, None, {})
