"""The cache drives, one or two, three partitions on each: a leg of the mirror, the cache, the fast pool.

Sizes in bytes.
"""

import logging
from dataclasses import dataclass
from enum import Enum

from appliance.config import NvmeConfig
from appliance.errors import CannotTell, NoSpace, NotReady, Refused
from appliance.host import block, partitions
from appliance.host.block import Device
from appliance.host.partitions import Partition, align_up
from appliance.model import GIB, MIB
from appliance.reconcile import Description
from appliance.store import disks, names
from appliance.store.disks import Disk
from appliance.store.machine import Machine, StoreSteps

log = logging.getLogger(__name__)

_META_MIN = 256 * MIB
_META_MAX = 18 * GIB
_CACHE_MIN = 256 * MIB
_OURS = (names.PART_META, names.PART_CACHE, names.PART_FAST)


class Place(Enum):
    """Where new partitions go."""

    NEW_TABLE = "a new GPT"
    FREE_SPACE = "free space"


@dataclass(frozen=True, slots=True)
class CreatePartitions:
    """Make the partitions: in a new table, or in the free space of the one there is."""

    path: str
    place: Place
    partitions: tuple[Partition, ...]

    def describe(self) -> Description:
        """What it does."""
        sizes = ", ".join(f"{part.name} {part.size // MIB} MiB" for part in self.partitions)
        return Description("partition", self.path, f"in {self.place.value}: {sizes}")

    def apply(self, machine: Machine) -> None:
        """Write the table and wait for the kernel to know it."""
        label = partitions.random_guid() if self.place is Place.NEW_TABLE else None
        partitions.write(machine.runner, block.get(self.path), self.partitions, label)


@dataclass(frozen=True, slots=True)
class TellKernel:
    """Make the kernel know partitions that are in the table already."""

    path: str

    def describe(self) -> Description:
        """What it does."""
        return Description("reread", self.path, "the kernel does not know all partitions")

    def apply(self, machine: Machine) -> None:
        """Hand the table over."""
        partitions.tell_kernel(machine.runner, block.get(self.path))


@dataclass(frozen=True, slots=True)
class Fit:
    """What a drive has to match. Sizes in bytes; 0: nothing.

    ``drive`` is the size of the smaller drive of two; ``meta`` that of the mirror's other legs; ``cache`` what a leg of
    the mirrored cache needs at least.
    """

    drive: int = 0
    meta: int = 0
    cache: int = 0


NOTHING = Fit()


def require_count(config: NvmeConfig) -> None:
    """Raise Refused when there are more than two drives."""
    if not 1 <= len(config.devices) <= 2:
        raise Refused(
            f"{len(config.devices)} NVMe drives were named",
            why="the cache is on one drive, or mirrored on two",
            hint="name one or two",
        )


def plan(wanted: NvmeConfig, wipe: frozenset[str], disk: Disk, known: frozenset[str], fit: Fit = NOTHING) -> StoreSteps:
    """The steps that give a drive its partitions. ``known`` are names of partitions that the kernel has.

    Raises Refused, InUse, NoSpace.
    """
    found = [name for name in _OURS if disk.table is not None and disk.table.named(name)]
    if len(found) == len(_OURS):
        _refuse_changed(wanted, disk)
        return () if set(_OURS) <= known else (TellKernel(disk.path),)
    if found:
        raise Refused(
            f"{disk.path} has some partitions of a cache drive, but not all",
            why=f"found {', '.join(found)}",
            hint="rename or delete them, or wipe the disk",
        )
    if disk.system:
        if disk.table is None:
            raise Refused(f"{disk.path} holds the running system and has no GPT", hint="name another drive")
        start, size = disk.table.largest_gap(MIB)
        return (CreatePartitions(disk.path, Place.FREE_SPACE, layout(wanted, disk.size, start, size, fit)),)
    taken = disks.take(disk, wipe)
    end = (disk.size - MIB) // MIB * MIB
    return (*taken, CreatePartitions(disk.path, Place.NEW_TABLE, layout(wanted, disk.size, MIB, end - MIB, fit)))


def layout(wanted: NvmeConfig, drive: int, start: int, size: int, fit: Fit = NOTHING) -> tuple[Partition, ...]:
    """Divide a free run of ``size`` bytes from ``start`` on a drive of ``drive`` bytes. Raises NoSpace."""
    drive = fit.drive or drive
    meta = fit.meta or align_up(wanted.meta_bytes or min(max(drive // 50, _META_MIN), _META_MAX), MIB)
    least = max(fit.cache, _CACHE_MIN)
    fast = align_up(wanted.fast_bytes or size // 4, MIB)
    if not wanted.fast_bytes:
        fast = min(fast, max((size - meta - least) // MIB * MIB, MIB))
    cache = size - meta - fast
    if cache < least:
        missing = (least - cache) // MIB + 1
        raise NoSpace(
            "the NVMe drive has too little free space",
            why=f"{size // MIB} MiB are free; {missing} MiB more are needed",
            hint="free some, use a larger drive, or make meta_bytes and fast_bytes smaller",
        )
    return (
        Partition(names.PART_META, start, meta),
        Partition(names.PART_CACHE, start + meta, cache),
        Partition(names.PART_FAST, start + meta + cache, fast),
    )


def _refuse_changed(wanted: NvmeConfig, disk: Disk) -> None:
    for name, size in ((names.PART_META, wanted.meta_bytes), (names.PART_FAST, wanted.fast_bytes)):
        found = disk.table.named(name) if disk.table else None
        if found is not None and size and align_up(size, MIB) != found.size:
            raise Refused(
                f"the partition {name} has {found.size} bytes instead of {size}",
                why="partitions are not resized",
                hint="keep the old size, or wipe the drive and set everything up again",
            )


@dataclass(frozen=True, slots=True)
class Found:
    """One of our partitions: its device and its own id."""

    device: Device
    guid: str


def parts(config: NvmeConfig, name: str) -> tuple[Found, ...]:
    """The partitions of that name on the drives that are there, in the order of the drives."""
    found = []
    for path in config.devices:
        drive = block.find(path)
        named = _named(drive, name)
        device = partitions.find(drive, name) if drive is not None and named is not None else None
        if device is not None and named is not None:
            found.append(Found(device, named.guid))
    return tuple(found)


def is_ours(drive: Device) -> bool:
    """Whether a drive has partitions of ours. Raises CannotTell."""
    table = partitions.remembered(drive)
    return table is not None and all(table.named(name) is not None for name in _OURS)


def _named(drive: Device | None, name: str) -> Partition | None:
    if drive is None:
        return None
    try:
        table = partitions.remembered(drive)
    except CannotTell as error:
        # The store can serve without its NVMe drive: one that cannot be read is as good as gone.
        log.warning("the NVMe drive counts as missing: %s", error)
        return None
    return table.named(name) if table is not None else None


def meta_bytes(config: NvmeConfig) -> int:
    """Size of the mirror's fast legs. Raises NotReady when no drive is partitioned."""
    found = parts(config, names.PART_META)
    if not found:
        raise NotReady("the NVMe drive is not set up", why="it has no partition for metadata", hint="run nvme_cache")
    return min(part.device.size for part in found)
