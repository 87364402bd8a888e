"""The cache: bcache on NVMe over the backend's data partition, with its settings kept (rule 1).

The cache set's uuid is the id of the NVMe partition that it lies on: a new drive, or a partition made anew, gets a new
set, and what an older drive holds can never be taken for the current cache.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from appliance.config import CacheMode
from appliance.errors import CannotTell, NotReady, Refused, Unhealthy
from appliance.host import bcache, block, md
from appliance.host.bcache import Cached, Superblock
from appliance.host.block import Device
from appliance.host.partitions import align_up
from appliance.model import MIB
from appliance.reconcile import Description
from appliance.store import backend, names, nvme
from appliance.store.machine import Machine, StoreSteps
from appliance.store.mirror import Making

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Side:
    """The cache's device or the backing device. ``kind`` says what else is on it; ``guid`` is its partition's id."""

    device: str | None
    superblock: Superblock | None
    registered: bool
    kind: str = ""
    guid: str = ""


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache as it was found. ``settings`` are sentences about those that are wrong."""

    cache: Side
    backing: Side
    cached: Cached | None
    settings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MakeCache:
    """Make the NVMe partition a cache."""

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
class MakeBacking:
    """Make the backend's data partition a backing device."""

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

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """Attach it, if registering did not do so."""
        device = block.get(self.device)
        found = bcache.cached(device)
        if found is None or found.set_uuid is None:
            bcache.attach(device, self.set_uuid)


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
    drives = [block.get(nvme.single(machine.config.require_nvme()))]
    drives.append(backend.part(machine.config.require_backend(), names.PART_DATA))
    return max(drive.logical_block for drive in drives)


def observe(machine: Machine, mode: CacheMode) -> Cache:
    """Look at both sides. Raises NotReady when the backend is not running."""
    config = machine.config.require_nvme()
    backing = backend.part(machine.config.require_backend(), names.PART_DATA)
    fast = nvme.part(config, names.PART_CACHE)
    found = bcache.cached(backing)
    settings = bcache.wrong_settings(backing, found.set_uuid, mode) if found is not None else ()
    guid = nvme.guid(config, names.PART_CACHE) or ""
    return Cache(_side(machine, fast, guid), _side(machine, backing, ""), found, settings)


def _side(machine: Machine, device: Device | None, guid: str) -> Side:
    if device is None:
        return Side(None, None, False)
    try:
        found = bcache.superblock(device)
    except CannotTell as error:
        log.warning("%s counts as missing: %s", device.path, error)
        return Side(None, None, False)
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
            steps = (*steps, *_make(side, making, step))
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


def device(machine: Machine) -> Cached:
    """The cached device. Raises NotReady."""
    backing = backend.part(machine.config.require_backend(), names.PART_DATA)
    found = bcache.cached(backing)
    if found is None:
        raise NotReady("the cached device is not running", hint="see `hatchery-store status`")
    return found


def data_offset(machine: Machine) -> int:
    """Where the pool's data begins on the cached device: as far in as bcache's own data on the backing device.

    The kernel looks for partitions at the beginning of bcache0; what is there must stay ours (zero), and not become
    the first blocks of somebody's template. Raises Unhealthy.
    """
    backing = backend.part(machine.config.require_backend(), names.PART_DATA)
    found = bcache.superblock(backing)
    if found is None:
        raise Unhealthy("the backing device has lost its superblock", hint="see `bcache-super-show`")
    return found.data_offset


def path(machine: Machine) -> Path:
    """Node of the cached device. Raises NotReady."""
    return device(machine).device.path
