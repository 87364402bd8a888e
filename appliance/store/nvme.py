"""The cache drive: three partitions for the mirror's fast leg, the cache, and the fast pool. Sizes in bytes."""

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


def single(config: NvmeConfig) -> str:
    """The path of the only NVMe drive. Raises Refused when there are two or more."""
    if len(config.devices) != 1:
        raise Refused(
            f"{len(config.devices)} NVMe drives were named",
            why="this version keeps the cache on one drive",
            hint="name one; a mirrored cache comes later",
        )
    return config.devices[0]


def plan(wanted: NvmeConfig, wipe: frozenset[str], disk: Disk, known: frozenset[str]) -> StoreSteps:
    """The steps that give the drive its partitions. ``known`` are names of partitions that the kernel has.

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
        return (CreatePartitions(disk.path, Place.FREE_SPACE, layout(wanted, disk.size, start, size)),)
    taken = disks.take(disk, wipe)
    end = (disk.size - MIB) // MIB * MIB
    return (*taken, CreatePartitions(disk.path, Place.NEW_TABLE, layout(wanted, disk.size, MIB, end - MIB)))


def layout(wanted: NvmeConfig, drive: int, start: int, size: int) -> tuple[Partition, ...]:
    """Divide a free run of ``size`` bytes from ``start`` on a drive of ``drive`` bytes. Raises NoSpace."""
    meta = align_up(wanted.meta_bytes or min(max(drive // 50, _META_MIN), _META_MAX), MIB)
    fast = align_up(wanted.fast_bytes or size // 4, MIB)
    cache = size - meta - fast
    if cache < _CACHE_MIN:
        missing = (_CACHE_MIN - cache) // MIB + 1
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


def part(config: NvmeConfig, name: str) -> Device | None:
    """The device of one of our partitions, or None when the drive or the partition is missing."""
    drive = block.find(single(config))
    return partitions.find(drive, name) if drive is not None and _named(drive, name) is not None else None


def guid(config: NvmeConfig, name: str) -> str | None:
    """The partition's own id, or None when the drive or the partition is missing."""
    found = _named(block.find(single(config)), name)
    return found.guid if found is not None else None


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
    """Size of the mirror's fast leg. Raises NotReady when the drive is not partitioned."""
    found = part(config, names.PART_META)
    if found is None:
        raise NotReady("the NVMe drive is not set up", why="it has no partition for metadata", hint="run nvme_cache")
    return found.size
