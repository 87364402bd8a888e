"""What the cache lies on when there are two NVMe drives: an md RAID 1 of their cache partitions. Sizes in bytes.

Which leg is current must never be guessed: the cache on an old leg holds old data under a uuid that is still right
(rule 10). So a leg that comes alone is believed in two cases only: when it counts the other as gone, because md records
that before a write is answered; or when its event count is the one that the last orderly stop left in the state file
system. Otherwise the cached device is started without its cache first, which makes bcache take the leg's content for
invalid, and which bcache refuses when data is missing that was never written to the backend.
"""

import uuid
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import CannotTell, NotReady, Refused
from appliance.host import bcache, block, md
from appliance.host.md import Array, Consistency, Fill, NewArray, Superblock
from appliance.model import KIB, MIB
from appliance.reconcile import Description
from appliance.store import marks, names, nvme
from appliance.store.machine import Machine, StoreSteps
from appliance.store.mirror import Making

NAME = names.array(names.CACHE)
DATA_OFFSET = 4 * MIB
"""Where a leg's data begins: fixed, so that it is known before the array is made how large its legs must be."""

_MARK = "cache.stopped"


@dataclass(frozen=True, slots=True)
class Leg:
    """A cache partition. ``set_uuid`` is that of the cache set right on it; ``kind`` what else it holds."""

    device: str
    guid: str
    size: int
    superblock: Superblock | None = None
    set_uuid: str = ""
    kind: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is a leg of a mirrored cache."""
        return self.superblock is not None and self.superblock.name == NAME

    @property
    def plain(self) -> bool:
        """Whether it holds a cache by itself, from when there was one drive."""
        return self.set_uuid != "" and self.set_uuid == self.guid


@dataclass(frozen=True, slots=True)
class CacheMirror:
    """What was found. ``drives`` are those of the settings; ``mark`` is what the last orderly stop left."""

    drives: int
    legs: tuple[Leg, ...]
    array: Array | None
    mark: str = ""


@dataclass(frozen=True, slots=True)
class CreateCacheMirror:
    """Make the mirror, of two legs or of the first of them."""

    legs: tuple[str, ...]
    size: int

    def describe(self) -> Description:
        """What it does."""
        rest = "; the other leg comes later" if len(self.legs) == 1 else ""
        return Description("create", "cache mirror", f"of {', '.join(self.legs)}{rest}")

    def apply(self, machine: Machine) -> None:
        """Make it; what an attempt that was cut off left is taken away first."""
        members = tuple(map(Path, self.legs))
        for member in members:
            if md.superblock(block.get(member)) is not None:
                md.forget(machine.runner, member)
        md.create(
            machine.runner,
            NewArray(
                names.CACHE, names.HOMEHOST, "raid1", 0, Consistency.BITMAP, members, missing=2 - len(members),
                size=self.size, data_offset=DATA_OFFSET, fill=Fill.NEVER_READ_UNWRITTEN,
            ),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AssembleCacheMirror:
    """Start the mirror from legs that are current."""

    uuid: str
    legs: tuple[str, ...]

    def describe(self) -> Description:
        """What it does."""
        return Description("assemble", "cache mirror", f"from {', '.join(self.legs)}")

    def apply(self, machine: Machine) -> None:
        """Start it; from here on the last stop says nothing about its legs."""
        marks.remove(machine.config.paths.state / _MARK)
        name = f"{names.HOMEHOST}-{names.CACHE}"
        md.go_on(md.assemble(machine.runner, name, self.uuid, [Path(leg) for leg in self.legs]))


@dataclass(frozen=True, slots=True)
class RejoinCacheMirror:
    """Put a leg into the running mirror: one that was away, or a new drive's."""

    leg: str
    why: str = ""

    def describe(self) -> Description:
        """What it does."""
        return Description("rejoin", "cache mirror", self.leg + (f": {self.why}" if self.why else ""))

    def apply(self, machine: Machine) -> None:
        """Add it; it is brought up to date in the background."""
        array = find(machine)
        if array is None:
            raise NotReady("the mirrored cache is not running", hint="run `hatchery-store up`, which says why")
        md.remove_failed(machine.runner, array)
        if self.why:
            md.forget(machine.runner, Path(self.leg))
        again = find(machine) or array
        if block.get(self.leg).name not in {member.name for member in again.members}:
            md.rejoin(machine.runner, array, Path(self.leg))


def observe(machine: Machine) -> CacheMirror:
    """Look at the cache partitions that are there, and at the mirror."""
    config = machine.config.require_nvme()
    legs = tuple(leg for part in nvme.parts(config, names.PART_CACHE) if (leg := _leg(machine, part)) is not None)
    mark = marks.read(machine.config.paths.state / _MARK) or ""
    return CacheMirror(len(config.devices), legs, _array(legs), mark)


def _leg(machine: Machine, part: nvme.Found) -> Leg | None:
    device = part.device
    try:
        found = md.superblock(device)
        cache = bcache.superblock(device) if found is None else None
    except CannotTell:
        return None
    kind = "" if found or cache else ", ".join(map(str, block.signatures(machine.runner, device)))
    return Leg(str(device.path), part.guid, device.size, found, cache.set_uuid if cache else "", kind)


def _array(legs: tuple[Leg, ...]) -> Array | None:
    uuids = {leg.superblock.uuid for leg in legs if leg.superblock is not None and leg.ours}
    found = [array for array in md.arrays() if array.uuid in uuids]
    return next((array for array in found if array.running), None)


def find(machine: Machine) -> Array | None:
    """The running mirror, or None."""
    return _array(observe(machine).legs)


def members(found: CacheMirror) -> tuple[Leg, ...]:
    """The legs of the mirror that is to be used: of two mirrors, the one that the running or the first leg is in."""
    ours = [leg for leg in found.legs if leg.superblock is not None and leg.ours]
    own = found.array.uuid if found.array is not None else next((_uuid(leg) for leg in ours), "")
    return tuple(leg for leg in ours if _uuid(leg) == own)


def _uuid(leg: Leg) -> str:
    return leg.superblock.uuid if leg.superblock is not None else ""


def _alone(leg: Leg) -> bool:
    return leg.superblock is not None and leg.superblock.alone


def _events(leg: Leg) -> int:
    return leg.superblock.events if leg.superblock is not None else 0


def current(found: CacheMirror) -> tuple[Leg, ...]:
    """The legs to start from: those that do not lag behind one that counts them as gone."""
    legs = members(found)
    alone = [leg for leg in legs if _alone(leg)]
    if not alone:
        return legs
    return (max(alone, key=_events),)


def doubtful(found: CacheMirror) -> bool:
    """Whether what the legs hold may be older than what was answered to clients, so that it must not be used."""
    legs = members(found)
    if found.array is not None or not legs:
        return False
    alone = [leg for leg in legs if _alone(leg)]
    if len(alone) == 1:
        return False
    if alone:
        return True  # each went its own way
    return len(legs) == 1 and found.mark != _word(legs[0])


def _word(leg: Leg) -> str:
    return f"{_uuid(leg)} {_events(leg)}"


def plan(found: CacheMirror, making: Making) -> StoreSteps:
    """The steps that make, start and mend the mirror; none with one drive. Raises Refused, NotReady."""
    ours = members(found)
    if not ours:
        return _plan_new(found) if found.drives == 2 and making is Making.ALLOWED else ()
    steps: StoreSteps = ()
    inside: set[str] | None = None
    if found.array is None:
        legs = current(found)
        if making is Making.ALLOWED and found.drives == 2 and all(_events(leg) == 0 for leg in legs):
            return _plan_new(found)
        steps = (AssembleCacheMirror(_uuid(legs[0]), tuple(leg.device for leg in legs)),)
        inside = {leg.device for leg in legs}
    else:
        inside = {f"/dev/{member.name}" for member in found.array.members if "faulty" not in member.state}
    for leg in found.legs:
        if leg.device in inside or leg.plain:
            continue
        if leg.kind or (leg.superblock is not None and not leg.ours):
            raise Refused(f"{leg.device} is not empty", why=f"it holds {leg.kind or 'a member of another array'}")
        strange = leg.ours and (leg not in ours or _alone(leg))
        steps = (*steps, RejoinCacheMirror(leg.device, "what it holds is not the cache's" if strange else ""))
    return steps


def _plan_new(found: CacheMirror) -> StoreSteps:
    if len(found.legs) < found.drives:
        raise NotReady("the cache cannot be mirrored", why="one of the NVMe drives is missing", hint="run nvme_cache")
    for leg in found.legs:
        if leg.kind:
            raise Refused(f"{leg.device} is not empty", why=f"it holds {leg.kind}", hint="wipe the disk that it is on")
    legs = tuple(leg.device for leg in found.legs if not leg.plain)
    if not legs:
        raise Refused(
            "both NVMe drives hold a cache of their own",
            why="only one of them can be the one in use",
            hint="wipe the other one and run nvme_cache",
        )
    size = (min(leg.size for leg in found.legs) - DATA_OFFSET) // (64 * KIB) * (64 * KIB)
    return (CreateCacheMirror(legs, size),)


def needed(machine: Machine) -> int:
    """Bytes that a cache partition must have to become a leg of the mirror; 0 when there is none."""
    sizes = [leg.superblock.size for leg in observe(machine).legs if leg.superblock is not None and leg.ours]
    return min(sizes) + DATA_OFFSET if sizes else 0


def set_uuid(array: Array) -> str:
    """The uuid of the cache set that belongs on this mirror."""
    return str(uuid.UUID(array.uuid))


def stop(machine: Machine) -> None:
    """Stop the mirror and note in the state file system which event count is current. Raises DeadlineExceeded."""
    array = find(machine)
    if array is None:
        return
    whole = array.degraded == 0
    md.stop(machine.runner, array)
    state = machine.config.paths.state
    legs = members(observe(machine))
    if whole and legs and state.is_mount() and len({_word(leg) for leg in legs}) == 1:
        marks.write(state / _MARK, _word(legs[0]))
