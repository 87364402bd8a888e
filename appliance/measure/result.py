"""What the counters say: results computed from readings before and after, apart from all I/O.

The words mean what docs/architecture.md says: *requests* and *bytes read* are reads that the clone's device received
during the boot, *backend reads* those that the backend array received; the hit rate by bytes is
1 - backend bytes / client bytes, the one by requests is bcache's own (a partial hit is a miss); *read amplification*
is backend bytes / client bytes; the *cache cost of N clones* is the bytes that the cache took in while N clones
booted, divided by those of the first. *I/O wait* is the time in which the clone's device had a request under way:
the guest may have computed meanwhile, so it is the most that faster storage could save.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from statistics import fmean, median

from appliance.errors import CannotTell, Unhealthy
from appliance.schema import BootSetSummary, Counters, DeviceCounters, PrefetchView

COLD_SHARE = 0.75
"""What was to begin cold and took less than this share of its bytes from the backend did not. It is not all of them,
because what is read twice comes from the cache the second time. A prefetch into an empty cache is held to it, too."""

COLD_KNOWN_SHARE = 0.9
"""The same where it is known what is read, each byte counted once: no boot reads quite the same as another."""

WARM_SHARE = 0.01
"""Warm boots read at most this share of their bytes from the backend, all of them together: a single guest may happen
to read something that none before it did."""

PREFETCHED_HITS = 0.99
"""Every boot after a prefetch finds at least this share of its bytes in the cache."""

MILLIS_WRAP = 1 << 32
"""The kernel counts milliseconds in 32 bits (block/genhd.c, part_stat_show)."""


class Phase(StrEnum):
    """How the cache was when the boot began."""

    COLD = "cold"
    PREFETCHED = "prefetched"
    WARM = "warm"


@dataclass(frozen=True, slots=True)
class BootResult:
    """One boot. Times in seconds; ``hits`` and ``misses`` are None when bcache's counters could not be read exactly.

    ``io_seconds``: in which the clone's device had a request under way; None from an appliance that does not say.
    ``cached_bytes``: what the pool asked of cache and backend, so without what the template has nothing of.
    """

    run: int
    clone: str
    phase: Phase
    seconds: float
    cpu_seconds: float
    requests: int
    read_bytes: int
    written_bytes: int
    backend_requests: int
    backend_bytes: int
    cache_read_bytes: int
    cache_added_bytes: int
    bypassed_bytes: int
    hits: int | None
    misses: int | None
    io_seconds: float | None = None
    cached_bytes: int | None = None

    @property
    def rest_seconds(self) -> float | None:
        """Seconds of the boot without any request under way."""
        return None if self.io_seconds is None else self.seconds - self.io_seconds

    @property
    def hit_rate_bytes(self) -> float:
        """Share of the bytes that did not need the backend, at least 0 (read-ahead can exceed what was asked)."""
        return max(0.0, 1 - self.amplification)

    @property
    def hit_rate_requests(self) -> float | None:
        """Share of the requests that bcache answered from the cache alone."""
        if self.hits is None or self.misses is None or self.hits + self.misses == 0:
            return None
        return self.hits / (self.hits + self.misses)

    @property
    def amplification(self) -> float:
        """Bytes read from the backend for each byte that the guest read."""
        return self.backend_bytes / self.read_bytes if self.read_bytes else 0.0

    @property
    def cpu_cores(self) -> float:
        """Processors that QEMU kept busy on average; what is missing to the number it has is waiting."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0


def boot_result(
    *, run: int, clone: str, phase: Phase, seconds: float, cpu_seconds: float, before: Counters, after: Counters
) -> BootResult:
    """The result of one boot of ``clone`` between two readings. Raises CannotTell when they do not fit together."""
    device = delta(before.clones.get(clone), after.clones.get(clone), f"clone {clone}")
    backend = delta(before.backend, after.backend, "the backend array")
    cache = delta(before.cache, after.cache, "the cache's partition")
    exact = accounted(before, after)
    old, new = before.cache_stats, after.cache_stats
    if device.reads == 0:
        raise CannotTell(
            f"clone {clone} was booted, but its device saw no read",
            why="the guest read elsewhere, or the counters are those of another appliance",
            hint="do the counters belong to the appliance that the guest booted from?",
        )
    return BootResult(
        run=run,
        clone=clone,
        phase=phase,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        requests=device.reads,
        read_bytes=device.read_bytes,
        written_bytes=device.write_bytes,
        backend_requests=backend.reads,
        backend_bytes=backend.read_bytes,
        cache_read_bytes=cache.read_bytes,
        cache_added_bytes=cache.write_bytes,
        bypassed_bytes=new.bypassed_bytes - old.bypassed_bytes,
        hits=new.hits - old.hits if exact else None,
        misses=new.misses - old.misses if exact else None,
        # A boot that read something and waited for nothing: the appliance does not count the time.
        io_seconds=min(seconds, device.busy_millis / 1000) if device.busy_millis else None,
        cached_bytes=delta(before.cached, after.cached, "bcache's device").read_bytes,
    )


def accounted(before: Counters, after: Counters) -> bool:
    """Whether bcache has accounted for every read since ``before``.

    It moves what it counts to the totals every few seconds only, while block statistics are exact at once; each read
    ends as a hit, a miss, or one of the two bypassed (drivers/md/bcache/stats.c, request.c).
    """
    return cache_requests(after) - cache_requests(before) >= after.cached.reads - before.cached.reads


def cache_requests(counters: Counters) -> int:
    """Reads that bcache has accounted for."""
    stats = counters.cache_stats
    return stats.hits + stats.misses + stats.bypass_hits + stats.bypass_misses


def known_bytes(boot_set: BootSetSummary | None) -> int | None:
    """What a boot reads of the template, each byte counted once, as far as boots of the same content have shown it."""
    return None if boot_set is None or boot_set.guessed else boot_set.total_bytes - (boot_set.wasted_bytes or 0)


def check_cold(what: str, *, asked: int, backend: int, known: int | None) -> None:
    """Raise Unhealthy when what was to begin with an empty cache found its data there, CannotTell without any data.

    ``asked``: bytes of the template that one client asked for; ``known``: those that it was to ask for, each counted
    once, or None; ``backend``: bytes that the backend gave.
    """
    if not asked:
        raise CannotTell(
            f"whether {what} began cold is not known",
            why="it read nothing that the template holds",
            hint="is it a boot of this template?",
        )
    least = round(COLD_SHARE * asked if known is None else COLD_KNOWN_SHARE * min(known, asked))
    if backend < least:
        raise Unhealthy(
            f"{what} did not begin cold",
            why=f"only {backend} bytes came from the backend, where at least {least} of the {asked} that one client"
            " asked for had to",
            hint="does anything else use this template, or was the cache filled after it was emptied?",
        )


def check_emptied(template: str, prefetch: PrefetchView) -> None:
    """Raise CannotTell when a prefetch that followed an emptying of the cache found its data there.

    An older appliance does not say how much there was to fetch; then there is nothing to hold it against.
    """
    if prefetch.held_bytes is None:
        return
    least = round(COLD_SHARE * prefetch.held_bytes)
    if prefetch.backend_bytes < least:
        raise CannotTell(
            f"the prefetch of template {template} was not into an empty cache",
            why=f"only {prefetch.backend_bytes} bytes came from the backend, where at least {least} of"
            f" {prefetch.held_bytes} had to",
            hint="see that nobody else uses this template or fills the cache meanwhile, and measure again",
        )


def delta(before: DeviceCounters | None, after: DeviceCounters | None, what: str) -> DeviceCounters:
    """What a device did between two readings; ``what`` names it. Raises CannotTell when there is none, or another."""
    if before is None or after is None:
        raise CannotTell(f"there are no counters of {what}", why="the device is missing")
    values = {
        key: getattr(after, key) - getattr(before, key)
        for key in ("reads", "read_bytes", "writes", "write_bytes", "discards")
    }
    if min(values.values()) < 0:
        raise CannotTell(f"the counters of {what} went backwards", why="the device was made anew in between")
    busy = (after.busy_millis - before.busy_millis) % MILLIS_WRAP
    return DeviceCounters(name=after.name, busy_millis=busy, **values)


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over several boots."""

    least: float
    mean: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of at least one value."""
        known = list(values)
        return cls(min(known), fmean(known), median(known), max(known))


@dataclass(frozen=True, slots=True)
class Summary:
    """All boots of one phase. Times are spreads, other figures means; rates are over the sums.

    ``io_seconds`` and ``rest_seconds`` are None unless they are known of every boot. ``cpu_seconds`` is the mean of
    QEMU's processor seconds, which earlier releases kept alone, and ``cpu_spread`` their spread.
    """

    phase: Phase
    boots: int
    seconds: Spread
    io_seconds: Spread | None
    rest_seconds: Spread | None
    cpu_seconds: float
    cpu_spread: Spread
    requests: float
    read_bytes: float
    backend_requests: float
    backend_bytes: float
    hit_rate_bytes: float
    hit_rate_requests: float | None
    amplification: float


def summary(boots: Sequence[BootResult], phase: Phase) -> Summary | None:
    """The boots of ``phase`` in one line; None when there is none."""
    chosen = [boot for boot in boots if boot.phase is phase]
    if not chosen:
        return None
    read = sum(boot.read_bytes for boot in chosen)
    amplification = sum(boot.backend_bytes for boot in chosen) / read if read else 0.0
    hits = [boot.hits for boot in chosen if boot.hits is not None]
    misses = [boot.misses for boot in chosen if boot.misses is not None]
    known = len(hits) == len(misses) == len(chosen) and sum(hits) + sum(misses) > 0
    cpu = Spread.of(boot.cpu_seconds for boot in chosen)
    return Summary(
        phase=phase,
        boots=len(chosen),
        seconds=Spread.of(boot.seconds for boot in chosen),
        io_seconds=_spread([boot.io_seconds for boot in chosen]),
        rest_seconds=_spread([boot.rest_seconds for boot in chosen]),
        cpu_seconds=cpu.mean,
        cpu_spread=cpu,
        requests=fmean(boot.requests for boot in chosen),
        read_bytes=fmean(boot.read_bytes for boot in chosen),
        backend_requests=fmean(boot.backend_requests for boot in chosen),
        backend_bytes=fmean(boot.backend_bytes for boot in chosen),
        hit_rate_bytes=max(0.0, 1 - amplification),
        hit_rate_requests=sum(hits) / (sum(hits) + sum(misses)) if known else None,
        amplification=amplification,
    )


def _spread(values: Sequence[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread.of(known) if len(known) == len(values) else None


@dataclass(frozen=True, slots=True)
class CacheCost:
    """Cache bytes taken in by a cold boot, and by it and the warm ones right after it (means over the runs)."""

    clones: int
    first_bytes: float
    all_bytes: float

    @property
    def ratio(self) -> float:
        """What N clones cost, in first clones."""
        return self.all_bytes / self.first_bytes if self.first_bytes else 0.0


def cache_cost(boots: Sequence[BootResult]) -> CacheCost | None:
    """The cache cost of the clones of a run; None when no run has a cold boot with bytes taken in."""
    followed = [
        [boot, *takewhile(lambda each: each.phase is Phase.WARM, boots[place + 1 :])]
        for place, boot in enumerate(boots)
        if boot.phase is Phase.COLD and boot.cache_added_bytes
    ]
    if not followed:
        return None
    # In runs that end with the cold boot no others show what comes on top of it.
    clones = max(len(group) for group in followed)
    whole = [group for group in followed if len(group) == clones]
    return CacheCost(
        clones=clones,
        first_bytes=fmean(group[0].cache_added_bytes for group in whole),
        all_bytes=fmean(sum(boot.cache_added_bytes for boot in group) for group in whole),
    )


def warm_enough(boots: Sequence[BootResult]) -> bool | None:
    """Whether the warm boots kept to WARM_SHARE; None when there was none."""
    warm = summary(boots, Phase.WARM)
    return warm.amplification <= WARM_SHARE if warm is not None else None


def prefetched_enough(boots: Sequence[BootResult]) -> bool | None:
    """Whether each prefetched boot kept to PREFETCHED_HITS; None when there was none."""
    rates = [boot.hit_rate_bytes for boot in boots if boot.phase is Phase.PREFETCHED]
    return min(rates) >= PREFETCHED_HITS if rates else None


def percent(share: float | None) -> str:
    """A share for people; ``-`` when not known. Never rounds what is below 1 up to 100 %."""
    if share is None:
        return "-"
    shown = f"{share:.2%}"
    return "99.99%" if shown == "100.00%" and share < 1 else shown
