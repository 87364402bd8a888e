"""The backend grows while it is in use: a disk more, then the new space for the pool. Sizes in bytes.

    disk added -> array rearranged (hours) -> partition hatchery-data-N -> backing device -> pool's data device -> pool

What has been done is seen on the disks, so a growth that was cut off goes on with the next start, or with the same
command. bcache cannot make a backing device larger while it is used: each growth is a further backing device of the
same cache set.
"""

from dataclasses import dataclass

from appliance.config import BackendConfig, RaidLevel
from appliance.host import block, md, partitions
from appliance.host.md import Array, Consistency
from appliance.host.partitions import Partition, Table, align_up
from appliance.model import MIB
from appliance.reconcile import Description
from appliance.store import backend, names
from appliance.store.backend import GrowBackend
from appliance.store.machine import Machine, StoreSteps

_WORTHWHILE = 64 * MIB
"""Less than this at the array's end is left alone: it is there on any array, from rounding."""


@dataclass(frozen=True, slots=True)
class Grown:
    """The running array as growth sees it. ``inside`` are those of the wanted disks that it has, ``idle`` whether it
    was started and waits for a write before it goes on being rearranged."""

    array: Array
    table: Table | None
    inside: tuple[str, ...]
    idle: bool = False


@dataclass(frozen=True, slots=True)
class ContinueGrowth:
    """Let an array that was being rearranged when it was stopped go on with it."""

    def describe(self) -> Description:
        """What it does."""
        return Description("continue", "backend array", "it was being rearranged")

    def apply(self, machine: Machine) -> None:
        """Let it write."""
        md.go_on(backend.running(machine.config.require_backend()))


@dataclass(frozen=True, slots=True)
class RestoreLog:
    """Switch the partial parity log on again, which an array cannot have while it is rearranged."""

    def describe(self) -> Description:
        """What it does."""
        return Description("set", "backend array", "partial parity log on")

    def apply(self, machine: Machine) -> None:
        """Switch it on; writes wait a moment."""
        md.set_consistency(machine.runner, backend.running(machine.config.require_backend()), Consistency.PPL)


@dataclass(frozen=True, slots=True)
class AddData:
    """Make a partition of the space that the array gained."""

    partition: Partition

    def describe(self) -> Description:
        """What it does."""
        return Description("partition", "backend array", f"{self.partition.name} {self.partition.size // MIB} MiB")

    def apply(self, machine: Machine) -> None:
        """Add it to the table; those in use stay as they are."""
        array = backend.running(machine.config.require_backend())
        partitions.extend(machine.runner, array.device, self.partition)


def observe(machine: Machine) -> Grown:
    """Look at the running array. Raises NotReady."""
    wanted = machine.config.require_backend()
    array = backend.running(wanted)
    members = {member.name for member in array.members if "faulty" not in member.state}
    found = [(path, block.find(path)) for path in wanted.disks]
    inside = tuple(path for path, device in found if device is not None and device.name in members)
    idle = block.read_text_or(array.device.sysfs / "md/array_state") == "read-auto"
    return Grown(array, partitions.remembered(array.device), inside, idle)


def plan(wanted: BackendConfig, found: Grown) -> StoreSteps:
    """The steps that go on with a growth; none when there is none, or while the array is being rearranged."""
    array = found.array
    if array.reshaping:
        return (ContinueGrowth(),) if found.idle else ()
    if array.raid_disks < len(wanted.disks):
        # The settings name it, and it is in the array: the command that added it was cut off.
        if set(found.inside) != set(wanted.disks) or array.degraded or wanted.level is RaidLevel.RAID1:
            return ()
        new = wanted.disks[array.raid_disks :]
        return (GrowBackend(new, len(wanted.disks)),)
    steps: StoreSteps = ()
    if wanted.level is RaidLevel.RAID5 and array.policy != Consistency.PPL.value:
        steps = (RestoreLog(),)
    added = space(wanted, found)
    return steps if added is None else (*steps, AddData(added))


def space(wanted: BackendConfig, found: Grown) -> Partition | None:
    """The partition that the array has gained room for, or None."""
    table = found.table
    if table is None or not backend.belongs(table, found.array) or not table.partitions:
        return None
    numbers = [number for number in (names.parse_data(part.name) for part in table.partitions) if number]
    if not numbers:
        return None
    stripe = md.full_stripe(wanted.level, len(wanted.disks), wanted.chunk_kib)
    start = align_up(max(part.end for part in table.partitions), max(stripe, MIB) if MIB % stripe == 0 else stripe)
    size = (found.array.device.size - MIB) // stripe * stripe - start
    size = size // MIB * MIB if size >= MIB else 0
    return Partition(names.data(max(numbers) + 1), start, size) if size >= _WORTHWHILE else None
