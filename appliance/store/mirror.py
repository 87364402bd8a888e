"""The metadata mirror: a fast leg on each NVMe drive, the slow leg on the backend, two partitions. Sizes in bytes.

Rule 10: it never starts without its backend leg; a leg on NVMe that is older than the backend's is brought up to date
from it, and one that went its own way is copied over whole. Each fast leg is judged against the slow one alone.
"""

import logging
import uuid
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from appliance.errors import CannotTell, NotReady, Refused, Unhealthy
from appliance.host import block, md, partitions
from appliance.host.block import Device
from appliance.host.md import Array, Consistency, NewArray, Superblock
from appliance.host.partitions import Partition, Table, align_up
from appliance.model import GIB, MIB
from appliance.reconcile import Description
from appliance.store import backend, names, nvme
from appliance.store.machine import Machine, StoreSteps

log = logging.getLogger(__name__)

_NAME = names.array(names.META)
_STATE_MIN = 64 * MIB
_STATE_MAX = 2 * GIB
_POOL_META_MIN = 32 * MIB
_POOL_META_MAX = 16 * GIB


class Making(Enum):
    """Whether what is missing may be made: by setup, never by a start."""

    ALLOWED = "allowed"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg: its device and what its superblock says; ``device`` is None when the leg is missing."""

    device: str | None
    superblock: Superblock | None
    kind: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is a leg of a metadata mirror."""
        return self.superblock is not None and self.superblock.name == _NAME


@dataclass(frozen=True, slots=True)
class Mirror:
    """The mirror as it was found: the legs that are there, of so many NVMe ``drives`` that the settings name."""

    fast: tuple[Leg, ...]
    slow: Leg
    array: Array | None
    table: Table | None
    drives: int = 1


@dataclass(frozen=True, slots=True)
class CreateMirror:
    """Make the mirror."""

    fast: tuple[str, ...]
    slow: str

    def describe(self) -> Description:
        """What it does."""
        return Description("create", "metadata mirror", f"of {', '.join(self.fast)} and {self.slow} (write-mostly)")

    def apply(self, machine: Machine) -> None:
        """Make it; the superblock of an attempt that was cut off is taken away first."""
        for path in (*self.fast, self.slow):
            if md.superblock(block.get(path)) is not None:
                md.forget(machine.runner, Path(path))
        legs = tuple(map(Path, self.fast)), (Path(self.slow),)
        new = NewArray(names.META, names.HOMEHOST, "raid1", 0, Consistency.BITMAP, *legs)
        md.create(machine.runner, new)


@dataclass(frozen=True, slots=True)
class AssembleMirror:
    """Start the mirror: the kernel takes the newer of two legs that do not agree."""

    uuid: str
    legs: tuple[str, ...]

    def describe(self) -> Description:
        """What it does."""
        return Description("assemble", "metadata mirror", f"from {', '.join(self.legs)}")

    def apply(self, machine: Machine) -> None:
        """Start it."""
        name = f"{names.HOMEHOST}-{names.META}"
        array = md.assemble(machine.runner, name, self.uuid, [Path(leg) for leg in self.legs])
        partitions.tell_kernel(machine.runner, array.device)


@dataclass(frozen=True, slots=True)
class ForgetLeg:
    """Take the superblock off a leg whose content went its own way; it is then copied over whole."""

    leg: str
    why: str

    def describe(self) -> Description:
        """What it does."""
        return Description("discard", "leg of the metadata mirror", f"{self.leg}: {self.why}")

    def apply(self, machine: Machine) -> None:
        """Take it off."""
        md.forget(machine.runner, Path(self.leg))


@dataclass(frozen=True, slots=True)
class RejoinMirror:
    """Put a leg back into the running mirror."""

    leg: str

    def describe(self) -> Description:
        """What it does."""
        return Description("rejoin", "metadata mirror", self.leg)

    def apply(self, machine: Machine) -> None:
        """Add it; it is brought up to date in the background."""
        array = running(machine)
        md.remove_failed(machine.runner, array)
        if block.get(self.leg).name not in {member.name for member in running(machine).members}:
            md.rejoin(machine.runner, array, Path(self.leg))


@dataclass(frozen=True, slots=True)
class WidenMirror:
    """Give the running mirror a place for one more leg, which waits in it as a spare."""

    legs: int

    def describe(self) -> Description:
        """What it does."""
        return Description("widen", "metadata mirror", f"to {self.legs} legs")

    def apply(self, machine: Machine) -> None:
        """Widen it; the new leg is copied in the background."""
        array = running(machine)
        if array.raid_disks < self.legs:
            md.widen(machine.runner, array, self.legs)


@dataclass(frozen=True, slots=True)
class PartitionMirror:
    """Make the mirror's partitions: the pool's metadata, and the state file system."""

    state_bytes: int

    def describe(self) -> Description:
        """What it does."""
        return Description("partition", "metadata mirror", f"{names.PART_POOL_META}, {names.PART_STATE}")

    def apply(self, machine: Machine) -> None:
        """Write a table whose id is the mirror's uuid. Raises Refused when it has that already: it would be emptied."""
        array = running(machine)
        if _is_its_own(partitions.read(array.device), array):
            raise Refused(
                "the metadata mirror is not partitioned anew",
                why="its partitions are there, and hold the catalog and the pool's metadata",
                hint="bring the store up with `hatchery-store up`",
            )
        parts = layout(array.device.size, self.state_bytes)
        partitions.write(machine.runner, array.device, parts, str(uuid.UUID(array.uuid)))


@dataclass(frozen=True, slots=True)
class NoWriteBehind:
    """Make the slow leg always current."""

    array: str

    def describe(self) -> Description:
        """What it does."""
        return Description("set", "metadata mirror", "bitmap/backlog to 0")

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """Set it and read it back."""
        device = block.by_name(self.array)
        if device is None:
            raise Unhealthy("the metadata mirror went away", why="the kernel stopped it", hint="see `journalctl -k`")
        block.write_text(device.sysfs / "md/bitmap/backlog", "0")


def observe(machine: Machine) -> Mirror:
    """Look at all legs and at the mirror. Raises NotReady when the backend is not running."""
    config = machine.config.require_nvme()
    seen = (_leg(machine, part.device) for part in nvme.parts(config, names.PART_META))
    fast = tuple(leg for leg in seen if leg.device is not None)
    slow = _leg(machine, backend.part(machine.config.require_backend(), names.PART_META))
    uuids = {leg.superblock.uuid for leg in (slow, *fast) if leg.superblock is not None and leg.ours}
    found = [array for array in md.arrays() if array.uuid in uuids]
    own = slow.superblock.uuid if slow.superblock is not None else ""
    array = next((array for array in found if array.uuid == own), found[0] if found else None)
    table = partitions.read(array.device) if array is not None and array.running else None
    return Mirror(fast, slow, array, table, len(config.devices))


def _leg(machine: Machine, device: Device) -> Leg:
    try:
        found = md.superblock(device)
    except CannotTell as error:
        log.warning("%s counts as missing: %s", device.path, error)
        return Leg(None, None)
    kinds = "" if found else ", ".join(map(str, block.signatures(machine.runner, device)))
    return Leg(str(device.path), found, kinds)


def plan(found: Mirror, making: Making, state_bytes: int) -> StoreSteps:
    """The steps that make or start the mirror. Raises Refused, NotReady."""
    steps = (*_plan_array(found, making), *(step for leg in found.fast for step in _plan_leg(found, leg)))
    array = found.array if found.array is not None and found.array.running else None
    if array is not None and array.raid_disks < min(_legs(array, steps), found.drives + 1):
        steps = (*steps, WidenMirror(found.drives + 1))
    if array is not None and array.backlog:
        steps = (*steps, NoWriteBehind(array.device.name))
    # A mirror that is there and does not run hides its table: whether it has one is to be looked at when it runs.
    known = array is not None or any(isinstance(step, CreateMirror) for step in steps)
    if making is Making.ALLOWED and known and not _partitioned(found):
        return (*steps, PartitionMirror(state_bytes))
    return steps


def without_legs(steps: StoreSteps) -> StoreSteps:
    """The same steps, but those that bring legs back."""
    return tuple(step for step in steps if not isinstance(step, ForgetLeg | RejoinMirror | WidenMirror))


def left_out(found: Mirror) -> bool:
    """Whether the backend's leg went on without every fast leg that is there: their drives died, or were away."""
    slow = found.slow.superblock
    if slow is None or not found.fast or (found.array is not None and found.array.running) or slow.events <= 1:
        return False
    legs = [leg.superblock for leg in found.fast if _same(leg, found.slow)]
    known = [leg for leg in legs if leg is not None]
    return bool(known) and all(slow.role_of(leg.device_number) is None for leg in known)


def _legs(array: Array, steps: StoreSteps) -> int:
    """How many legs the running mirror has, or will have after these steps, spares included."""
    inside = {part.name for part in array.members if "faulty" not in part.state}
    return len(inside | {Path(step.leg).name for step in steps if isinstance(step, RejoinMirror)})


def _plan_array(found: Mirror, making: Making) -> StoreSteps:
    fast, slow = found.fast, found.slow
    if found.array is not None and found.array.running:
        if slow.device is not None and Path(slow.device).name not in {part.name for part in found.array.members}:
            raise Refused(
                "the metadata mirror runs without its backend leg",
                why="what it holds may be older than the backend's leg",
                hint="stop it with `hatchery-store down` and start the store again",
            )
        return ()
    if not slow.ours or slow.superblock is None or slow.device is None:
        if making is Making.FORBIDDEN or len(fast) < found.drives or slow.device is None:
            raise NotReady(
                "the metadata mirror cannot start",
                why="its leg on the backend is not there",
                hint="run the role clone_store if it was never set up; never start an NVMe leg alone",
            )
        return _make(fast, slow)
    never_ran = slow.superblock.events <= 1
    if never_ran and making is Making.ALLOWED and len(fast) == found.drives and not all(leg.ours for leg in fast):
        return _make(fast, slow)
    legs = [str(leg.device) for leg in fast if _same(leg, slow) and not diverged(leg, slow)]
    return (AssembleMirror(slow.superblock.uuid, (*legs, slow.device)),)


def _make(fast: tuple[Leg, ...], slow: Leg) -> StoreSteps:
    for leg in (*fast, slow):
        if leg.kind or (leg.superblock is not None and not leg.ours):
            raise Refused(
                f"{leg.device} is not empty",
                why=f"it holds {leg.kind or 'a member of another array'}",
                hint="wipe the disk that it is on",
            )
        if leg.ours and leg.superblock is not None and leg.superblock.events > 1:
            raise Refused(
                f"{leg.device} is a leg of an older metadata mirror",
                why="the other leg does not know it",
                hint="if nothing on it is needed, wipe the NVMe drive and set it up again",
            )
    return (CreateMirror(tuple(str(leg.device) for leg in fast), str(slow.device)),)


def _plan_leg(found: Mirror, fast: Leg) -> StoreSteps:
    """The steps that bring a fast leg in, or back, once the mirror runs (or will)."""
    slow = found.slow
    if fast.device is None or slow.superblock is None or not slow.ours:
        return ()
    if found.array is not None and found.array.running:
        inside = {part.name for part in found.array.members if "faulty" not in part.state}
        if Path(fast.device).name in inside:
            return ()
        if found.array.degraded == 0 and found.array.raid_disks > found.drives:
            return ()
    elif slow.superblock.events <= 1 or (_same(fast, slow) and not diverged(fast, slow) and not _older(fast, slow)):
        return ()
    if fast.kind or (fast.superblock is not None and not fast.ours):
        raise Refused(f"{fast.device} is not empty", why=f"it holds {fast.kind or 'a member of another array'}")
    if fast.ours and (not _same(fast, slow) or diverged(fast, slow)):
        why = "it was written without the other leg" if _same(fast, slow) else "it belongs to another mirror"
        return ForgetLeg(fast.device, why), RejoinMirror(fast.device)
    return (RejoinMirror(fast.device),)


def _same(fast: Leg, slow: Leg) -> bool:
    if fast.superblock is None or slow.superblock is None:
        return False
    return fast.ours and fast.superblock.uuid == slow.superblock.uuid


def _older(fast: Leg, slow: Leg) -> bool:
    """Whether the fast leg is so much older that the kernel will not take it in by itself (it allows one event)."""
    if fast.superblock is None or slow.superblock is None:
        return True
    return fast.superblock.events + 1 < slow.superblock.events


def diverged(fast: Leg, slow: Leg) -> bool:
    """Whether each leg was written while it counted the other as gone: then neither is simply the newer one."""
    if fast.superblock is None or slow.superblock is None:
        return False
    fast_alone = fast.superblock.role_of(slow.superblock.device_number) is None
    slow_alone = slow.superblock.role_of(fast.superblock.device_number) is None
    return fast_alone and slow_alone


def _partitioned(found: Mirror) -> bool:
    return found.array is not None and found.array.running and _is_its_own(found.table, found.array)


def _is_its_own(table: Table | None, array: Array) -> bool:
    return table is not None and table.guid == str(uuid.UUID(array.uuid))


def layout(size: int, state_bytes: int) -> tuple[Partition, ...]:
    """Divide a mirror of ``size`` bytes. ``state_bytes`` 0: a quarter, from 64 MiB to 2 GiB. Raises Refused."""
    usable = (size - MIB) // MIB * MIB - MIB
    state = align_up(state_bytes or min(max(size // 4, _STATE_MIN), _STATE_MAX), MIB)
    pool = min(usable - state, _POOL_META_MAX)
    if pool < _POOL_META_MIN:
        raise Refused(
            "the metadata mirror is too small", why=f"{size // MIB} MiB", hint="set meta_bytes for nvme_cache"
        )
    return Partition(names.PART_POOL_META, MIB, pool), Partition(names.PART_STATE, MIB + pool, state)


def running(machine: Machine) -> Array:
    """The mirror. Raises NotReady when it is not running."""
    array = md.with_member(backend.part(machine.config.require_backend(), names.PART_META))
    if array is None or not array.running:
        raise NotReady("the metadata mirror is not running", hint="see `hatchery-store status`")
    return array


def part(machine: Machine, name: str) -> Device:
    """The device of one of the mirror's partitions. Raises NotReady."""
    array = running(machine)
    table = partitions.remembered(array.device)
    found = partitions.find(array.device, name) if table and table.guid == str(uuid.UUID(array.uuid)) else None
    if found is None:
        raise NotReady(f"the metadata mirror has no partition {name}", hint="run the role clone_store")
    return found
