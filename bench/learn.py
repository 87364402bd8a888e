"""``script/bench learn``: real boots in QEMU from slow disks: what learning costs, and what it gives."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from appliance.bootset.boot_set import merge
from appliance.bootset.file import BootSetFile, dump, load
from appliance.bootset.trace import Read, parse_trace
from appliance.client import Client
from appliance.errors import CannotTell, DeadlineExceeded
from appliance.measure import guest, qemu
from appliance.measure.result import delta
from appliance.measure.serial import MachineFault
from appliance.model import GIB, MIB, Extent
from appliance.schema import BootSetSummary, CloneCreate, Operation, PrefetchView
from appliance.wait import until
from bench import demo, deployment, processors
from bench.learn_rows import Booted, Found, Replayed, report
from bench.report import Report
from bench.steps import Steps, clock
from bench.store import host
from bench.vm import LOOPBACK, VM

SUMMARY = "what learning a boot set costs and what prefetching it gives, in QEMU (needs 30 to 90 minutes)"

STOOD_STILL = "stood still"
"""How a boot ends that waits for nothing of the storage and never ends, under multi-threaded TCG alone: a processor
whose timer does not fire again, without the words that the guest's kernel mostly has for it.
"""

RECORDER = """
import signal, sys, threading
from appliance.bootset.trace import Read, format_trace
from appliance.host.trace import Tracer
ended = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: ended.set())
tracer, found = Tracer("bench"), []
tracer.watch([sys.argv[1]])
while True:
    last = ended.wait(0.2)
    batch = tracer.read()
    assert not batch.lost
    found += [request for request in batch.requests if not request.write]
    if last:
        break
tracer.close()
first = found[0].micros
with open(sys.argv[2], "w") as file:
    file.write(format_trace((Read(r.offset, r.length, r.micros - first) for r in found), sys.argv[3]))
"""
"""Runs in the appliance beside the service, with a tracer of its own: writes all reads of a device to a file."""


GUEST = demo.ROOT / "bench" / "traces" / "debian-13-guest.trace"
"""A boot of the template's own guest, as this bench once recorded it."""

LARGE = demo.ROOT / "bench" / "traces" / "debian-13-uefi.trace"
"""A boot of a larger guest: what it reads, laid over the template, makes the template's own boot set a large one."""

LARGE_BYTES = 100 * MIB
"""A prefetch that takes less from the backend says nothing about large sets."""

GUEST_CPUS = 2
"""Processors of a guest, where there are as many for it alone: emulated ones that share one get in each other's way."""

NVME = replace(demo.NVME, size=64 * GIB)
"""As small as NVMe drives are. Of a cache of 6 GiB, as the demo has, bcache keeps 16 buckets free for a prefetch."""

MISSED_SHARE = 0.01
"""Of what is read of a warm template, so much may come from the backend at most."""

COLD_SHARE = 0.8
"""Of what the first boot took from the backend, a prefetch into an empty cache takes so much at least."""

COMMENT = "Reads of one boot of a Debian 13 guest (UEFI) to its login prompt, in order: offset, length, microseconds"


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this bench."""
    parser.add_argument("--runs", type=int, default=12, help="how often to empty the cache and prefetch (default: 12)")
    parser.add_argument("--pairs", type=int, default=3, help="boots that are recorded, and not, in turn (default: 3)")
    parser.add_argument(
        "--replays", type=int, default=10, help="replays that are recorded, and not, in turn (default: 10 of each)"
    )
    parser.add_argument("--large", type=int, default=5, help="how often to prefetch a large boot set (default: 5)")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="write the reads of the first boot to FILE")
    parser.add_argument(
        "--output", type=Path, default=demo.ROOT / "build" / "bench", metavar="DIR",
        help="where the log goes (default: build/bench)",
    )  # fmt: skip


def usual() -> argparse.Namespace:
    """The arguments that it has when none are given."""
    parser = argparse.ArgumentParser()
    options(parser)
    parser.set_defaults(json=None)
    return parser.parse_args([])


def measure(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Report:
    """Everything, in a machine that is removed afterwards."""
    begin, load = time.monotonic(), os.getloadavg()[0]
    chosen.output.mkdir(parents=True, exist_ok=True)
    tell(f"the log goes to {chosen.output / 'learn.log'}")

    def told(found: Found) -> Report:
        return report(found, {**host(load), "took": clock(time.monotonic() - begin)})

    def keep(found: Found) -> None:
        # What breaks off later is not to cost what was measured in an hour.
        if chosen.json:
            chosen.json.write_text(json.dumps(told(found).as_json(), indent=2) + "\n", encoding="utf-8")

    with deployed(chosen.output / "learn.log") as bench:
        return told(bench.everything(chosen, keep))


@contextmanager
def deployed(log: Path) -> Iterator["Bench"]:
    """An appliance with slow disks and a template that no clone was made of."""
    with deployment.deployed(log, nvme=NVME) as found:
        yield Bench(found.vm, found.client, found.steps)


class Bench:
    """The measuring, on an appliance that is deployed."""

    def __init__(self, vm: VM, client: Client, steps: Steps) -> None:
        self._vm = vm
        self._client = client
        self._steps = steps
        self._hardware = guest.Hardware()
        self._count = 0

    def everything(self, chosen: argparse.Namespace, keep: Callable[[Found], None] = lambda _: None) -> Found:
        """First the boot of a new template, and the one that teaches; then prefetched and warm ones in turn, and
        recorded and unrecorded ones, and replays of one, recorded and not.

        Last the large boot set, which is not the template's own. ``keep`` is told of each round.
        """
        found = Found()
        runs, pairs, replays, large, trace = chosen.runs, chosen.pairs, chosen.replays, chosen.large, chosen.trace
        # The prefetch of a large set is computing, too, which the appliance has all processors for.
        with processors.apart(self._vm.machine.process.pid) as left:
            self._hardware = guest.Hardware(cpus=min(GUEST_CPUS, len(left)))
            if runs or pairs or replays or large or trace:
                with self._steps.step("Boot the first clone of the new template"):
                    found.ever = self._boot("ever", learn=False)
                with self._steps.step("Boot a clone from disk"):
                    self._client.finish(self._client.cold(), deadline=900)
                    found.first = self._boot("first", trace=trace)
                    learned = until(self._boot_set, "a boot set", deadline=120, interval=1)
                    self._steps.tell(f"  {learned.total_bytes / MIB:.1f} MiB in {learned.extents} extents were learned")
            for number in range(runs):
                with self._steps.step(f"Prefetch, boot, boot again: {number + 1} of {runs}"):
                    self._check_cold(self._prefetch(), found.first)
                    found.prefetched.append(self._boot("prefetched"))
                    found.warm.append(self._boot("warm"))
                keep(found)
            for number in range(pairs):
                with self._steps.step(f"Boot with and without a record of it: {number + 1} of {pairs}"):
                    # In turn, so that what changes with time falls on both alike.
                    for recorded in (True, False) if number % 2 == 0 else (False, True):
                        self._boot_to_compare(found, recorded=recorded)
                keep(found)
            own = self._own_set() if large else ()
            if replays:
                with self._steps.step(f"Replay a boot {replays} times with and without a record of it"):
                    self._replay_in_turn(found, replays)
                keep(found)
        if large:
            self._import_large(own)
        for number in range(large):
            with self._steps.step(f"Prefetch a large boot set: {number + 1} of {large}"):
                found.sequential.append(self._sequential(found.prefetches[-1] if found.prefetches else None))
                found.prefetches.append(self._prefetch())
                self._check_large(found.prefetches[-1])
            keep(found)
        return found

    def _boot_to_compare(self, found: Found, *, recorded: bool) -> None:
        if recorded:
            found.recorded.append(self._boot("recorded", self._client.learn(demo.TEMPLATE, 1)))
        else:
            found.unrecorded.append(self._boot("unrecorded", learn=False))

    def _replay_in_turn(self, found: Found, pairs: int) -> None:
        """So many pairs of replays; one before them brings all that they read into the cache."""
        reads = parse_trace(GUEST.read_text(encoding="utf-8"))
        words = [f"read -q {read.offset} {read.length}" for read in reads]
        self._replay(words, recorded=False)
        before = self._client.counters().backend.read_bytes
        for number in range(pairs):
            turns = (True, False) if number % 2 == 0 else (False, True)
            took = {recorded: self._replay(words, recorded=recorded) for recorded in turns}
            found.replays.append(Replayed(took[True], took[False]))
            self._steps.tell(f"  {took[True]:.2f} s recorded, {took[False]:.2f} s not")
        missed = self._client.counters().backend.read_bytes - before
        if missed > MISSED_SHARE * 2 * pairs * sum(read.length for read in reads):
            raise CannotTell("what learning costs cannot be told", why=f"the cache missed {missed} bytes of replays")

    def _replay(self, words: Sequence[str], *, recorded: bool) -> float:
        """Seconds that a fresh clone takes for a boot's reads, one after the other, as commands of qemu-io(1).

        Raises CannotTell when one fails, DeadlineExceeded when what was to be recorded was not.
        """
        self._count += 1
        name = f"replay-{self._count}"
        asked = self._client.learn(demo.TEMPLATE, 1) if recorded else None
        self._client.create_clones(CloneCreate(name=name, template=demo.TEMPLATE, client=demo.CLIENT, learn=recorded))
        try:
            uri = f"nbd://{LOOPBACK}:{self._vm.port(demo.NBD_PORT)}/{name}"
            begin = time.monotonic()
            done = self._vm.runner.run(["qemu-io", "-r", "-f", "raw", uri], stdin="\n".join(words) + "\n", timeout=600)
            took = time.monotonic() - begin
            # It goes on after an error, and ends well; but then it says something besides its prompts.
            if said := (done.stdout.replace("qemu-io>", "") + done.stderr).strip():
                raise CannotTell("a boot could not be replayed", why=said[-500:])
        finally:
            self._client.remove_clone(name, force=True)
        if asked is not None:
            self._client.finish(asked, deadline=120)
        until(self._at_rest, "the boot to be learned from", deadline=120, interval=1)
        return took

    def _boot_set(self) -> BootSetSummary | None:
        return self._client.template(demo.TEMPLATE).boot_set

    def _prefetch(self) -> PrefetchView:
        """Empty the cache and fetch the boot set into it. Raises CannotTell."""
        self._client.finish(self._client.cold(), deadline=900)
        self._client.finish(self._client.warm(demo.TEMPLATE), deadline=900)
        found = self._client.template(demo.TEMPLATE).prefetch
        if found is None or found.state != "warm":
            raise CannotTell("the prefetch did not end well", why=str(found))
        return found

    def _check_cold(self, made: PrefetchView, first: Booted | None) -> None:
        if first is not None and made.backend_bytes < COLD_SHARE * first.backend_bytes:
            raise CannotTell("the prefetch was not into an empty cache", why=str(made))

    def _own_set(self) -> Sequence[Extent]:
        """What boots taught, before replays of an older one do."""
        return load(self._client.export_boot_set(demo.TEMPLATE)).boot_set.extents

    def _import_large(self, own: Sequence[Extent]) -> None:
        """Give the template a set larger than its ``own``: with what a larger guest reads, half of it holes here."""
        size = self._client.template(demo.TEMPLATE).size
        reads = [*parse_trace(LARGE.read_text(encoding="utf-8")), *(Read(each.offset, each.length) for each in own)]
        made = merge([reads], size)
        self._steps.tell(f"  {made.total / MIB:.1f} MiB in {len(made.extents)} extents are the large boot set")
        self._client.import_boot_set(demo.TEMPLATE, dump(BootSetFile(demo.TEMPLATE, None, made)))
        until(self._at_rest, "the large boot set to be prefetched", deadline=600, interval=1)

    def _check_large(self, found: PrefetchView) -> None:
        """Where the template has holes nothing is read. Raises CannotTell."""
        self._steps.tell(f"  {found.backend_bytes / MIB:.1f} MiB in {found.seconds:.1f} s, {found.passes} pass(es)")
        if found.backend_bytes < LARGE_BYTES:
            raise CannotTell("the boot set is not large", why=f"{found.backend_bytes} bytes came from the backend")

    def _boot(
        self, kind: str, asked: Operation | None = None, trace: Path | None = None, *, learn: bool = True
    ) -> Booted:
        """Boot a fresh clone; ``asked`` ends with it, ``trace`` takes its reads. It teaches when there is no boot set,
        and ``learn``.
        """
        try:
            return self._boot_once(kind, asked, trace, learn)
        except MachineFault as error:
            if error.fault not in (*guest.EMULATOR_FAULTS, STOOD_STILL):
                raise
            self._steps.tell(f"  {error.fault!r}, a known fault of the emulator: once more with a fresh clone")
            if asked is not None:
                # What was read of the boot that broke off may have ended it: the next is to be recorded too.
                asked = self._client.learn(demo.TEMPLATE, 1)
            return self._boot_once(kind, asked, trace, learn)

    def _boot_once(self, kind: str, asked: Operation | None, trace: Path | None, learn: bool) -> Booted:
        self._count += 1
        name = f"{kind}-{self._count}"
        cpu = self._service_cpu()
        wanted = CloneCreate(name=name, template=demo.TEMPLATE, client=demo.CLIENT, learn=learn)
        [clone] = self._client.create_clones(wanted)
        try:
            if trace is not None:
                self._record(clone.device)
            before = self._client.counters()
            target = guest.NbdTarget(name, host=LOOPBACK, port=self._vm.port(demo.NBD_PORT))
            with guest.booted(self._vm.runner, target, hardware=self._hardware, deadline=600) as (_, boot):
                after = self._client.counters()
                if trace is not None:
                    trace.write_text(self._recorded(), encoding="utf-8")
        except DeadlineExceeded as error:
            if qemu.accelerator().emulated and not self._in_flight(clone.device):
                raise MachineFault(error.what, why=error.why, fault=STOOD_STILL) from error
            raise
        finally:
            if trace is not None:
                self._vm.ssh(["systemctl", "stop", "recorder"], check=False)
            self._client.remove_clone(name, force=True)
        if asked is not None:
            self._client.finish(asked, deadline=120)
        # What was recorded is merged now, and looked at in the cache.
        until(self._at_rest, "the boot to be learned from", deadline=120, interval=1)
        disk = delta(before.clones[name], after.clones[name], name)
        made = Booted(
            name,
            boot.seconds,
            disk.read_bytes,
            delta(before.backend, after.backend, "the backend").read_bytes,
            self._service_cpu() - cpu,
            disk.busy_millis / 1000,
            boot.cpu_seconds,
        )
        hits = 1 - made.backend_bytes / made.read_bytes
        self._steps.tell(
            f"  {name}: {boot.seconds:.1f} s, {made.read_bytes / MIB:.1f} MiB, {hits:.2%} of it from the cache,"
            f" {made.io_seconds:.1f} s of waiting for it; processor: QEMU {made.guest_cpu:.1f} s, hatcheryd"
            f" {made.service_cpu:.1f} s"
        )
        return made

    def _at_rest(self) -> bool:
        view = self._client.template(demo.TEMPLATE)
        booting = view.learning is not None and view.learning.recording
        return not booting and (view.prefetch is None or view.prefetch.state not in ("waiting", "running"))

    def _in_flight(self, device: str) -> bool:
        """Whether a clone's device has requests that are not answered (Documentation/block/stat.rst: inflight)."""
        name = self._vm.ssh(["readlink", "-f", device]).stdout.strip().rpartition("/")[2]
        return self._vm.ssh(["cat", f"/sys/class/block/{name}/inflight"]).stdout.split() != ["0", "0"]

    def _service_cpu(self) -> float:
        """Processor seconds that hatcheryd has used."""
        said = self._vm.ssh(["systemctl", "show", "hatcheryd", "--property=CPUUsageNSec", "--value"]).stdout
        return int(said) / 1e9

    def _sequential(self, like: PrefetchView | None) -> float:
        """Bytes a second that the array gives in order, as much as a prefetch took, past all caches."""
        # Requests so large that every disk has its next ones while a request ends.
        count = -(-(like.backend_bytes if like is not None else LARGE_BYTES) // (64 * MIB))
        words = ["dd", "if=/dev/md/hatchery-backend", "of=/dev/null", "bs=64M", f"count={count}", "iflag=direct"]
        # "167772160 bytes (168 MB, 160 MiB) copied, 0.51 s, 329 MB/s"
        said = self._vm.ssh(["env", "LC_ALL=C", *words], timeout=600).stderr.splitlines()[-1]
        return count * 64 * MIB / float(said.split(" copied, ")[1].split(" s,")[0])

    def _record(self, device: str) -> None:
        words = ["systemd-run", "--quiet", "--unit=recorder", "--collect", "python3", "-c", RECORDER]
        number = self._vm.ssh(["lsblk", "--nodeps", "--noheadings", "--output=MAJ:MIN", device]).stdout.strip()
        self._vm.ssh([*words, number, "/run/recorded.trace", COMMENT])
        watched = ["grep", "-q", "dev", "/sys/kernel/tracing/instances/bench/events/block/block_bio_queue/filter"]
        until(lambda: self._vm.ssh(watched, check=False).returncode == 0, "the recorder", deadline=60, interval=0.5)

    def _recorded(self) -> str:
        self._vm.ssh(["systemctl", "stop", "recorder"])
        return self._vm.ssh(["cat", "/run/recorded.trace"]).stdout
