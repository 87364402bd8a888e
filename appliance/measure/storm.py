"""A boot storm: many fresh clones of a template boot at once, in real guests."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.client import Client
from appliance.errors import NotFound
from appliance.measure.crowd import Login, boot_all
from appliance.measure.facts import boot_set, emulator, facts
from appliance.measure.guest import Hardware
from appliance.measure.histogram import latencies
from appliance.measure.prepare import NOT_DROPPED, Begin, drop_host_caches, prepare
from appliance.measure.reach import Access, all_reachable, choose_client
from appliance.measure.readings import Readings
from appliance.measure.recorded import recording
from appliance.measure.result import PREFETCHED_HITS, accounted, check_cold, delta, known_bytes, percent
from appliance.measure.together import Together
from appliance.model import MIB
from appliance.progress import QUIET, Bar
from appliance.run import Runner
from appliance.schema import CloneCreate, Counters, Histograms


@dataclass(frozen=True, slots=True)
class Plan:
    """What to boot, see ``session.Plan``. ``deadline``: seconds that each boot may take, beside all the others."""

    template: str
    clones: int = 10
    begin: Begin = Begin.AS_IT_IS
    name: str = "storm"
    access: Access = field(default_factory=Access)
    hardware: Hardware = field(default_factory=Hardware)
    deadline: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StormResult(Together):
    """A storm. ``logins`` in their order.

    ``clones`` were started, and those that are missing among the logins were crashed by the emulator. ``hits`` and
    ``misses`` are bcache's, None when they could not be read exactly.
    """

    kind = "storm"
    done = "logged in"

    clones: int
    logins: tuple[Login, ...]
    backend_requests: int
    hits: int | None
    misses: int | None

    @property
    def times(self) -> tuple[tuple[str, float], ...]:
        """See Together."""
        return tuple((login.clone, login.seconds) for login in self.logins)

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds that all QEMUs used until their logins."""
        return sum(login.cpu_seconds for login in self.logins)

    @property
    def hit_rate_requests(self) -> float | None:
        """Share of the requests that bcache answered from the cache alone."""
        if self.hits is None or self.misses is None or self.hits + self.misses == 0:
            return None
        return self.hits / (self.hits + self.misses)

    @property
    def hit_rates(self) -> tuple[float | None, ...]:
        """See Together; the second one is by requests."""
        return (self.hit_rate_bytes, self.hit_rate_requests)

    def heading(self) -> str:
        """See Together."""
        return f"{self.clones} fresh clones of {self.template} booted at once, cache {self.begin}"

    def as_json(self) -> dict[str, Any]:
        """See Together."""
        more = {"cpu_seconds": self.cpu_seconds, "hit_rate_requests": self.hit_rate_requests}
        return {**Together.as_json(self), **more}

    def text(self) -> str:
        """See Together."""
        cpu = self.cpu_seconds
        lines = [
            self.heading(),
            f"logged in after: first {self.first:.1f} s, median {self.median:.1f} s, last {self.last:.1f} s",
            f"processor time of QEMU: {cpu:.1f} s in all, {cpu / len(self.logins):.1f} s each",
            f"read: {self.read_bytes / MIB:,.1f} MiB in {self.requests:,} requests",
            f"from the backend: {self.backend_bytes / MIB:,.1f} MiB in {self.backend_requests:,} reads",
            f"into the cache: {self.cache_added_bytes / MIB:,.1f} MiB, what the guests wrote included",
            f"hits: {percent(self.hit_rate_bytes)} of the bytes, {percent(self.hit_rate_requests)} of the requests",
        ]
        if self.prefetch is not None:
            size, took = self.prefetch.total_bytes / MIB, self.prefetch.seconds
            lines.append(f"the prefetch before: {size:,.1f} MiB in {took:.1f} s, in none of these figures")
        return "\n".join([*lines, *self.closing()]) + "\n"


def storm_result(
    template: str,
    begin: Begin,
    clones: Sequence[str],
    logins: tuple[Login, ...],
    before: Counters,
    after: Counters,
    known: int | None = None,
) -> StormResult:
    """What a storm of these clones did between two readings; ``known`` as for ``check_cold``. Pure.

    Raises CannotTell when the readings do not fit together, Unhealthy when it was to begin cold and did not.
    """
    devices = [delta(before.clones.get(name), after.clones.get(name), f"clone {name}") for name in clones]
    backend = delta(before.backend, after.backend, "the backend array")
    cache = delta(before.cache, after.cache, "the cache's partition")
    exact = accounted(before, after)
    read = sum(device.read_bytes for device in devices)
    if begin is Begin.COLD:
        asked = min(read, delta(before.cached, after.cached, "bcache's device").read_bytes) // len(clones)
        check_cold("the storm", asked=asked, backend=backend.read_bytes, known=known)
    return StormResult(
        template=template,
        begin=begin,
        clones=len(clones),
        logins=logins,
        requests=sum(device.reads for device in devices),
        read_bytes=read,
        backend_requests=backend.reads,
        backend_bytes=backend.read_bytes,
        cache_added_bytes=cache.write_bytes,
        hits=after.cache_stats.hits - before.cache_stats.hits if exact else None,
        misses=after.cache_stats.misses - before.cache_stats.misses if exact else None,
    )


def remarks(found: StormResult) -> list[str]:
    """What a reader must know about these figures. Pure."""
    said = []
    if missing := found.clones - len(found.logins):
        said.append(
            f"{missing} of {found.clones} guests did not log in, by a fault of the emulator: the times are those of the"
            " others, bytes and requests those of all"
        )
    if found.begin is Begin.PREFETCHED and found.hit_rate_bytes < PREFETCHED_HITS:
        said.append(
            f"after the prefetch {found.backend_bytes / found.read_bytes:.1%} of the bytes still came from the backend:"
            " the boot set lacks them, or the guests differ"
        )
    return said


def run(
    client: Client,
    plan: Plan,
    *,
    host: str | None,
    runner: Runner,
    tell: Callable[[str], None],
    bar: Bar = QUIET,
) -> StormResult:
    """Boot fresh clones at once; they are removed afterwards, also when it fails.

    Raises as ``boot_all``, ``storm_result`` and the API.
    """
    template = client.template(plan.template).ref
    about = facts(client.status(), emulator(runner))
    notes: list[str] = []
    recorded: list[Histograms] = []

    def note(text: str) -> None:
        notes.append(text)
        tell(f"note: {text}")

    readings = Readings(client, note)
    if plan.begin is not Begin.AS_IT_IS and os.geteuid() != 0:
        note(NOT_DROPPED)
    chosen = choose_client(client, plan.access, host, note)
    wanted = CloneCreate(name=plan.name, template=template, count=plan.clones, client=chosen)
    clones = client.make_clones(wanted)
    try:
        prefetch = prepare(client, template, plan.begin, tell, emptied=lambda: drop_host_caches(runner))
        with all_reachable(clones, plan.access, host, runner) as targets:
            before = readings.before()
            tell(f"booting {len(clones)} clones of {template} at once")
            with recording(client, plan.deadline, recorded.append):
                bar.begin(f"booting clones of {template}", len(targets), "guests")
                logins = boot_all(runner, targets, hardware=plan.hardware, deadline=plan.deadline, ended=bar.add)
                after = readings.after(before)
    finally:
        for clone in clones:
            with suppress(NotFound):
                client.remove_clone(clone.name, force=True)
    learned = boot_set(client, template)
    names = [clone.name for clone in clones]
    found = storm_result(template, plan.begin, names, logins, before, after, known_bytes(learned))
    notes += [*(each.disks_missing for each in recorded if each.disks_missing), *remarks(found)]
    found = replace(found, latencies=latencies([(plan.begin, each) for each in recorded]))
    return replace(found, prefetch=prefetch, boot_set=learned, facts=about, notes=tuple(notes))
