"""A series of boots against one appliance: fresh clones, cold and warm, with the counters read around each boot.

A run empties the cache, boots one clone that never booted before (cold), then others that never booted before
either (warm). The guest is stopped at its prompt while counters are read, so that they hold its boot and no more.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from appliance.client import Client
from appliance.errors import DeadlineExceeded, HatcheryError, NotFound
from appliance.measure import guest
from appliance.measure.facts import Facts, facts
from appliance.measure.histogram import Latency, latencies
from appliance.measure.reach import choose_client, reachable
from appliance.measure.result import BootResult, Phase, accounted, boot_result, cache_requests, check_cold
from appliance.measure.serial import MachineFault
from appliance.run import Runner
from appliance.schema import CloneCreate, CloneView, Counters, Histograms
from appliance.wait import until

SETTLE = 12.0
"""Seconds in which bcache moves what it counted to its totals (about 10: 300 HZ / 32, drivers/md/bcache/stats.h)."""

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``name`` begins the clones' names; ``client`` None chooses one; ``nbd`` is HOST:PORT as the
    guests' host reaches the client's port, where that differs from what the appliance says."""

    template: str
    runs: int = 3
    clones: int = 2
    name: str = "measure"
    client: str | None = None
    nbd: str | None = None
    hardware: guest.Hardware = field(default_factory=guest.Hardware)
    deadline: float = 300.0
    keep_clones: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that was measured, and where."""

    template: str
    facts: Facts
    boots: tuple[BootResult, ...]
    latencies: tuple[Latency, ...]
    notes: tuple[str, ...]


class Session:
    """One measurement. ``tell`` gets a line for every step."""

    def __init__(
        self, client: Client, plan: Plan, *, host: str | None, runner: Runner, tell: Callable[[str], None]
    ) -> None:
        self._client = client
        self._plan = plan
        self._host = host
        self._runner = runner
        self._tell = tell
        self._boots: list[BootResult] = []
        self._recorded: list[tuple[Phase, Histograms]] = []
        self._notes: list[str] = []
        self._spares = 0
        self._exact = False  # whether bcache's totals hold all that happened so far

    def run(self) -> Measurement:
        """Measure. Removes its clones also when it fails (unless they are to be kept)."""
        view = self._client.template(self._plan.template)
        client = self._plan.client or choose_client(self._client)
        about = facts(self._client.status(), self._runner)
        self._note_once(
            "" if os.geteuid() == 0 else "the page cache of the guests' host was not dropped: that needs root there"
        )
        for number in range(1, self._plan.runs + 1):
            self._run(number, view.ref, client)
        return Measurement(
            view.ref, about, tuple(self._boots), latencies(self._recorded), tuple(dict.fromkeys(self._notes))
        )

    def _run(self, number: int, template: str, client: str) -> None:
        name = self._plan.name if self._plan.runs == 1 else f"{self._plan.name}-{number}"
        made: list[str] = []
        try:
            wanted = CloneCreate(name=name, template=template, count=self._plan.clones, client=client)
            clones = self._client.create_clones(wanted)
            made += [clone.name for clone in clones]
            self._tell(f"run {number}: {len(clones)} fresh clones of {template} for client {client}")
            with self._recording(Phase.COLD):
                first = self._boot(number, clones[0], Phase.COLD, made)
            check_cold(first)
            if clones[1:]:
                with self._recording(Phase.WARM):
                    for clone in clones[1:]:
                        self._boot(number, clone, Phase.WARM, made)
        finally:
            if not self._plan.keep_clones:
                for clone_name in made:
                    with suppress(NotFound):
                        self._client.remove_clone(clone_name, force=True)

    def _boot(self, number: int, clone: CloneView, phase: Phase, made: list[str]) -> BootResult:
        """Boot a clone, and once more a fresh one if the emulator (not the guest) failed."""
        try:
            result = self._boot_once(number, clone, phase)
        except MachineFault as fault:
            if fault.fault != guest.EMULATOR_FAULT:
                raise
            self._note_once(f"a boot was repeated: the guest's kernel said {fault.fault!r}, a fault of the emulator")
            self._tell(f"  {clone.name}: {fault.fault!r}, a known fault of the emulator: once more with a fresh clone")
            self._spares += 1
            wanted = CloneCreate(
                name=f"{self._plan.name}-spare-{self._spares}", template=clone.template, client=clone.client
            )
            spare = self._client.create_clones(wanted)[0]
            made.append(spare.name)
            result = self._boot_once(number, spare, phase)
        self._boots.append(result)
        return result

    def _boot_once(self, number: int, clone: CloneView, phase: Phase) -> BootResult:
        if phase is Phase.COLD:
            self._tell("  emptying the cache")
            self._client.finish(self._client.cold(), deadline=900)
            self._drop_caches()
            self._exact = False
        before = self._settled()
        with reachable(clone, self._plan.nbd, self._host, self._runner) as target:
            booting = guest.booted(self._runner, target, hardware=self._plan.hardware, deadline=self._plan.deadline)
            with booting as (_, boot):
                after = self._accounted(before)
        result = boot_result(
            run=number,
            clone=clone.name,
            phase=phase,
            seconds=boot.seconds,
            cpu_seconds=boot.cpu_seconds,
            before=before,
            after=after,
        )
        rate = result.hit_rate_bytes
        self._tell(
            f"  {clone.name}: {phase} boot in {boot.seconds:.1f} s, {result.requests} requests,"
            f" {result.read_bytes / 2**20:.0f} MiB, {rate:.2%} of it from the cache"
        )
        return result

    def _settled(self) -> Counters:
        """Counters of a store at rest: bcache's totals have caught up with what went before."""
        if self._exact:
            return self._client.counters()
        last: list[tuple[float, Counters]] = []

        def still() -> Counters | None:
            now = self._client.counters()
            if not last or activity(now) != activity(last[0][1]):
                last[:] = [(time.monotonic(), now)]
            return now if time.monotonic() - last[0][0] >= SETTLE else None

        return until(still, "the cache to be at rest", deadline=180, interval=1)

    def _accounted(self, before: Counters) -> Counters:
        """Counters right after the boot, with bcache's lagging totals as soon as they hold all of it."""
        exact = self._client.counters()

        def complete() -> Counters | None:
            now = self._client.counters()
            return now if accounted(before, now) else None

        try:
            late = until(complete, "bcache's totals", deadline=3 * SETTLE, interval=1)
        except DeadlineExceeded:
            self._note_once("hits by requests are missing where bcache did not account for every read in time")
            self._exact = False
            return exact
        self._exact = True
        return exact.model_copy(update={"cache_stats": late.cache_stats, "cached": late.cached})

    @contextmanager
    def _recording(self, phase: Phase) -> Iterator[None]:
        """Latency histograms around some boots."""
        self._client.start_histograms()
        try:
            yield
        except BaseException:
            with suppress(HatcheryError):  # the boot's own failure is the news
                self._client.stop_histograms()
            raise
        histograms = self._client.stop_histograms()
        self._note_once(histograms.disks_missing)
        self._recorded.append((phase, histograms))

    def _drop_caches(self) -> None:
        """Drop the page cache of this host, where the guests run."""
        if os.geteuid() == 0:
            os.sync()
            DROP_CACHES.write_text("3\n")

    def _note_once(self, text: str) -> None:
        if text and text not in self._notes:
            self._notes.append(text)


def activity(counters: Counters) -> tuple[int, int]:
    """What changes while the cache is read: requests that bcache accounted for, and those it was sent."""
    return cache_requests(counters), counters.cached.reads
