"""A model of the store in memory: the same verbs and errors, so that the service's logic runs without a kernel.

What the model promises of the real pool is checked on the real one by tests/kernel/test_service_pool.py.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from appliance.errors import AlreadyExists, HatcheryError, InUse, NotFound, NotReady, Refused, Unhealthy
from appliance.host.thin import Usage
from appliance.model import GIB, KIB, MIB, Access, Extent, Histogram, Problem
from appliance.reconcile.volumes import Devices, FoundDevice
from appliance.schema import CacheCounters, Counters, DeviceCounters, StoreView
from appliance.service.ports import Tell


class Crash(BaseException):
    """The process dies here: nothing that follows it runs, no clean-up either."""


@dataclass(frozen=True)
class Numbers:
    transaction_id: int
    data_used: int
    data_total: int
    metadata_used: int
    metadata_total: int
    block_bytes: int


@dataclass
class Volume:
    snapshot_of: int | None
    data: bytes = b""


@dataclass
class ModelPool:
    """Volumes are files in ``folder`` while they are active."""

    folder: Path
    data_total: int = 1 * GIB
    metadata_total: int = 16 * MIB
    block_bytes: int = 64 * KIB
    name: str = ""
    """Its identity."""
    transaction: int = 0
    volumes: dict[int, Volume] = field(default_factory=dict)
    active: dict[int, Access] = field(default_factory=dict)
    kinds: dict[int, Devices] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    stilled: set[int] = field(default_factory=set)
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes that volumes are said to map, instead of what is in them."""
    traffic: int = 0
    """Requests of guests between two looks."""
    asked: int = 0
    step: Callable[[str], None] = lambda _: None
    """Called before each change with its name; a test makes it raise."""

    def status(self) -> Numbers:
        used = sum(self._blocks(self._now(i, v)) for i, v in list(self.volumes.items()) if v.snapshot_of is None)
        return Numbers(self.transaction, used, self.data_total, 1 * MIB, self.metadata_total, self.block_bytes)

    def _now(self, thin_id: int, volume: Volume) -> bytes:
        """What a volume holds at this moment, in which it may be deactivated or deleted."""
        try:
            return self.path(thin_id).read_bytes()
        except FileNotFoundError:
            return volume.data

    def _blocks(self, data: bytes) -> int:
        pieces = (data[start : start + self.block_bytes] for start in range(0, len(data), self.block_bytes))
        return sum(self.block_bytes for piece in pieces if piece.strip(b"\0"))

    def create_thin(self, thin_id: int) -> None:
        self.step("create_thin")
        self._new(thin_id, Volume(None))

    def create_snapshot(self, thin_id: int, origin: int) -> None:
        self.step("create_snapshot")
        if origin not in self.volumes:
            raise NotFound(f"there is no thin device {origin}")
        if self.active.get(origin) is Access.READ_WRITE and origin not in self.stilled:
            raise Refused(f"cannot make a snapshot of thin device {origin}")
        self._new(thin_id, Volume(origin, self.bytes_of(origin)))

    @contextmanager
    def still(self, thin_id: int) -> Iterator[None]:
        self.step("still")
        self.stilled.add(thin_id)
        try:
            yield
        except Exception:  # not what stands for the process's death: that leaves the volume held
            self.stilled.discard(thin_id)
            raise
        self.stilled.discard(thin_id)

    def _new(self, thin_id: int, volume: Volume) -> None:
        if thin_id in self.volumes:
            raise AlreadyExists(f"thin device {thin_id} exists")
        self.volumes[thin_id] = volume

    def delete(self, thin_id: int) -> None:
        self.step("delete")
        if thin_id not in self.volumes:
            raise NotFound(f"there is no thin device {thin_id}")
        if thin_id in self.active:
            raise InUse(f"cannot delete thin device {thin_id}")
        del self.volumes[thin_id]

    def held_bytes(self, thin_id: int) -> int:
        if thin_id not in self.volumes:
            raise NotFound(f"there is no thin device {thin_id}")
        return self.sizes.get(thin_id, self._blocks(self.bytes_of(thin_id)))

    def places(self, thin_id: int, extents: Sequence[Extent]) -> tuple[Path, Sequence[Extent]]:
        """A model's volume lies in a file of its own."""
        self.step("places")
        return self.path(thin_id), extents

    def empty(self, thin_id: int, go_on: Callable[[], bool]) -> bool:
        """In four pieces; ``sizes`` says how much there is."""
        self.step("empty")
        if thin_id in self.active:
            raise InUse(f"cannot empty thin device {thin_id}")
        whole = self.held_bytes(thin_id)
        for left in (3, 2, 1, 0):
            self.volumes[thin_id].data = b""
            self.sizes[thin_id] = whole * left // 4
            if left and not go_on():
                return False
        return True

    def usage(self) -> Mapping[int, Usage]:
        return {i: Usage(i, self.held_bytes(i), self._own(i)) for i in self.volumes}

    def _own(self, thin_id: int) -> int:
        shared = self.volumes[thin_id].snapshot_of in self.volumes
        return 0 if shared or any(v.snapshot_of == thin_id for v in self.volumes.values()) else self.held_bytes(thin_id)

    def requests(self) -> int:
        self.asked += self.traffic
        return self.asked

    def exists(self, thin_id: int) -> bool:
        return thin_id in self.volumes

    def set_transaction_id(self, old: int, new: int) -> None:
        self.step("set_transaction_id")
        if old != self.transaction:
            raise Unhealthy(f"cannot move the pool's transaction id from {old} to {new}")
        self.transaction = new

    def thin_ids(self) -> frozenset[int]:
        return frozenset(self.volumes)

    def activate_template(self, thin_id: int, size: int, access: Access) -> Path:
        self.step("activate_template")
        return self._activate(thin_id, size, access, Devices.IMPORT)

    def activate_staging(self, thin_id: int, size: int) -> Path:
        self.step("activate_staging")
        return self._activate(thin_id, size, Access.READ_WRITE, Devices.STAGING)

    def activate_fetching(self, thin_id: int, size: int) -> Path:
        """The volume's file holds what the source has once it is shown, and what was written."""
        self.step("activate_fetching")
        if self.kinds.get(thin_id) is Devices.FETCHING and thin_id in self.active:
            return self.path(thin_id)
        return self._activate(thin_id, size, Access.READ_WRITE, Devices.FETCHING)

    def show_source(self, thin_id: int, source: Path | None) -> None:
        self.step("show_source")
        if source is None:
            return
        with self.path(thin_id).open("r+b") as file:
            file.write(source.read_bytes())

    def origin(self, thin_id: int, size: int, *, whole: bool) -> Path:
        if whole:
            return self.activate_template(thin_id, size, Access.READ_ONLY)
        if self.kinds.get(thin_id) is not Devices.FETCHING or thin_id not in self.active:
            raise NotReady(f"thin device {thin_id} is not shown")
        return self.path(thin_id)

    def activate_still(self, thin_id: int, size: int, origin: Path | None) -> Path:
        self.step("activate_still")
        self._show(thin_id, origin)
        return self._activate(thin_id, size, Access.READ_ONLY, Devices.IMPORT)

    def _show(self, thin_id: int, origin: Path | None) -> None:
        if origin is not None and thin_id not in self.active and not self.volumes[thin_id].data:
            self.volumes[thin_id].data = origin.read_bytes()

    def activate_clone(self, thin_id: int, size: int, origin: Path | None = None) -> Path:
        self.step("activate_clone")
        self._show(thin_id, origin)
        return self._activate(thin_id, size, Access.READ_WRITE)

    def _activate(self, thin_id: int, size: int, access: Access, kind: Devices = Devices.EXPORTED) -> Path:
        if thin_id not in self.volumes:
            raise NotFound(f"there is no thin device {thin_id}")
        path = self.path(thin_id)
        if thin_id not in self.active:
            path.write_bytes(self.volumes[thin_id].data.ljust(size, b"\0"))
        elif path.stat().st_size > size:  # made anew; larger ones are taken away before
            os.truncate(path, size)
        self.active[thin_id] = access
        self.stilled.discard(thin_id)
        self.kinds[thin_id] = kind
        return path

    def activate_ephemeral(self, thin_id: int, size: int, origin: Path) -> Path:
        self.step("activate_ephemeral")
        self._show(thin_id, origin)
        return self._activate(thin_id, size, Access.READ_WRITE)

    def identity(self) -> str:
        return self.name

    def deactivate(self, thin_id: int) -> None:
        self.step("deactivate")
        if thin_id in self.held:
            raise InUse(f"cannot deactivate thin device {thin_id}")
        if thin_id in self.active:
            self.volumes[thin_id].data = self.path(thin_id).read_bytes()
            self.path(thin_id).unlink()
            del self.active[thin_id]

    def devices(self) -> Mapping[int, FoundDevice]:
        found = {}
        for thin_id, access in self.active.items():
            size = self.path(thin_id).stat().st_size
            kind = Devices.SEALED if access is Access.READ_ONLY else self.kinds[thin_id]
            found[thin_id] = FoundDevice(kind, size, whole=thin_id not in self.stilled)
        return found

    def mapped_bytes(self, thin_id: int) -> int:
        if thin_id not in self.active:
            raise NotFound(f"thin device {thin_id} is not active")
        return self._blocks(self.bytes_of(thin_id))

    def path(self, thin_id: int) -> Path:
        return self.folder / f"volume-{thin_id}"

    def bytes_of(self, thin_id: int) -> bytes:
        if thin_id in self.active:
            return self.path(thin_id).read_bytes()
        return self.volumes[thin_id].data


class ModelStore:
    """A healthy stack with counters at rest."""

    def __init__(self) -> None:
        self.latencies: dict[int, Histogram] = {}
        self.disk_counts: dict[str, Histogram] = {}
        self.work: dict[int, DeviceCounters] = {}
        """What clones have done, if not nothing."""
        self.read_bytes: dict[int, int] = {}
        self.cold_calls = 0
        self.reserve = 0
        self.named = "abc"
        self.guests: Callable[[], int] = lambda: 0
        self.flows: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.dead: frozenset[str] = frozenset()
        self.healed = 0
        self.heal_error: HatcheryError | None = None
        self.problems: tuple[Problem, ...] = ()
        self.examined: dict[int, tuple[Problem, ...] | None] = {}

    def examine(self) -> Mapping[int, tuple[Problem, ...] | None]:
        return {5: (), 7: (), 8: (), 12: (), **self.examined}

    def look(self) -> tuple[StoreView, tuple[Problem, ...]]:
        return StoreView(backend=None, meta=None, cache=None, pool=None), self.problems

    def cold(self, tell: Tell) -> None:
        tell("writing back what the cache alone has", 1 * MIB, 4 * MIB, "")
        tell("dropping the page caches", 3, 4, "steps")
        tell("the cache is empty", 4, 4, "steps")
        self.cold_calls += 1

    def drives(self) -> Mapping[str, bool]:
        return {name: name not in self.dead for name in self.named}

    def finish_growth(self) -> None:
        pass

    def remember_loss(self) -> None:
        pass

    def heal(self) -> None:
        self.healed += 1
        if self.heal_error is not None:
            raise self.heal_error

    def release_reserve(self) -> int:
        released, self.reserve = self.reserve, 0
        return released

    def counters(self, clones: Mapping[int, str]) -> Counters:
        return Counters(
            taken=1.0,
            cache=rest("ubda2"),
            cached=rest("bcache0"),
            backend=rest("md127"),
            meta=rest("md126"),
            fast=rest("dm-900"),
            disks=(rest("ubdb"),),
            cache_stats=CacheCounters(hits=0, misses=0, bypass_hits=0, bypass_misses=0, bypassed_bytes=0),
            clones={name: self.work.get(thin_id, rest(f"dm-{thin_id}")) for thin_id, name in clones.items()},
        )

    def flow(self) -> Callable[[], tuple[int, int]]:
        return self.flows

    def guest_requests(self) -> int:
        return self.guests()

    def count_latencies(self) -> None:
        self.disk_counts = {disk: found + Histogram((1,)) for disk, found in self.disk_counts.items()}

    def disk_latencies(self) -> Mapping[str, Histogram]:
        return self.disk_counts

    def exported(self, thin_id: int) -> tuple[str, int] | None:
        return f"254:{thin_id}", self.read_bytes.get(thin_id, 0)

    def clone_latencies(self, thin_id: int) -> Histogram:
        return self.latencies.get(thin_id, Histogram())

    def disk_roles(self) -> Mapping[str, Literal["cache", "backend"]]:
        return {"ubda": "cache", "ubdb": "backend"}


def rest(name: str) -> DeviceCounters:
    return DeviceCounters(name=name, reads=0, read_bytes=0, writes=0, write_bytes=0, discards=0)


class ModelConverter:
    """Writes ``result`` as the converted image; a test may make it raise."""

    def __init__(self) -> None:
        self.result = b""
        self.error: Exception | None = None
        self.stopped = 0
        self.open: tuple[str, ...] = ()

    def convert(self, source: Path, target: Path, staging: int) -> None:
        assert source.exists()
        assert staging
        if self.error is not None:
            raise self.error
        target.write_bytes(self.result)

    def stop(self, staging: int) -> None:
        assert staging
        self.stopped += 1
        self.error = Unhealthy("the conversion of the image could not run", why="it was stopped")

    def stop_all(self) -> None:
        self.stopped += 1

    def breaches(self) -> tuple[str, ...]:
        return self.open
