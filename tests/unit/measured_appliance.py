"""An appliance to measure: a client without a service behind it, and guests that boot in no time.

What is read comes from the backend until a boot or a prefetch has brought it into the cache.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.client import Client
from appliance.errors import InUse, NotFound
from appliance.measure import guest, readings
from appliance.measure.facts import Facts
from appliance.measure.serial import MachineFault
from appliance.schema import (
    BootSetView,
    CacheCounters,
    CloneCreate,
    CloneHistogram,
    Counters,
    DeviceCounters,
    Histograms,
    HistogramsRequest,
    HistogramsStarted,
    HistogramView,
    LearningView,
    PrefetchView,
)

MIB = 1 << 20
READ = 90 * MIB
FACTS = Facts("2026-11-23 03:46 UTC", "a host", "QEMU", "hatchery")


def device(name: str, reads: int = 0, read: int = 0, busy: int = 0) -> DeviceCounters:
    return DeviceCounters(
        name=name, reads=reads, read_bytes=read, writes=0, write_bytes=0, discards=0, busy_millis=busy
    )


@dataclass
class Appliance:
    """``said`` is what was asked of it and what booted, in order. A prefetch is of ``held`` bytes, of which the backend
    gave those that are ``given``."""

    learns: bool = True
    has_boot_set: bool = False
    prefetch_state: Any = "warm"
    held: int | None = READ
    given: int = READ
    faults: list[BaseException] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    clones: dict[str, str | None] = field(default_factory=dict)
    counted: dict[str, DeviceCounters] = field(default_factory=dict)
    cached: bool = False
    fetched: bool = False
    backend: int = 0
    reads: int = 0
    asked: int = 0
    booted: str = ""
    missing: int = 3
    crowd: threading.Barrier | None = None
    hanging: frozenset[str] = frozenset()
    recorder: str = ""
    made: list[CloneCreate] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def api(self) -> Client:
        return cast(Client, self)

    # --- the API

    def template(self, ref: str) -> SimpleNamespace:
        learning = LearningView(missing=self.missing, listening=1, recording=(self.booted,) if self.booted else ())
        return SimpleNamespace(
            ref=f"{ref.partition('@')[0]}@1",
            size=2048 * MIB,
            boot_set=self.boot_set(ref) if self.has_boot_set else None,
            learning=learning if self.learns and self.missing else None,
            prefetch=self.prefetch() if self.fetched else None,
        )

    def prefetch(self) -> PrefetchView:
        return PrefetchView(
            state=self.prefetch_state, why="asked for", total_bytes=READ, backend_bytes=self.given,
            held_bytes=self.held, seconds=2, began=0,
        )  # fmt: skip

    def boot_set(self, ref: str) -> BootSetView:
        return BootSetView(
            total_bytes=READ, extents=1, runs=3, guessed=False, changed=0, wasted_bytes=None,
            template=ref, sha256=None, size=2048 * MIB, places=((0, READ),), picture="",
        )  # fmt: skip

    def clients(self) -> tuple[()]:
        return ()

    def client(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name=name, transport="unix", plain=False)

    def status(self) -> None:
        return None

    def counters(self) -> Counters:
        return Counters(
            taken=0, cache=device("nvme"), cached=device("bcache0", self.reads, self.asked), meta=None, disks=(),
            backend=device("md127", self.backend // MIB, self.backend), clones=dict(self.counted),
            cache_stats=CacheCounters(hits=self.reads, misses=0, bypass_hits=0, bypass_misses=0, bypassed_bytes=0),
        )  # fmt: skip

    def make_clones(self, wanted: CloneCreate) -> tuple[SimpleNamespace, ...]:
        self.made.append(wanted)
        names = [wanted.name] if wanted.count is None else [f"{wanted.name}-{n + 1}" for n in range(wanted.count)]
        for name in names:
            assert name not in self.clones
            self.clones[name] = wanted.client
            self.counted[name] = device("dm")
        return tuple(
            SimpleNamespace(name=name, template="debian-13@1", client=wanted.client, uri=f"nbd://box/{name}")
            for name in names
        )

    def clone(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(client=self.clones[name])

    def attach(self, name: str, client: str) -> None:
        self.clones[name] = client

    def detach(self, name: str, *, force: bool) -> None:
        assert force
        self.clones[name] = None
        self.booted = ""
        self.has_boot_set = True
        self.missing -= 1
        self.said.append(f"learn {name}")

    def remove_clone(self, name: str, *, force: bool) -> None:
        assert force
        if self.clones.pop(name, "none") == "none":
            raise NotFound(name)

    def cold(self) -> str:
        self.cached = False
        return "cold"

    def warm(self, _: str) -> str:
        self.cached = self.fetched = True
        self.backend += READ
        return "warm"

    def finish(self, operation: str, *, deadline: float) -> None:
        assert deadline
        self.said.append(operation)

    def start_histograms(self, wanted: HistogramsRequest) -> None:
        if self.recorder:
            raise InUse("histograms are being recorded already")
        self.recorder = wanted.owner
        self.booted = ""

    def histograms(self) -> HistogramsStarted:
        return HistogramsStarted(started=0, ends=600, owner=self.recorder)

    def stop_histograms(self) -> Histograms:
        self.recorder = ""
        clones = (CloneHistogram(clone=self.booted or "none", histogram=HistogramView(counts=(0, 5))),)
        return Histograms(seconds=1, disks=(), clones=clones)

    # --- guests

    def boot(self, name: str) -> guest.Boot:
        if self.faults:
            raise self.faults.pop(0)
        self.said.append(f"boot {name}")
        self.booted = name
        self.reads += 1000
        self.asked += READ
        self.counted[name] = device("dm", 1000, READ, 3000)
        if not self.cached:
            self.backend += READ
        self.cached = True
        return guest.Boot(10.0, 9.0)

    @contextmanager
    def booting(self, _: object, target: guest.NbdTarget, **__: object) -> Iterator[tuple[None, guest.Boot]]:
        yield None, self.boot(target.export)

    @contextmanager
    def starting(self, _: object, target: guest.NbdTarget, **__: object) -> Iterator[SimpleNamespace]:
        self.running.add(target.export)
        ended = threading.Event()

        def sent(number: signal.Signals) -> None:
            assert number is signal.SIGKILL
            ended.set()

        process = SimpleNamespace(signal=sent)
        try:
            yield SimpleNamespace(name=target.export, started=time.monotonic(), process=process, ended=ended)
        finally:
            self.running.discard(target.export)

    def coming_to_prompt(self, machine: SimpleNamespace, *, deadline: float) -> guest.Boot:
        """All of a crowd have to be there before one logs in; one in ``hanging`` never does."""
        assert deadline
        if self.crowd is not None:
            self.crowd.wait(10)
        with self.lock:
            if machine.name not in self.hanging:
                return self.boot(machine.name)
        if not machine.ended.wait(10):
            self.left.append(machine.name)
        raise MachineFault("the machine ended")


@pytest.fixture
def appliance(monkeypatch: pytest.MonkeyPatch) -> Appliance:
    found = Appliance()
    monkeypatch.setattr(guest, "booted", found.booting)
    monkeypatch.setattr(guest, "started", found.starting)
    monkeypatch.setattr(guest, "stopped_at_prompt", found.coming_to_prompt)
    monkeypatch.setattr(readings, "SETTLE", 0.0)
    return found
