"""A series of boots against one appliance: fresh clones, cold, prefetched and warm, counters read around each boot.

A run has a boot with an empty cache (cold), one with an empty cache that the boot set was fetched into (prefetched),
and between them boots of clones that never booted before either (warm). Every second run begins with the prefetched
one, so that what drifts while it all goes on falls on both alike. The guest is stopped at its prompt while counters
are read, so that they hold its boot and no more.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

from appliance.client import Client
from appliance.errors import NotFound
from appliance.measure import guest
from appliance.measure.facts import Facts, boot_set, emulator, facts
from appliance.measure.histogram import Latency, latencies
from appliance.measure.prepare import NOT_DROPPED, Begin, drop_host_caches, let_learn, prepare
from appliance.measure.reach import Access, choose_client, reachable
from appliance.measure.readings import Readings
from appliance.measure.recorded import recording
from appliance.measure.result import BootResult, Phase, boot_result, check_cold, known_bytes
from appliance.measure.serial import MachineFault
from appliance.progress import QUIET, Bar
from appliance.run import Runner
from appliance.schema import BootSetView, CloneCreate, CloneView, Histograms, PrefetchView


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. ``clones`` are those that boot cold and warm; ``name`` begins the clones' names; ``access`` says
    how this machine comes to them."""

    template: str
    runs: int = 3
    clones: int = 2
    prefetched: bool = True
    name: str = "measure"
    access: Access = field(default_factory=Access)
    hardware: guest.Hardware = field(default_factory=guest.Hardware)
    deadline: float = 300.0
    keep_clones: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """All that was measured, and where. ``prefetches`` are those before prefetched boots; ``boot_set`` is the one that
    the last of them fetched."""

    template: str
    facts: Facts
    boots: tuple[BootResult, ...]
    latencies: tuple[Latency, ...]
    notes: tuple[str, ...]
    prefetches: tuple[PrefetchView, ...] = ()
    boot_set: BootSetView | None = None


def order(number: int, *, prefetched: bool) -> tuple[Phase, ...]:
    """The phases of the run with this number, from 1. Warm boots follow another boot, and stand in the middle of both
    orders, so that a drift changes the means of all phases alike after an even number of runs."""
    if not prefetched:
        return (Phase.COLD, Phase.WARM)
    forwards = (Phase.COLD, Phase.WARM, Phase.PREFETCHED)
    return forwards if number % 2 else forwards[::-1]


class Session:
    """One measurement. ``tell`` gets a line for every step, and ``bar`` moves with each boot."""

    def __init__(
        self,
        client: Client,
        plan: Plan,
        *,
        host: str | None,
        runner: Runner,
        tell: Callable[[str], None],
        bar: Bar = QUIET,
    ) -> None:
        self._client = client
        self._plan = plan
        self._host = host
        self._runner = runner
        self._tell = tell
        self._bar = bar
        self._readings = Readings(client, self._note_once)
        self._boots: list[BootResult] = []
        self._recorded: list[tuple[Phase, Histograms]] = []
        self._prefetches: list[PrefetchView] = []
        self._notes: list[str] = []
        self._made: list[CloneView] = []
        self._spares = 0

    def run(self) -> Measurement:
        """Measure. Removes its clones also when it fails (unless they are to be kept)."""
        ref = self._client.template(self._plan.template).ref
        client = choose_client(self._client, self._plan.access, self._host, self._note_once)
        about = facts(self._client.status(), emulator(self._runner))
        self._note_once("" if os.geteuid() == 0 else NOT_DROPPED)
        each_run = self._plan.clones + self._plan.prefetched
        self._bar.begin(f"booting clones of {ref}", self._plan.runs * each_run, "boots")
        for number in range(1, self._plan.runs + 1):
            self._run(number, ref, client)
        return Measurement(
            ref,
            about,
            tuple(self._boots),
            latencies(self._recorded),
            tuple(self._notes),
            tuple(self._prefetches),
            boot_set(self._client, ref),
        )

    def _run(self, number: int, template: str, client: str) -> None:
        name = self._plan.name if self._plan.runs == 1 else f"{self._plan.name}-{number}"
        prefetched = self._plan.prefetched
        try:
            clones = self._create(CloneCreate(name=name, template=template, count=self._plan.clones, client=client))
            self._tell(f"run {number}: {len(clones)} fresh clones of {template} for client {client}")
            # Without a boot set there is something to prefetch only after a boot that teaches it.
            first = 1 if prefetched and not self._has_boot_set(template) else number
            for phase in order(first, prefetched=prefetched):
                if phase is Phase.WARM:
                    for clone in clones[1:]:
                        self._boot(number, clone, phase)
                elif phase is Phase.COLD:
                    self._check_cold(self._boot(number, clones[0], phase), template)
                elif self._has_boot_set(template):
                    wanted = CloneCreate(name=f"{name}-prefetched", template=template, client=client)
                    self._boot(number, self._create(wanted)[0], phase)
                else:
                    self._note_once(f"prefetched boots were left out: {self._why_no_boot_set(template)}")
        finally:
            self._part()

    def _check_cold(self, boot: BootResult, template: str) -> None:
        asked = boot.read_bytes if boot.cached_bytes is None else min(boot.read_bytes, boot.cached_bytes)
        # The first boot may have taught what it reads.
        known = known_bytes(self._client.template(template).boot_set)
        check_cold(f"the boot of {boot.clone}", asked=asked, backend=boot.backend_bytes, known=known)

    def _create(self, wanted: CloneCreate) -> tuple[CloneView, ...]:
        clones = self._client.make_clones(wanted)
        self._made.extend(clones)
        return clones

    def _part(self) -> None:
        """Remove the run's clones; if they are to be kept, attach again those that were detached."""
        made, self._made = self._made, []
        for clone in made:
            with suppress(NotFound):
                if not self._plan.keep_clones:
                    self._client.remove_clone(clone.name, force=True)
                elif clone.client is not None and self._client.clone(clone.name).client is None:
                    self._client.attach(clone.name, clone.client)

    def _has_boot_set(self, template: str) -> bool:
        return self._client.template(template).boot_set is not None

    def _why_no_boot_set(self, template: str) -> str:
        learning = self._client.template(template).learning
        why = learning.cannot if learning is not None else ""
        return f"{template} has no boot set, {why or 'and none was learned from the cold boot in time'}"

    def _boot(self, number: int, clone: CloneView, phase: Phase) -> BootResult:
        """Boot a clone, and once more a fresh one if the emulator (not the guest) failed."""
        try:
            result = self._boot_once(number, clone, phase)
        except MachineFault as fault:
            if fault.fault not in guest.EMULATOR_FAULTS:
                raise
            self._note_once(f"a boot was repeated: the guest's kernel said {fault.fault!r}, a fault of the emulator")
            self._tell(f"  {clone.name}: {fault.fault!r}, a known fault of the emulator: once more with a fresh clone")
            self._spares += 1
            wanted = CloneCreate(
                name=f"{self._plan.name}-spare-{self._spares}", template=clone.template, client=clone.client
            )
            clone = self._create(wanted)[0]
            result = self._boot_once(number, clone, phase)
        if let_learn(self._client, clone):
            self._readings.disturbed()
        self._boots.append(result)
        self._bar.add()
        return result

    def _boot_once(self, number: int, clone: CloneView, phase: Phase) -> BootResult:
        if phase is not Phase.WARM:
            self._prepare(clone.template, phase)
        before = self._readings.before()
        with self._recording(phase), reachable(clone, self._plan.access, self._host, self._runner) as target:
            booting = guest.booted(self._runner, target, hardware=self._plan.hardware, deadline=self._plan.deadline)
            with booting as (_, boot):
                after = self._readings.after(before)
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

    def _prepare(self, template: str, phase: Phase) -> None:
        """Empty all caches, and prefetch for the phase that wants it."""
        self._readings.disturbed()
        # What is prefetched afterwards may be in the memory of this host, where the appliance is one of its guests.
        fetched = prepare(
            self._client,
            template,
            Begin(phase.value),
            lambda step: self._tell(f"  {step}"),
            emptied=lambda: drop_host_caches(self._runner),
        )
        if fetched is not None:
            self._prefetches.append(fetched)

    def _recording(self, phase: Phase) -> AbstractContextManager[None]:
        """Latency histograms around a boot."""

        def keep(histograms: Histograms) -> None:
            self._note_once(histograms.disks_missing)
            self._recorded.append((phase, histograms))

        return recording(self._client, self._plan.deadline, keep)

    def _note_once(self, text: str) -> None:
        if text and text not in self._notes:
            self._notes.append(text)
            self._tell(f"note: {text}")
