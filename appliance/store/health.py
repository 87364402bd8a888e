"""How the store is, what it has done, and a cold start of its cache by command. Sizes in bytes."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from appliance.config import CacheMode
from appliance.errors import HatcheryError, NotFound, Unhealthy
from appliance.host import bcache, block, md
from appliance.host.bcache import State, Totals
from appliance.host.block import Device
from appliance.host.dm_stats import Regions
from appliance.host.md import Array
from appliance.model import Health, Histogram, Problem
from appliance.store import backend, bypass, cache, clone_counters, durable, metadata, mirror, names, nvme
from appliance.store.clone_counters import DeviceCounters
from appliance.store.machine import Machine
from appliance.store.names import PoolName
from appliance.store.pool_health import PoolHealth, fast_health, pool_health

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """A member of an array."""

    device: str
    state: str


@dataclass(frozen=True, slots=True)
class ArrayHealth:
    """The backend or the metadata mirror. ``missing`` of its members are not there, or do not have all data."""

    health: Health
    name: str
    level: str
    state: str
    size: int
    sync_action: str
    sync_percent: float | None
    members: tuple[MemberHealth, ...]
    missing: int = 0


@dataclass(frozen=True, slots=True)
class CacheHealth:
    """The cache. ``available_percent`` is None while it is not attached."""

    health: Health
    attached: bool
    mode: str
    size: int
    settings_ok: bool
    bypassed_bytes: int
    available_percent: int | None


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """All parts; one that could not be looked at is None, and a problem says why.

    ``pool`` is the durable pool. ``fast`` is None as well where there is no fast pool and none is missed.
    ``last_backup`` is when the last whole one was made, in seconds since the epoch; None before the first.
    """

    backend: ArrayHealth | None
    meta: ArrayHealth | None
    cache: CacheHealth | None
    pool: PoolHealth | None
    fast: PoolHealth | None
    problems: tuple[Problem, ...]
    last_backup: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Counters:
    """All counters, read one right after the other. ``taken`` in seconds of the monotonic clock.

    ``backend`` is the array's data partition: what the cache could not answer. ``fast`` is what the fast pool keeps its
    data on, None where there is no such pool.
    """

    taken: float
    cache: DeviceCounters | None
    cached: DeviceCounters
    backend: DeviceCounters
    meta: DeviceCounters | None
    fast: DeviceCounters | None
    disks: tuple[DeviceCounters, ...]
    cache_stats: Totals
    clones: dict[int, DeviceCounters]


class Store:
    """The store of this machine, for those who look at it and measure it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._config = machine.config
        self._regions = Regions()
        self._cached: tuple[Device, ...] = ()
        """Backing devices that had their cache when they were last asked for."""

    def health(self) -> StoreHealth:
        """How all parts are. Never raises: what cannot be looked at is a problem."""
        found = metadata.problems(self._config.paths.state, time.time())
        problems = [replace(problem, part="backup") for problem in found]
        return StoreHealth(
            backend=_part("backend", problems, self._backend),
            meta=_part("meta", problems, self._mirror),
            cache=_part("cache", problems, self._cache),
            pool=_part("durable", problems, lambda own: pool_health(self._machine, PoolName.DURABLE, own)),
            fast=_part("fast", problems, lambda own: fast_health(self._machine, own)),
            problems=tuple(problems),
            last_backup=metadata.last_backup(self._config.paths.state),
        )

    def cold(self, tell: Callable[[str, int, int, str], None] = lambda *_: None) -> None:
        """Empty the cache and the page caches. Raises NotReady, Unhealthy, DeadlineExceeded.

        ``tell`` hears how far it is: in words, how much of how much, and of what if that is not bytes.

        The cache set forgets the backing device when it is detached, so nothing that it held can be found again; that
        this happened is seen in the device's state, and the settings are set and verified afterwards.
        """
        every = cache.devices(self._machine)
        set_uuid = every[0].set_uuid or self._set_uuid()
        if set_uuid is None:
            raise Unhealthy("the cache cannot be emptied", why="it is not attached", hint="see `hatchery-store status`")
        mode = cache.mode_for(self._machine, self._config.require_store().cache_mode)
        dirty = sum(bcache.dirty_bytes(found.backing) for found in every)
        steps = 2 * len(every) + 2

        def written_back() -> None:
            left = sum(bcache.dirty_bytes(found.backing) for found in every)
            tell("writing back what the cache alone has", max(0, dirty - left), dirty, "")

        try:
            for number, found in enumerate(every):
                if not dirty:
                    tell("taking the cache away", number, steps, "steps")
                bcache.detach(found.backing, written_back if dirty else lambda: None)
            tell("emptying the cache", len(every), steps, "steps")
            bcache.collect_garbage(set_uuid)
        finally:
            for number, found in enumerate(every):
                tell("giving the cache back", len(every) + 1 + number, steps, "steps")
                bcache.attach(found.backing, set_uuid)
                bcache.apply_settings(found.backing, set_uuid, mode)
            bypass.forgive(self._config.paths)
        for again in cache.devices(self._machine):
            if again.state not in (State.CLEAN, State.DIRTY) or again.set_uuid != set_uuid:
                raise Unhealthy(
                    "the cache did not come back", why=f"it is {again.state}", hint="run `hatchery-store up`"
                )
        tell("dropping the page caches", steps - 1, steps, "steps")
        block.write_text(Path("/proc/sys/vm/drop_caches"), "3")
        tell("the cache is empty", steps, steps, "steps")

    def remember_loss(self) -> None:
        """Leave word where a start finds it when the cache died. Raises NotReady, Unhealthy.

        It is asked for often: which devices they are is found out anew only when one of them lost its cache.
        """
        if self._cached and all(map(bcache.has_cache, self._cached)):
            return
        every = cache.devices(self._machine)
        self._cached = tuple(each.backing for each in every) if all(each.set_uuid for each in every) else ()
        try:
            cache.remember_loss(self._machine, every)
        except OSError as error:
            raise Unhealthy("the loss of the cache cannot be written down", why=str(error)) from error

    def _set_uuid(self) -> str | None:
        place = cache.holder(self._machine)
        return bcache.cache_set(place.device) if place is not None else None

    def release_reserve(self) -> int:
        """Give the durable pool what is held back from it; the bytes that it gained. Raises NotReady, Unhealthy."""
        return durable.extend(self._machine, reserve_percent=0)

    def counters(self, thin_ids: Iterable[int] = ()) -> Counters:
        """All counters now; ``thin_ids`` are clones that should be active. Raises NotReady, CannotTell.

        Looking reads nothing from the disks that are measured. The backend is counted on its data partition: what the
        metadata mirror does on the other one, a resync after a power cut above all, is no client's doing.
        """
        every = cache.devices(self._machine)
        array = backend.running(self._config.require_backend())
        members = [block.by_name(member.name) for member in array.members]
        mirrored = md.with_member(backend.part(self._config.require_backend(), names.PART_META))
        meta = mirrored.device if mirrored is not None else None
        fast = self._fast()
        clones = clone_counters.read(self._machine.dm, thin_ids)
        return Counters(
            taken=time.monotonic(),
            cache=_counters(fast) if fast is not None else None,
            cached=_sum([_counters(found.device) for found in every]),
            backend=_sum([_counters(found.backing) for found in every]),
            meta=_counters(meta) if meta is not None else None,
            fast=self._fast_pool(),
            disks=tuple(_counters(member) for member in members if member is not None),
            cache_stats=bcache.add([bcache.totals(found.backing) for found in every]),
            clones=clones,
        )

    def exported(self, thin_id: int) -> tuple[str, int] | None:
        """The device that a clone is exported by, ``MAJOR:MINOR``, and bytes read from it so far; None without one.

        Raises CannotTell.
        """
        info = clone_counters.find(self._machine.dm, thin_id)
        device = block.by_number(str(info.number)) if info is not None else None
        return None if device is None else (device.number, block.statistics(device).read_bytes)

    def clone_latencies(self, thin_id: int) -> Histogram:
        """Latencies of an active clone's requests since it was activated. Raises NotFound, CannotTell."""
        info = clone_counters.find(self._machine.dm, thin_id)
        if info is None:
            raise NotFound(f"clone {thin_id} is not active", why="it is not attached")
        return self._regions.read(self._machine.dm, info.name, str(info.number))

    def disk_roles(self) -> Mapping[str, Literal["cache", "backend"]]:
        """What each whole disk is for, by its kernel name; disks that are missing are left out."""
        roles: dict[str, Literal["cache", "backend"]] = {}
        for path in self._config.backend.disks if self._config.backend is not None else ():
            device = block.find(path)
            if device is not None:
                roles[device.name] = "backend"
        for path in self._config.nvme.devices if self._config.nvme is not None else ():
            device = block.find(path)
            if device is not None:
                roles[device.name] = "cache"
        return roles

    # Parts

    def _backend(self, problems: list[Problem]) -> ArrayHealth:
        wanted = self._config.require_backend()
        array = backend.running(wanted)
        if array.degraded:
            missing = [path for path in wanted.disks if block.find(path) is None]
            what = f"the backend array lacks {array.degraded} of {array.raid_disks} disks"
            if array.sync_action == "recover":
                problems.append(Problem(Health.DEGRADED, f"{what}; it is being rebuilt", "wait for it"))
            else:
                where = f": {', '.join(missing)} is missing" if missing else ""
                problems.append(Problem(Health.DEGRADED, what + where, "replace the disk and run backend_raid"))
        return _array(array, names.array(names.BACKEND))

    def _mirror(self, problems: list[Problem]) -> ArrayHealth:
        array = mirror.running(self._machine)
        if array.degraded and array.sync_action not in ("recover", "resync"):
            hint = "replace the NVMe drive and run the roles, or see `hatchery-store up`"
            working = sum(member.working for member in array.members)
            lost = "has one leg only" if working == 1 else f"lacks {array.degraded} of {array.raid_disks} legs"
            problems.append(Problem(Health.DEGRADED, f"the metadata mirror {lost}", hint))
        slow = backend.part(self._config.require_backend(), names.PART_META).name
        leg = next((member for member in array.members if member.name == slow), None)
        if leg is None or "faulty" in leg.state:
            problems.append(
                Problem(Health.FAILED, "the metadata mirror runs without its backend leg", "stop the store", 10)
            )
        elif "write_mostly" not in leg.state:
            problems.append(
                Problem(Health.DEGRADED, "the mirror reads from its slow leg", "run `hatchery-store up`", 10)
            )
        if array.backlog:
            problems.append(
                Problem(Health.DEGRADED, "the mirror's slow leg may lag (write-behind)", "run `hatchery-store up`", 10)
            )
        return _array(array, names.array(names.META))

    def _cache(self, problems: list[Problem]) -> CacheHealth:
        every = cache.devices(self._machine)
        found = every[0]
        attached = all(each.set_uuid is not None and each.state is not State.NO_CACHE for each in every)
        fast = self._fast()
        mirrored = next((array for array in md.arrays() if fast is not None and array.device == fast), None)
        mode = self._config.require_store().cache_mode if mirrored is not None else CacheMode.WRITETHROUGH
        wrong = tuple(word for each in every for word in bcache.wrong_settings(each.backing, each.set_uuid, mode))
        counted = bcache.add([bcache.totals(each.backing) for each in every]).bypassed
        bypassed = bypass.alarming(self._config.paths, counted)
        degraded = self._cache_mirror(mirrored, mode, problems)
        if not attached:
            hint = "replace the NVMe drive and run nvme_cache and clone_store; clones go on at the backend's speed"
            problems.append(Problem(Health.DEGRADED, "the cache is not attached", hint))
        if wrong:
            what = f"the cache's settings are not as they must be: {'; '.join(wrong)}"
            problems.append(Problem(Health.FAILED, what, "run `hatchery-store up`", 1))
        if attached and bypassed:
            hint = "with a read miss at the same moment this can leave old data in the cache: find out what bypasses it"
            problems.append(Problem(Health.DEGRADED, f"{bypassed} bytes went past the cache", hint, 1))
        available = bcache.available_percent(found.set_uuid) if attached and found.set_uuid else None
        worst = Health.FAILED if wrong else Health.OK if attached and not bypassed and not degraded else Health.DEGRADED
        size = fast.size if fast is not None else 0
        shown = bcache.chosen(block.read_text(found.backing.sysfs / "bcache/cache_mode"))
        return CacheHealth(worst, attached, shown, size, not wrong, bypassed, available)

    def _cache_mirror(self, array: Array | None, mode: CacheMode, problems: list[Problem]) -> bool:
        """Whether the cache is not on both of two drives, with the problem that this is."""
        if len(self._config.require_nvme().devices) < 2:
            return False
        if array is None:
            hint = "run the role clone_store, which mirrors it"
            problems.append(Problem(Health.DEGRADED, "the cache is not mirrored on the two NVMe drives", hint))
            return True
        if not array.degraded:
            return False
        risk = "; if the other one dies, what was not written back is lost" if mode is CacheMode.WRITEBACK else ""
        if array.sync_action == "recover":
            what, hint = "the cache's second drive is being brought up to date", "wait for it"
        else:
            what, hint = "the cache is on one of its two NVMe drives", "replace the drive and run the roles"
        problems.append(Problem(Health.DEGRADED, what + risk, hint))
        return True

    def _fast_pool(self) -> DeviceCounters | None:
        """What the fast pool keeps its data on has done; None where there is none."""
        info = self._machine.dm.find(names.pool_data(PoolName.FAST))
        device = block.by_number(str(info.number)) if info is not None else None
        return None if device is None else _counters(device)

    def _fast(self) -> Device | None:
        """What the cache is on, or what it was on where it is not attached."""
        found = _or_none(lambda: cache.fast_device(self._machine))
        parts = nvme.parts(self._config.nvme, names.PART_CACHE) if found is None and self._config.nvme else ()
        return found or (parts[0].device if parts else None)


def _part(name: str, problems: list[Problem], look: Callable[[list[Problem]], T]) -> T | None:
    """One part, and its problems, which are added to the others'."""
    own: list[Problem] = []
    try:
        return look(own)
    except HatcheryError as error:
        own.append(Problem(Health.FAILED, f"{error.what}" + (f": {error.why}" if error.why else ""), error.hint))
        return None
    finally:
        problems += [replace(problem, part=name) for problem in own]


def _or_none(look: Callable[[], T]) -> T | None:
    try:
        return look()
    except HatcheryError:
        return None


def _array(array: Array, name: str) -> ArrayHealth:
    members = tuple(MemberHealth(member.name, _words(member)) for member in array.members)
    health = Health.DEGRADED if array.degraded else Health.OK
    if not array.running or array.state == "broken":
        health = Health.FAILED
    action, percent = array.sync_action, array.sync_percent
    size, missing = array.device.size, array.degraded
    return ArrayHealth(health, name, array.level, array.state, size, action, percent, members, missing)


def _words(member: md.Member) -> str:
    return ", ".join(sorted(word.replace("_", "-") for word in member.state if word))


def _counters(device: Device) -> DeviceCounters:
    found = block.statistics(device)
    return DeviceCounters(device.name, *astuple(found))


def _sum(counters: Sequence[DeviceCounters]) -> DeviceCounters:
    """What several devices have done together, under the first one's name."""
    numbers = (astuple(each)[1:] for each in counters)
    return DeviceCounters(counters[0].name, *map(sum, zip(*numbers, strict=True)))
