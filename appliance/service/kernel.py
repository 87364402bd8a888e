"""The real store behind the service's port: its values as the API's types."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Literal

from appliance import config
from appliance.errors import HatcheryError
from appliance.host import block, glance
from appliance.model import Histogram, Problem
from appliance.schema import (
    ArrayView,
    CacheCounters,
    CacheView,
    Counters,
    DeviceCounters,
    MemberView,
    PoolView,
    StoreView,
)
from appliance.service.ports import Tell
from appliance.store import clone_counters, drives, examine, health, start
from appliance.store.drives import Drives
from appliance.store.flow import Flow
from appliance.store.guests import Guests
from appliance.store.health import ArrayHealth
from appliance.store.latencies import Latencies
from appliance.store.machine import Machine


class KernelStore:
    """See ``ports.Store``."""

    def __init__(self, machine: Machine, change_elsewhere: Callable[[], None] | None = None) -> None:
        """``change_elsewhere`` does what ``hatchery-store up`` does, where that is allowed; by default it is here."""
        self._change_elsewhere = change_elsewhere
        self._machine = machine
        self._store = health.Store(machine)
        self._drives = Drives()
        self._guests = Guests()
        self._latencies = Latencies()

    def look(self) -> tuple[StoreView, tuple[Problem, ...]]:
        """See Store."""
        with contextlib.suppress(HatcheryError):
            self._adopt_settings()
        found = self._store.health()
        view = StoreView(
            backend=_array(found.backend),
            meta=_array(found.meta),
            cache=None if found.cache is None else CacheView(**asdict(found.cache)),
            pool=None if found.pool is None else PoolView(**asdict(found.pool)),
            fast=None if found.fast is None else PoolView(**asdict(found.fast)),
            last_backup=found.last_backup,
        )
        return view, found.problems

    def examine(self) -> Mapping[int, tuple[Problem, ...] | None]:
        """See Store."""
        return examine.rules(self._machine)

    def cold(self, tell: Tell) -> None:
        """See Store."""
        self._store.cold(tell)

    def drives(self) -> Mapping[str, bool]:
        """See Store."""
        named = drives.of(self._machine.config)
        silent = self._drives.silent(named)
        return {path: path not in silent for path in named}

    def remember_loss(self) -> None:
        """See Store."""
        self._store.remember_loss()

    def heal(self) -> None:
        """See Store."""
        self._change(start.up)

    def finish_growth(self) -> None:
        """See Store."""
        if start.growth_is_due(self._machine):
            self._change(start.finish_growth)

    def _change(self, work: Callable[[Machine], object]) -> None:
        """Change the store. Raises InUse at once while somebody else does."""
        with self._machine.exclusive(deadline=0.0):
            if self._change_elsewhere is None:
                work(self._machine)
                return
        # Who takes the lock at this moment is waited for there.
        with glance.anew():
            self._change_elsewhere()

    def _adopt_settings(self) -> None:
        """Know the drives and disks that were named since: setup changes the settings under a running service."""
        loaded = config.load(self._machine.config.paths)
        if loaded != self._machine.config:
            self._machine = Machine(loaded, self._machine.runner)
            self._store = health.Store(self._machine)

    def release_reserve(self) -> int:
        """See Store."""
        return self._store.release_reserve()

    def counters(self, clones: Mapping[int, str]) -> Counters:
        """See Store."""
        found = self._store.counters(clones)
        stats = found.cache_stats
        return Counters(
            taken=found.taken,
            cache=_device(found.cache) if found.cache is not None else None,
            cached=_device(found.cached),
            backend=_device(found.backend),
            meta=_device(found.meta) if found.meta is not None else None,
            fast=_device(found.fast) if found.fast is not None else None,
            disks=tuple(_device(disk) for disk in found.disks),
            cache_stats=CacheCounters(
                hits=stats.hits,
                misses=stats.misses,
                bypass_hits=stats.bypass_hits,
                bypass_misses=stats.bypass_misses,
                bypassed_bytes=stats.bypassed,
            ),
            clones={clones[thin_id]: _device(device) for thin_id, device in found.clones.items()},
        )

    def flow(self) -> Callable[[], tuple[int, int]]:
        """See Store."""
        return Flow(self._machine).bytes

    def guest_requests(self) -> int:
        """See Store."""
        return self._guests.under_way()

    def count_latencies(self) -> None:
        """See Store."""
        found = (block.by_name(name) for name in self._store.disk_roles())
        self._latencies.look(disk for disk in found if disk is not None)

    def disk_latencies(self) -> Mapping[str, Histogram]:
        """See Store."""
        return self._latencies.histograms()

    def exported(self, thin_id: int) -> tuple[str, int] | None:
        """See Store."""
        return self._store.exported(thin_id)

    def clone_latencies(self, thin_id: int) -> Histogram:
        """See Store."""
        return self._store.clone_latencies(thin_id)

    def disk_roles(self) -> Mapping[str, Literal["cache", "backend"]]:
        """See Store."""
        return self._store.disk_roles()


def _array(found: ArrayHealth | None) -> ArrayView | None:
    if found is None:
        return None
    members = tuple(MemberView(device=member.device, state=member.state) for member in found.members)
    return ArrayView(**{**asdict(found), "members": members})


def _device(found: clone_counters.DeviceCounters) -> DeviceCounters:
    return DeviceCounters(**asdict(found))
