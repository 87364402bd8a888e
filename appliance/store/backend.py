"""The backend array: RAID over whole disks, and its two partitions. Sizes in bytes.

An array is known by the name in its members' superblocks and by its uuid; its partition table is known to belong to it
because the table's id is the array's uuid. So what an earlier array left on the same disks is never taken for ours.
"""

import logging
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.config import BackendConfig, RaidLevel
from appliance.errors import CannotTell, InUse, NoSpace, NotFound, NotReady, Refused
from appliance.host import block, md, partitions
from appliance.host.block import Device
from appliance.host.md import Array, Consistency, NewArray
from appliance.host.partitions import Partition, Table, align_up
from appliance.model import KIB, MIB
from appliance.reconcile import Description
from appliance.store import disks, names
from appliance.store.disks import Disk
from appliance.store.machine import Machine, StoreSteps

log = logging.getLogger(__name__)

_NAME = names.array(names.BACKEND)
_LEVELS = {1: "raid1", 5: "raid5", 6: "raid6", 10: "raid10"}
_DATA_MIN = 256 * MIB
_METADATA_PER_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Backend:
    """The backend as it was found: its disks, the running array if any, and that array's table."""

    disks: tuple[Disk, ...]
    array: Array | None
    table: Table | None


@dataclass(frozen=True, slots=True)
class CreateBackend:
    """Make the array; it is synchronised in the background."""

    level: RaidLevel
    disks: tuple[str, ...]
    chunk_kib: int

    def describe(self) -> Description:
        """What it does."""
        return Description("create", "backend array", f"{self.level} of {', '.join(self.disks)}")

    def apply(self, machine: Machine) -> None:
        """Make it; superblocks of an attempt that was cut off are taken away first."""
        for path in self.disks:
            device = block.get(path)
            if md.superblock(device) is not None:
                md.forget(machine.runner, device.path)
        consistency = Consistency.PPL if self.level is RaidLevel.RAID5 else Consistency.BITMAP
        chunk = 0 if self.level is RaidLevel.RAID1 else self.chunk_kib
        members = tuple(Path(path) for path in self.disks)
        md.create(machine.runner, NewArray(names.BACKEND, names.HOMEHOST, self.level, chunk, consistency, members))


@dataclass(frozen=True, slots=True)
class AssembleBackend:
    """Start the array from its members."""

    uuid: str
    members: tuple[str, ...]

    def describe(self) -> Description:
        """What it does."""
        return Description("assemble", "backend array", f"from {', '.join(self.members)}")

    def apply(self, machine: Machine) -> None:
        """Start it, degraded if need be."""
        name = f"{names.HOMEHOST}-{names.BACKEND}"
        members = [Path(path) for path in self.members]
        array = md.assemble(machine.runner, name, self.uuid, members)
        partitions.tell_kernel(machine.runner, array.device)


@dataclass(frozen=True, slots=True)
class RejoinBackend:
    """Put a disk into the array: one that was away, or a replacement."""

    disk: str

    def describe(self) -> Description:
        """What it does."""
        return Description("rejoin", "backend array", self.disk)

    def apply(self, machine: Machine) -> None:
        """Add it; it is rebuilt in the background."""
        array = running(machine.config.require_backend())
        md.remove_failed(machine.runner, array)
        md.rejoin(machine.runner, array, Path(self.disk))


@dataclass(frozen=True, slots=True)
class GrowBackend:
    """Give the array more disks; it is rearranged in the background, and in use meanwhile."""

    disks: tuple[str, ...]
    count: int

    def describe(self) -> Description:
        """What it does."""
        return Description("grow", "backend array", f"by {', '.join(self.disks)} to {self.count} disks")

    def apply(self, machine: Machine) -> None:
        """Add the disks while the partial parity log is on, so that they get room for it; it comes back afterwards."""
        array = running(machine.config.require_backend())
        inside = {member.name for member in array.members}
        for path in self.disks:
            if block.get(path).name not in inside:
                md.add_spare(machine.runner, array, Path(path))
        if array.policy == Consistency.PPL.value:
            md.set_consistency(machine.runner, array, Consistency.RESYNC)
        md.widen(machine.runner, array, self.count)


@dataclass(frozen=True, slots=True)
class PartitionBackend:
    """Make the array's two partitions: the mirror's slow leg, and the data.

    ``meta_bytes`` is 0 in a plan alone: while the NVMe drive has no leg yet.
    """

    disks: tuple[str, ...]
    level: RaidLevel
    chunk_kib: int
    meta_bytes: int

    def describe(self) -> Description:
        """What it does."""
        size = f"{self.meta_bytes // MIB} MiB" if self.meta_bytes else "as large as the NVMe drive's"
        detail = f"{names.PART_META} {size}, {names.PART_DATA} the rest"
        return Description("partition", "backend array", detail)

    def apply(self, machine: Machine) -> None:
        """Write a table whose id is the array's uuid."""
        array = md.with_member(block.get(self.disks[0]))
        if array is None:
            raise NotFound("the backend array is not running", hint="see `mdadm --detail`")
        stripe = md.full_stripe(self.level, len(self.disks), self.chunk_kib)
        parts = layout(array.device.size, stripe, self.meta_bytes)
        partitions.write(machine.runner, array.device, parts, str(uuid.UUID(array.uuid)))


def observe(machine: Machine, wanted: BackendConfig) -> Backend:
    """Look at all disks and at the array. Raises NotFound when a disk is missing."""
    found = tuple(disks.observe(machine, path) for path in wanted.disks)
    disks.refuse_twice(found)
    uuids = {disk.member.uuid for disk in found if disk.member is not None and disk.member.name == _NAME}
    array = next((array for array in md.arrays() if array.uuid in uuids), None)
    running_now = array is not None and array.running
    table = partitions.read(array.device) if array is not None and running_now else None
    return Backend(found, array, table)


def plan(wanted: BackendConfig, wipe: frozenset[str], found: Backend, meta_bytes: int, block_bytes: int) -> StoreSteps:
    """The steps that make and start the array and give it its partitions.

    ``meta_bytes`` 0: the NVMe drive is not set up, and what does not fit it cannot be told yet. Raises Refused, InUse,
    NoSpace.
    """
    _refuse_impossible(wanted, found, meta_bytes, block_bytes)
    make = PartitionBackend(wanted.disks, wanted.level, wanted.chunk_kib, meta_bytes)
    ours = [disk for disk in found.disks if _is_ours(disk)]
    if not ours or (len(ours) < len(found.disks) and not _was_running(ours)):
        taken = [step for disk in found.disks if disk not in ours for step in disks.take(disk, wipe)]
        return (*taken, CreateBackend(wanted.level, wanted.disks, wanted.chunk_kib), make)
    array_uuid = _one_array(wanted, ours)
    steps: list[object] = []
    members = tuple(disk.path for disk in ours)
    if _grows(wanted, ours):
        return (*_plan_growth(wanted, wipe, found, ours), *(() if _partitioned(found, array_uuid) else (make,)))
    if found.array is None or not found.array.running:
        steps.append(AssembleBackend(array_uuid, members))
    inside = _inside(found.array) if found.array and found.array.running else None
    for disk in found.disks:
        if disk not in ours:
            steps += [*disks.take(_released(disk, found.array), wipe), RejoinBackend(disk.path)]
        elif inside is not None and disk.name not in inside:
            steps.append(RejoinBackend(disk.path))
    if not _partitioned(found, array_uuid):
        steps.append(make)
    return tuple(steps)  # type: ignore[arg-type]  # all of them are steps: mypy cannot join protocols in a list


def _grows(wanted: BackendConfig, ours: list[Disk]) -> bool:
    return ours[0].member is not None and ours[0].member.raid_disks < len(wanted.disks)


def _plan_growth(wanted: BackendConfig, wipe: frozenset[str], found: Backend, ours: list[Disk]) -> StoreSteps:
    """The steps that give the array the disks that it lacks; the space they bring follows when it is rearranged."""
    active = [disk for disk in ours if disk.member is not None and not disk.member.spare]
    needed = ours[0].member.raid_disks if ours[0].member is not None else 0
    degraded = found.array.degraded if found.array is not None and found.array.running else 0
    missing = max(needed - len(active), degraded)
    if missing > 0:
        raise Refused(
            "the backend array cannot grow while it lacks a disk",
            why=f"{missing} of its {needed} disks are not in it, or not up to date yet",
            hint="replace that one first, and add the other afterwards",
        )
    new = [disk for disk in found.disks if disk not in active]
    steps: StoreSteps = tuple(step for disk in new if disk not in ours for step in disks.take(disk, wipe))
    if found.array is None or not found.array.running:
        uuid_ = ours[0].member.uuid if ours[0].member is not None else ""
        steps = (AssembleBackend(uuid_, tuple(disk.path for disk in ours)), *steps)
    return (*steps, GrowBackend(tuple(disk.path for disk in new), len(wanted.disks)))


def belongs(table: Table, array: Array) -> bool:
    """Whether the table was made for this array, and not for an earlier one on the same disks."""
    return table.guid == str(uuid.UUID(array.uuid))


def _is_ours(disk: Disk) -> bool:
    return disk.member is not None and disk.member.name == _NAME


def _was_running(ours: list[Disk]) -> bool:
    """Whether the array was ever started: mdadm writes superblocks one by one, the kernel counts events from 1 on."""
    return any(disk.member is not None and disk.member.events > 1 for disk in ours)


def _one_array(wanted: BackendConfig, ours: list[Disk]) -> str:
    members = [disk.member for disk in ours if disk.member is not None]
    uuids = {member.uuid for member in members}
    if len(uuids) != 1:
        raise Refused(
            "the disks belong to different backend arrays",
            why="; ".join(f"{disk.path}: {disk.member.uuid}" for disk in ours if disk.member is not None),
            hint="name the disks of one array, or wipe those of the other",
        )
    first = members[0]
    level = _LEVELS.get(first.level, str(first.level))
    chunk = first.chunk // KIB if wanted.level is not RaidLevel.RAID1 else wanted.chunk_kib
    fits = len(wanted.disks) == first.raid_disks or (
        len(wanted.disks) > first.raid_disks and wanted.level is not RaidLevel.RAID1
    )
    if (level, chunk) != (wanted.level, wanted.chunk_kib) or not fits:
        raise Refused(
            "the backend array exists and is different",
            why=f"it is {level} of {first.raid_disks} disks, chunks of {chunk} KiB",
            hint="it can get more disks, unless it is raid1; for anything else ask for what it is, or wipe its disks",
        )
    return first.uuid


def _partitioned(found: Backend, array_uuid: str) -> bool:
    """Whether the table is this array's. An array that is not running yet is judged by when it was made."""
    if found.array is None or not found.array.running:
        return False
    return found.table is not None and found.table.guid == str(uuid.UUID(array_uuid))


def require_count(wanted: BackendConfig) -> None:
    """Raise Refused when the level needs more disks than are named."""
    if len(wanted.disks) < wanted.level.minimum_disks:
        raise Refused(
            f"{wanted.level} needs {wanted.level.minimum_disks} disks",
            why=f"{len(wanted.disks)} were named",
            hint="name more disks or choose another level",
        )


def _refuse_impossible(wanted: BackendConfig, found: Backend, meta_bytes: int, block_bytes: int) -> None:
    require_count(wanted)
    if not all(map(_is_ours, found.disks)):
        disks.refuse_unequal(found.disks)
    usable = min(disk.size for disk in found.disks) * md.data_disks(wanted.level, len(wanted.disks))
    data = usable - meta_bytes
    if data < _DATA_MIN:
        raise NoSpace(
            "the disks are too small",
            why=f"{usable // MIB} MiB in all, {meta_bytes // MIB} for metadata",
            hint="use larger disks",
        )
    if meta_bytes:
        refuse_small_metadata(data, meta_bytes, block_bytes)


def refuse_small_metadata(data: int, meta_bytes: int, block_bytes: int) -> None:
    """Raise NoSpace when the metadata of so much data, in such blocks, does not fit."""
    needed = data // block_bytes * _METADATA_PER_BLOCK
    if needed > meta_bytes:
        raise NoSpace(
            "the NVMe drive's metadata partition is too small for this backend",
            why=f"{meta_bytes // MIB} MiB, but {needed // MIB} MiB are needed for {data // MIB} MiB of data",
            hint="set meta_bytes for nvme_cache, or larger pool blocks (block_kib) for clone_store",
        )


def layout(size: int, stripe: int, meta_bytes: int) -> tuple[Partition, ...]:
    """The two partitions on an array of ``size`` bytes, both beginning on a full stripe. Raises NoSpace."""
    start = align_up(MIB, stripe)
    data = align_up(start + meta_bytes, stripe)
    end = (size - MIB) // stripe * stripe
    if end - data < _DATA_MIN // 2:
        raise NoSpace("the backend array is too small", why=f"{size // MIB} MiB in all", hint="use larger disks")
    return Partition(names.PART_META, start, meta_bytes), Partition(names.PART_DATA, data, end - data)


def running(config: BackendConfig) -> Array:
    """The backend array. Raises NotReady when it is not running."""
    for path in config.disks:
        device = block.find(path)
        array = md.with_member(device) if device is not None else None
        if array is not None and array.running:
            return array
    raise NotReady("the backend array is not running", hint="see `hatchery-store status`")


def part(config: BackendConfig, name: str) -> Device:
    """The device of one of the array's partitions. Raises NotReady."""
    array = running(config)
    table = partitions.remembered(array.device)
    if table is None or table.guid != str(uuid.UUID(array.uuid)) or table.named(name) is None:
        raise NotReady(f"the backend array has no partition {name}", hint="run the role backend_raid")
    found = partitions.find(array.device, name)
    if found is None:
        raise InUse(
            f"the backend array's table changed while {name} was looked for", why="it is being set up", hint="try again"
        )
    return found


def data_parts(config: BackendConfig) -> tuple[Device, ...]:
    """The devices of the array's data partitions, in their order: the pool's data lies on them one after the other.

    Raises NotReady.
    """
    first = part(config, names.PART_DATA)
    table = partitions.remembered(running(config).device)
    numbers = sorted(filter(None, (names.parse_data(found.name) for found in table.partitions))) if table else []
    return (first, *(part(config, names.data(number)) for number in numbers if number > 1))


def plan_start(wanted: BackendConfig, members: dict[str, md.Superblock], array: Array | None) -> StoreSteps:
    """The steps that start an array that exists; ``members`` are the superblocks found, by path. Raises NotReady."""
    ours = {path: found for path, found in members.items() if found.name == _NAME}
    if not ours:
        raise NotReady(
            "the backend array cannot start",
            why="none of its disks is there" if not members else "none of its disks belongs to it",
            hint="check the cabling, or run the role backend_raid",
        )
    counted = sorted({found.uuid for found in ours.values()})
    chosen = max(counted, key=lambda own: sum(found.uuid == own for found in ours.values()))
    own = tuple(path for path in wanted.disks if path in ours and ours[path].uuid == chosen)
    if array is not None and array.running:
        inside = _inside(array)
        return tuple(RejoinBackend(path) for path in own if _kernel_name(path) not in inside)
    return (AssembleBackend(chosen, own),)


def _inside(array: Array) -> frozenset[str]:
    """Kernel names of the members that the array uses or is about to: one that failed has to be taken in again."""
    return frozenset(member.name for member in array.members if "faulty" not in member.state)


def _released(disk: Disk, array: Array | None) -> Disk:
    """The disk, as it is once the array has let go of the failed one in whose place, and under whose name, it came."""
    if array is None or not any(member.name == disk.name and "faulty" in member.state for member in array.members):
        return disk
    return replace(disk, users=tuple(user for user in disk.users if user != f"part of {array.device.name}"))


def _kernel_name(path: str) -> str:
    """What the kernel calls a disk; a node of device-mapper, such as a multipath disk's, may have another name."""
    device = block.find(path)
    return device.name if device is not None else Path(path).resolve().name


def observe_start(wanted: BackendConfig) -> tuple[dict[str, md.Superblock], Array | None]:
    """Superblocks of the disks that are there, by path, and the array if the kernel has it."""
    members: dict[str, md.Superblock] = {}
    for path in wanted.disks:
        device = block.find(path)
        try:
            found = md.superblock(device) if device is not None else None
        except CannotTell as error:
            # Redundancy is there for this: what cannot be read is as good as gone.
            log.warning("%s counts as missing: %s", path, error)
            continue
        if found is not None:
            members[path] = found
    uuids = {found.uuid for found in members.values() if found.name == _NAME}
    return members, next((array for array in md.arrays() if array.uuid in uuids), None)
