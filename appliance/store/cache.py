"""The cache: bcache on NVMe over the backend's data partitions, with its settings kept (rule 1).

The cache set's uuid is the id of the NVMe partition that it lies on, or of the mirror of two such partitions: a new
drive, or a partition made anew, gets a new set, and what an older drive holds can never be taken for the current cache.

A drive that dies and answers again holds what was true when it died. The kernel (6.12, ``bch_writeback_thread``) often
leaves a backing device whose cache died as "clean", with that cache's uuid: it would believe all of it, and guests
would read what they have since written over. So such a cache is made anew, or, at a start, comes to a backing device
that was started without it, which makes the kernel take its content for invalid. A mark remembers it over a power cut.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.config import CacheMode
from appliance.errors import CannotTell, NotReady, Refused, Unhealthy
from appliance.host import bcache, block, md
from appliance.host.bcache import BackingState, Cached, State, Superblock
from appliance.host.block import Device
from appliance.host.partitions import align_up
from appliance.model import MIB
from appliance.reconcile import Description
from appliance.store import backend, bypass, cache_mirror, marks, names, nvme
from appliance.store.machine import Machine, StoreSteps
from appliance.store.mirror import Making
from appliance.store.nvme import Found

log = logging.getLogger(__name__)

_MARK = "cache.lost"


@dataclass(frozen=True, slots=True)
class Side:
    """The cache's device or the backing device. ``kind`` says what else is on it; ``guid`` is its partition's id."""

    device: str | None
    superblock: Superblock | None
    registered: bool
    kind: str = ""
    guid: str = ""


NO_SIDE = Side(None, None, False)
"""A cache that is missing."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache and one backing device as they were found. ``settings`` are sentences about those that are wrong.

    ``later`` says that the backing device is not the first: one that is blank belongs to a growth that was cut off.
    """

    cache: Side
    backing: Side
    cached: Cached | None
    settings: tuple[str, ...]
    later: bool = False


@dataclass(frozen=True, slots=True)
class MakeCache:
    """Make the NVMe partition, or the mirror of two, a cache."""

    device: str
    set_uuid: str

    def describe(self) -> Description:
        """What it does."""
        return Description("create", "cache", f"on {self.device}")

    def apply(self, machine: Machine) -> None:
        """Write its superblock."""
        device = block.get(self.device)
        size = _block_size(machine)
        bcache.make_cache(machine.runner, device, set_uuid=self.set_uuid, block_size=size)
        block.settle(machine.runner)


@dataclass(frozen=True, slots=True)
class RemakeCache:
    """Make a cache anew whose content may be old."""

    device: str
    set_uuid: str

    def describe(self) -> Description:
        """What it does."""
        return Description("empty", "cache", f"on {self.device}: it may hold what was written over since it was lost")

    def apply(self, machine: Machine) -> None:
        """Clear its superblock and write a new one; cut off in between, there is no cache until setup makes it."""
        block.zero(Path(self.device), 0, MIB)
        MakeCache(self.device, self.set_uuid).apply(machine)


@dataclass(frozen=True, slots=True)
class MakeBacking:
    """Make a data partition of the backend a backing device."""

    device: str

    def describe(self) -> Description:
        """What it does."""
        return Description("create", "backing device", f"on {self.device}")

    def apply(self, machine: Machine) -> None:
        """Write its superblock; its data begins on a full stripe."""
        config = machine.config.require_backend()
        offset = align_up(MIB, md.full_stripe(config.level, len(config.disks), config.chunk_kib))
        device = block.get(self.device)
        bcache.make_backing(machine.runner, device, data_offset=offset, block_size=_block_size(machine))
        block.settle(machine.runner)


@dataclass(frozen=True, slots=True)
class Register:
    """Let the kernel use a cache or a backing device."""

    device: str

    def describe(self) -> Description:
        """What it does."""
        return Description("register", "bcache", self.device)

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """Register it."""
        bcache.register(block.get(self.device))


@dataclass(frozen=True, slots=True)
class RunWithoutCache:
    """Start the backing device although its cache is missing."""

    device: str

    def describe(self) -> Description:
        """What it does."""
        return Description("start", "bcache", f"{self.device}, without its cache")

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """Start it. Raises Unhealthy when the missing cache holds unwritten data."""
        device = block.get(self.device)
        if bcache.cached(device) is None:
            bcache.run_without_cache(device)


@dataclass(frozen=True, slots=True)
class Attach:
    """Give the backing device its cache."""

    device: str
    set_uuid: str

    def describe(self) -> Description:
        """What it does."""
        return Description("attach", "cache", f"{self.set_uuid} to {self.device}")

    def apply(self, machine: Machine) -> None:
        """Attach it, if registering did not do so."""
        device = block.get(self.device)
        found = bcache.cached(device)
        if found is None or found.set_uuid is None:
            bcache.attach(device, self.set_uuid)
            bypass.forgive(machine.config.paths)


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """Set what keeps all requests in the cache, and read it back."""

    device: str
    mode: CacheMode
    wrong: tuple[str, ...] = ()

    def describe(self) -> Description:
        """What it does."""
        return Description("set", "cache settings", "; ".join(self.wrong) or f"{self.mode}, nothing bypasses it")

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """Set all of them. Raises Unhealthy when one does not hold."""
        device = block.get(self.device)
        found = bcache.cached(device)
        bcache.apply_settings(device, found.set_uuid if found else None, self.mode)


def _block_size(machine: Machine) -> int:
    """The cache's unit: the larger of both drives' logical blocks, so that the two always fit together."""
    found = [part.device for part in nvme.parts(machine.config.require_nvme(), names.PART_CACHE)]
    found += backend.data_parts(machine.config.require_backend())
    return max(device.logical_block for device in found)


def holder(machine: Machine) -> Found | None:
    """What the cache is on, or is to be on: a partition, or the mirror of two; None when its drives are missing.

    While a second drive is being taken in there are two that hold a set each: then it is the one that the backing
    device names.
    """
    found: list[Found] = []
    array = cache_mirror.find(machine)
    if array is not None:
        found.append(Found(array.device, cache_mirror.set_uuid(array)))
    parts = nvme.parts(machine.config.require_nvme(), names.PART_CACHE)
    found += [part for part in parts if not _member(part.device)]
    (backing, *_) = backend.data_parts(machine.config.require_backend())
    named = bcache.superblock(backing)
    sets = [(place, _set_uuid(place.device)) for place in found]
    right = [place for place, own in sets if own == place.guid]
    chosen = next((place for place in right if named is not None and place.guid == named.set_uuid), None)
    if chosen is not None or right:
        return chosen or right[0]
    # Nothing holds a set: one will be made, on the mirror where there are to be two drives.
    if array is None and len(machine.config.require_nvme().devices) == 2:
        return None
    return found[0] if found else None


def _member(device: Device) -> bool:
    try:
        return md.superblock(device) is not None
    except CannotTell:
        return True


def _set_uuid(device: Device) -> str:
    try:
        found = bcache.superblock(device)
    except CannotTell:
        return ""
    return found.set_uuid if found is not None else ""


def mode_for(machine: Machine, wanted: CacheMode) -> CacheMode:
    """The mode that the cache may have as it is now: writeback on a mirror alone (rule 1)."""
    array, place = cache_mirror.find(machine), holder(machine)
    if wanted is CacheMode.WRITEBACK and (array is None or place is None or place.device != array.device):
        log.warning("the cache is not mirrored: it runs in writethrough mode")
        return CacheMode.WRITETHROUGH
    return wanted


def observe(machine: Machine, mode: CacheMode, backing: Device) -> Cache:
    """Look at the cache and at one of the backing devices. Raises NotReady when the backend is not running."""
    place = holder(machine)
    found = bcache.cached(backing)
    settings = bcache.wrong_settings(backing, found.set_uuid, mode) if found is not None else ()
    fast = _side(machine, place.device, place.guid) if place is not None else NO_SIDE
    later = backing != backend.part(machine.config.require_backend(), names.PART_DATA)
    return Cache(fast, _side(machine, backing, ""), found, settings, later)


def without(found: Cache) -> Cache:
    """The same, but as if the cache were missing: for one whose content must not be used."""
    return replace(found, cache=NO_SIDE)


def _side(machine: Machine, device: Device, guid: str) -> Side:
    try:
        found = bcache.superblock(device)
    except CannotTell as error:
        log.warning("%s counts as missing: %s", device.path, error)
        return NO_SIDE
    kind = "" if found else ", ".join(map(str, block.signatures(machine.runner, device)))
    return Side(str(device.path), found, bcache.registered(device), kind, guid)


def plan(found: Cache, making: Making, mode: CacheMode) -> StoreSteps:
    """The steps that bring the cached device up. Raises NotReady, Refused."""
    cache, backing = found.cache, found.backing
    if backing.device is None:
        raise NotReady("the backend has no data partition", hint="run the role backend_raid")
    steps: StoreSteps = ()
    for side, step in ((cache, MakeCache(str(cache.device), cache.guid)), (backing, MakeBacking(backing.device))):
        if side.device is not None and side.superblock is None:
            allowed = Making.ALLOWED if side is backing and found.later else making
            steps = (*steps, *_make(side, allowed, step))
    if cache.device is not None and usable_cache(found) and _believed_wrongly(found):
        steps = (*steps, RemakeCache(cache.device, cache.guid))
    usable = usable_cache(found) or (making is Making.ALLOWED and cache.superblock is None and cache.device is not None)
    if cache.device is not None and usable and not cache.registered:
        steps = (*steps, Register(cache.device))
    if not backing.registered:
        steps = (*steps, Register(backing.device))
    if cache.device is not None and usable:
        if found.cached is None or found.cached.set_uuid is None:
            steps = (*steps, Attach(backing.device, cache.guid))
    elif found.cached is None:
        steps = (*steps, RunWithoutCache(backing.device))
    if found.cached is None or found.settings or steps:
        steps = (*steps, ApplySettings(backing.device, mode, found.settings))
    return steps


def _make(side: Side, making: Making, step: MakeCache | MakeBacking) -> StoreSteps:
    if making is Making.FORBIDDEN:
        if isinstance(step, MakeCache):
            return ()
        raise NotReady("the backend is not a backing device of the cache", hint="run the role clone_store")
    if side.kind:
        raise Refused(f"{side.device} is not empty", why=f"it holds {side.kind}", hint="wipe the disk that it is on")
    return (step,)


def usable_cache(found: Cache) -> bool:
    """Whether the cache partition holds the cache set that belongs to it."""
    side = found.cache
    return side.superblock is not None and side.superblock.set_uuid == side.guid


def _believed_wrongly(found: Cache) -> bool:
    """Whether the kernel would take what the cache holds for current although the backing device went on without it."""
    if found.cache.registered:
        return False
    if found.cached is not None:
        return lost(found.cached)
    own = found.backing.superblock
    return own is not None and own.state is BackingState.CLEAN and own.set_uuid != found.cache.guid


def lost(cached: Cached) -> bool:
    """Whether the cache of a running device died, and the kernel still counts what it held as current."""
    return cached.set_uuid is None and cached.state is State.CLEAN


def remember_loss(machine: Machine, every: Iterable[Cached]) -> None:
    """Leave word, once, that the cache of ``every`` device must not be believed when it is back. Raises OSError."""
    path = machine.config.paths.state / _MARK
    if any(map(lost, every)) and machine.config.paths.state.is_mount() and marks.read(path) is None:
        mark_lost(machine)


def mark_lost(machine: Machine) -> None:
    """Leave word that the cache must not be believed."""
    log.warning("the cache was lost: if its drive comes back, what it holds is not used")
    marks.write(machine.config.paths.state / _MARK)


def marked_lost(machine: Machine) -> bool:
    """Whether word was left. What was not written back is believed all the same: the kernel let no write past it."""
    if marks.read(machine.config.paths.state / _MARK) is None:
        return False
    found = [bcache.superblock(backing) for backing in backend.data_parts(machine.config.require_backend())]
    return all(own is None or own.state is not BackingState.DIRTY for own in found)


def unmark_lost(machine: Machine) -> None:
    """Take the word away once all devices have their cache again. Raises NotReady."""
    path = machine.config.paths.state / _MARK
    if marks.read(path) is not None and all(each.set_uuid is not None for each in devices(machine)):
        marks.remove(path)


def fast_device(machine: Machine) -> Device | None:
    """What the running cache set is on, as sysfs shows it: looking reads from no disk. None while there is no cache."""
    backing = backend.part(machine.config.require_backend(), names.PART_DATA)
    found = bcache.cached(backing)
    return bcache.cache_device(found.set_uuid) if found is not None and found.set_uuid is not None else None


def devices(machine: Machine) -> tuple[Cached, ...]:
    """The cached devices, one for each of the backend's data partitions, in their order. Raises NotReady."""
    found = tuple(map(bcache.cached, backend.data_parts(machine.config.require_backend())))
    running = tuple(cached for cached in found if cached is not None)
    if len(running) < len(found):
        raise NotReady("the cached device is not running", hint="see `hatchery-store status`")
    return running


def device(machine: Machine) -> Cached:
    """The first of the cached devices. Raises NotReady."""
    return devices(machine)[0]


def data_offset(cached: Cached) -> int:
    """Where the pool's data begins on a cached device: as far in as bcache's own data on the backing device.

    The kernel looks for partitions at the beginning of bcache0; what is there must stay ours (zero), and not become
    the first blocks of somebody's template. Raises Unhealthy.
    """
    found = bcache.superblock(cached.backing)
    if found is None:
        raise Unhealthy("the backing device has lost its superblock", hint="see `bcache-super-show`")
    return found.data_offset


def path(machine: Machine) -> Path:
    """Node of the cached device. Raises NotReady."""
    return device(machine).device.path
