"""One peer after the other: set up, booted from, counted, torn down. Called in the lab; seconds and bytes."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from appliance.bootset.extents import pages_read
from appliance.bootset.trace import parse_trace
from appliance.errors import NotReady
from appliance.measure.replay import Replay, replay
from tests.kernel.inside.peers import disks
from tests.kernel.inside.peers.hatchery import Hatchery
from tests.kernel.inside.peers.limits import RawArray
from tests.kernel.inside.peers.lvm_thin import LvmThin
from tests.kernel.inside.peers.nbd_filters import NbdFilters
from tests.kernel.inside.peers.peer import Creating, Io, Peer, Plan
from tests.kernel.inside.peers.qcow2 import Qcow2

PEERS: Mapping[str, type[Peer]] = {
    "hatchery": Hatchery,
    "lvm": LvmThin,
    "qcow2": Qcow2,
    "nbdkit": NbdFilters,
    "raw-array": RawArray,
}

COLD = 0.9
"""Share of what a boot reads that must come from the array where a cache is said to be empty."""

Figures = dict[str, dict[str, list[float]]]
"""What was measured, by what was done and by what it is a figure of."""


def measure(key: str, golden: str, traces: Sequence[str], plan: Mapping[str, Any], kept: str) -> dict[str, Any]:
    """All of one peer: figures by trace, and of creation under ``clones``.

    What was measured so far is in the file ``kept`` at any time: what breaks off later is not to cost it.
    """
    peer = PEERS[key]()
    chosen = Plan(**{**plan, "storms": tuple(plan["storms"]), "present": tuple(plan["present"])})
    found: dict[str, Any] = {}
    broken: list[str] = []

    def keep() -> None:
        fresh = Path(f"{kept}.new")
        fresh.write_text(json.dumps(found), encoding="utf-8")
        fresh.replace(kept)

    print(f"{peer.name}: setting up", flush=True)
    with peer.running(Path(golden)):
        for trace in traces:
            booting = Booting(peer, trace, keep)
            found[Path(trace).stem] = booting.figures
            booting.everything(chosen)
            broken += booting.broken
        if isinstance(peer, Creating) and chosen.present:
            found["clones"] = creation(peer, chosen)
            keep()
    disks.settle()
    return {**found, "failed": "; ".join(broken)} if broken else found


class Booting:
    """Boots of one peer's clones by one trace."""

    def __init__(self, peer: Peer, trace: str, keep: Callable[[], None]) -> None:
        self.peer = peer
        self.keep = keep
        self.title = f"{peer.name}, {Path(trace).stem}"
        self.trace = Path(trace)
        self.reads = parse_trace(self.trace.read_text(encoding="utf-8"))
        self._distinct = pages_read(self.reads, max(read.offset + read.length for read in self.reads))
        self.figures: Figures = {}
        self.broken: list[str] = []
        """What this set-up could not do."""

    def everything(self, plan: Plan) -> None:
        for number in range(plan.rounds):
            self._tell(f"first and second boot, {number + 1} of {plan.rounds}")
            self.peer.cold()
            self._boots("first", 1)
            self._check_cold("first")
            self._boots("second", 1)
        for clients in plan.storms:
            self._tell(f"{clients} boots at once")
            self.peer.cold()
            try:
                self._boots(f"storm {clients} first", clients)
                self._check_cold(f"storm {clients} first")
            except NotReady as error:
                # A server that does not bear so many is no reason to measure nothing else.
                self.broken.append(f"{clients} boots at once, {self.trace.stem}: {error.why}")
                self._tell(f"{clients} boots at once broke off: {error.why}")
        if isinstance(self.peer, Hatchery) and plan.pairs:
            self.peer.learn(self.trace)
            self._learned(self.peer, plan)
            self.peer.forget()

    def _check_cold(self, name: str) -> None:
        """Whether the data of the last boots of a name came from the array: most of one boot's, at least, as some is
        read twice, or is next to it.
        """
        least = COLD * self._distinct
        read = self.figures[name]["backend"][-1]
        if read < least:
            raise RuntimeError(f"{self.title}: {name} was not cold: {read:.0f} bytes came from the array")

    def _learned(self, peer: Hatchery, plan: Plan) -> None:
        for number in range(plan.pairs):
            self._tell(f"prefetched boot, warm boot, raw NVMe, {number + 1} of {plan.pairs}")
            self._prefetched(peer)
        for number in range(plan.rounds):
            self._tell(f"first boot while its boot set is prefetched, {number + 1} of {plan.rounds}")
            self._meanwhile(peer)
        for clients in plan.storms:
            # Something is held to the time of the largest alone.
            for number in range(plan.storm_rounds if clients == max(plan.storms) else 1):
                self._tell(f"{clients} prefetched boots at once, {number + 1}")
                self._storm_prefetched(peer, clients)

    def _prefetched(self, peer: Hatchery) -> None:
        peer.cold()
        self._prefetch(peer, "prefetch")
        self._boots("prefetched", 1)
        self._boots("warm", 1)
        self._raw(peer, "raw NVMe", 1)

    def _meanwhile(self, peer: Hatchery) -> None:
        """A first boot that begins together with the prefetch: what the backend read is of both."""
        peer.cold()
        uris = peer.hatch(1)
        try:
            disks.rest()
            before = peer.io()
            operation = peer.begin_prefetch()
            done = replay(uris, self.reads)
            peer.end_prefetch(operation)
            self._note("meanwhile", done, peer.io().since(before))
        finally:
            peer.drop()

    def _storm_prefetched(self, peer: Hatchery, clients: int) -> None:
        peer.cold()
        self._prefetch(peer, f"storm {clients} prefetch")
        self._boots(f"storm {clients} prefetched", clients)
        self._raw(peer, f"storm {clients} raw NVMe", clients)

    def _prefetch(self, peer: Hatchery, what: str) -> None:
        before, begin = peer.io(), time.perf_counter()
        peer.prefetch()
        took = time.perf_counter() - begin
        added = peer.io().since(before)
        if added.backend < COLD * self._distinct:
            raise RuntimeError(
                f"{self.title}: the prefetch was not into an empty cache: {added.backend} bytes were read"
            )
        self._keep(what, seconds=took, backend=added.backend, cache=added.cache)

    def _raw(self, peer: Hatchery, what: str, clients: int) -> None:
        disks.rest()
        self._note(what, replay([peer.raw_uri] * clients, self.reads), Io(0, 0))

    def _boots(self, what: str, clients: int) -> None:
        uris = self.peer.hatch(clients)
        try:
            disks.rest()
            before = self.peer.io()
            done = replay(uris, self.reads)
            self._note(what, done, self.peer.io().since(before))
        finally:
            self.peer.drop()

    def _note(self, what: str, done: Replay, added: Io) -> None:
        self._keep(
            what,
            seconds=max(done.seconds),
            median=median(done.seconds),
            backend=added.backend,
            cache=added.cache,
            client=done.bytes,
        )

    def _keep(self, what: str, **values: float) -> None:
        for name, value in values.items():
            self.figures.setdefault(what, {}).setdefault(name, []).append(value)
        self.keep()
        shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        print(f"{self.title}: {what}: {shown}", flush=True)

    def _tell(self, text: str) -> None:
        print(f"{self.title}: {text}", flush=True)


def creation(peer: Creating, plan: Plan) -> Figures:
    """Seconds to make one clone more and bytes that a clone takes, by how many are there."""
    found: Figures = {}
    peer_name = getattr(peer, "name", "")
    with disks.unhurried():
        empty = peer.space()
    for present in plan.present:
        print(f"{peer_name}: making clones with {present} present", flush=True)
        with disks.unhurried():
            peer.reach(present)
            space = peer.space()
        figures = found.setdefault(str(present), {"seconds": [], "space": [(space - empty) / present]})
        for number in range(-1, plan.creations):
            begin = time.perf_counter()
            peer.create()
            took = time.perf_counter() - begin
            peer.remove()
            if number >= 0:
                figures["seconds"].append(took)
    return found


def describe() -> dict[str, str]:
    """Versions of the peers' tools."""
    from appliance.run import Runner

    run = Runner().run
    lvm = next(line for line in run(["lvm", "version"]).stdout.splitlines() if "LVM version" in line)
    return {
        "tools": ", ".join(
            [
                f"LVM {lvm.split(':')[1].split()[0]}",
                run(["nbdkit", "--version"]).stdout.splitlines()[0],
                run(["qemu-storage-daemon", "--version"]).stdout.splitlines()[0],
            ]
        )
    }
