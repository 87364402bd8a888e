"""The fast pool: a thin pool on NVMe alone, for ephemeral clones. Sizes in bytes.

    partition hatchery-fast    | header, 1 MiB | metadata area | data area |
    hatchery-pool-fast-meta    the metadata areas of all drives, one after the other
    hatchery-pool-fast-data    the data areas of all drives, one after the other

The store can do without it: a drive that is missing, a partition that is too small or metadata that is damaged leave
the durable pool alone. It is made on blank partitions only; to make it anew in place of one that is there takes an
operator's word (``hatchery-store recreate-fast``), because all ephemeral clones go with it.
"""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.errors import CannotTell, HatcheryError, NotReady, Refused, Unhealthy
from appliance.fence import Fence
from appliance.host import block, mount, thin
from appliance.host.dm import Target
from appliance.host.partitions import align_up
from appliance.host.thin import METADATA_BLOCK, PoolMode
from appliance.model import GIB, KIB, MIB, SECTOR
from appliance.reconcile import Description
from appliance.store import fast_header, marks, names, nvme
from appliance.store.fast_header import HEADER_BYTES, Header
from appliance.store.machine import Machine, StoreSteps
from appliance.store.mirror import Making

log = logging.getLogger(__name__)

POOL = names.pool(names.PoolName.FAST)
DATA = names.pool_data(names.PoolName.FAST)
META = names.pool_metadata(names.PoolName.FAST)

START = MIB
"""Where the metadata area begins on a partition."""

SMALLEST = 32 * MIB
"""A smaller partition holds no pool."""

CHECK_DEADLINE = 60.0
"""Seconds that a check of the metadata may take; a start goes on without its result after that."""

_META_MIN = 4 * MIB
_META_MAX = 16 * GIB
_CLEAN = "fast.clean"
_LOW_WATER_PERCENT = 15
_RECREATE = "to give up all ephemeral clones, run `hatchery-store recreate-fast --lose-ephemeral-clones`"


@dataclass(frozen=True, slots=True)
class Area:
    """A partition of the fast pool. ``header`` is None while it is blank; ``foreign`` says what is there instead."""

    device: str
    guid: str
    size: int
    header: Header | None = None
    foreign: str = ""

    @property
    def blank(self) -> bool:
        """Whether nobody's data can be on it."""
        return not self.foreign and (self.header is None or self.header.fresh)


@dataclass(frozen=True, slots=True)
class Fast:
    """What was found. ``drives`` of the settings may be missing; ``mode`` is None while no pool is running.

    ``clean`` is the identity of the pool that was shut down in order, ``devices`` whether any of its devices exists.
    """

    drives: int
    areas: tuple[Area, ...]
    mode: PoolMode | None = None
    clean: str = ""
    devices: bool = False


@dataclass(frozen=True, slots=True)
class CreateFast:
    """Write the headers of a new pool on partitions that are blank, or that an operator gives up."""

    areas: tuple[Area, ...]
    block: int

    def describe(self) -> Description:
        """What it does."""
        return Description("create", POOL, f"on {', '.join(area.device for area in self.areas)}")

    def apply(self, machine: Machine) -> None:  # noqa: ARG002  # a step's signature
        """Erase what says that there is a pool, then write the headers. Cut off, it begins again."""
        for area in self.areas:
            block.zero(Path(area.device), 0, HEADER_BYTES)
            block.zero(Path(area.device), START, METADATA_BLOCK)
        for header, area in zip(headers(self.areas, self.block, str(uuid.uuid4())), self.areas, strict=True):
            fast_header.write(Path(area.device), header)


@dataclass(frozen=True, slots=True)
class StopFast:
    """Take away the devices of a pool that failed or was left half up."""

    def describe(self) -> Description:
        """What it does."""
        return Description("stop", POOL)

    def apply(self, machine: Machine) -> None:
        """Take them away. Raises InUse while an ephemeral clone is still open."""
        stop(machine)


@dataclass(frozen=True, slots=True)
class ActivateMetadata:
    """Make the pool's metadata device."""

    def describe(self) -> Description:
        """What it does."""
        return Description("activate", META)

    def apply(self, machine: Machine) -> None:
        """Make it."""
        machine.dm.create(META, names.uuid(META), metadata_table(ours(areas(machine))))


@dataclass(frozen=True, slots=True)
class CheckFast:
    """Check the pool's metadata after a stop that was not clean."""

    def describe(self) -> Description:
        """What it does."""
        return Description("check", "fast pool metadata", f"at most {CHECK_DEADLINE:g} s")

    def apply(self, machine: Machine) -> None:
        """Check it. Raises Unhealthy on damage."""
        try:
            thin.check(machine.runner, machine.dm.path(META), deadline=CHECK_DEADLINE)
        except Unhealthy as error:
            machine.dm.remove(META, deadline=5.0)
            raise Unhealthy("the fast pool's metadata is damaged", why=error.why, hint=_RECREATE) from error


@dataclass(frozen=True, slots=True)
class ActivateFast:
    """Make the pool's data device and the pool."""

    def describe(self) -> Description:
        """What it does."""
        return Description("activate", POOL)

    def apply(self, machine: Machine) -> None:
        """Make them; from here on the shutdown counts as not clean. What was made goes again when it fails."""
        found = ours(areas(machine))
        first = _header(found[0])
        # First of all, lest a growth that was cut off leave a header that makes do with too few partitions.
        _settle(found, fresh=first.fresh)
        marks.remove(machine.config.paths.state / _CLEAN)
        try:
            machine.dm.create(DATA, names.uuid(DATA), data_table(found))
            machine.dm.create(POOL, f"{names.uuid(POOL)}-{first.identity}", [table(machine, found)])
        except HatcheryError:
            stop(machine)
            raise
        _settle(found)


@dataclass(frozen=True, slots=True)
class GrowFast:
    """Take blank partitions, those of a drive that was added, into the pool, while it is in use or not.

    Without any it only sets the headers right.
    """

    areas: tuple[Area, ...]

    def describe(self) -> Description:
        """What it does."""
        detail = f"by {', '.join(area.device for area in self.areas)}" if self.areas else "set its headers right"
        return Description("grow", POOL, detail)

    def apply(self, machine: Machine) -> None:
        """Write the new headers, then the old ones, then give the running pool its space. Cut off, it goes on later."""
        before = ours(areas(machine))
        for header, area in zip(further(before, self.areas), self.areas, strict=True):
            fast_header.write(Path(area.device), header)
        found = ours(areas(machine))
        _settle(found)
        if machine.dm.find(POOL) is not None:
            machine.dm.reload(META, metadata_table(found))
            machine.dm.reload(DATA, data_table(found))
            machine.dm.reload(POOL, [table(machine, found)])


def _settle(found: Sequence[Area], *, fresh: bool = False) -> None:
    """Make all headers of a pool say of how many partitions it is, and whether it ever ran."""
    for area in found:
        header = _header(area)
        settled = replace(header, count=len(found), fresh=fresh)
        if header != settled:
            fast_header.write(Path(area.device), settled)


def stop(machine: Machine) -> None:
    """Take away all devices of the pool; fine when there are none. Raises InUse."""
    for name, deadline in ((POOL, 20.0), (DATA, 5.0), (META, 5.0)):
        machine.dm.remove(name, deadline=deadline)


# Layout: pure


def metadata_bytes(size: int) -> int:
    """The metadata area of a partition of ``size``: 64 B for each of the smallest blocks (64 KiB), 4 MiB at least."""
    return align_up(min(max(size // KIB, _META_MIN), _META_MAX), MIB)


def headers(found: Sequence[Area], block_bytes: int, identity: str) -> tuple[Header, ...]:
    """The headers of a new pool on these partitions."""
    return tuple(
        Header(identity, area.guid, index, len(found), metadata_bytes(area.size), block_bytes, fresh=True)
        for index, area in enumerate(found)
    )


def further(before: Sequence[Area], added: Sequence[Area]) -> tuple[Header, ...]:
    """The headers of partitions that are added to a pool."""
    first, count = _header(before[0]), len(before) + len(added)
    return tuple(
        replace(first, guid=area.guid, index=len(before) + place, count=count, metadata=metadata_bytes(area.size))
        for place, area in enumerate(added)
    )


def ours(found: Sequence[Area]) -> tuple[Area, ...]:
    """The partitions of one whole pool, in order. Raises NotReady when a part is missing or of another pool."""
    parts = {area.header.index: area for area in found if area.header is not None}
    known = [_header(area) for area in parts.values()]
    if not known:
        raise NotReady("there is no fast pool", hint="run the role clone_store")
    count = max(header.count for header in known)
    whole = set(parts) == set(range(count)) and len({header.identity for header in known}) == 1
    if not whole:
        what = f"{len(known)} of {count} partitions were found" if len(known) < count else "they are of different pools"
        raise NotReady("the fast pool is not whole", why=what, hint=f"bring the missing drive back, or {_RECREATE}")
    return tuple(parts[index] for index in range(count))


def _header(area: Area) -> Header:
    if area.header is None:
        raise NotReady(
            f"{area.device} is not a part of the fast pool",
            why="its header is missing",
            hint="run the role clone_store",
        )
    return area.header


def metadata_table(found: Sequence[Area]) -> tuple[Target, ...]:
    """The metadata device: the metadata areas, one after the other."""
    return _concatenated([(area.device, START, _header(area).metadata) for area in found])


def data_table(found: Sequence[Area]) -> tuple[Target, ...]:
    """The data device: the data areas, whole blocks of each, one after the other."""
    runs = []
    for area in found:
        header = _header(area)
        start = START + header.metadata
        runs.append((area.device, start, (area.size - start) // header.block * header.block))
    return _concatenated(runs)


def _concatenated(runs: Sequence[tuple[str, int, int]]) -> tuple[Target, ...]:
    targets, at = [], 0
    for device, start, length in runs:
        targets.append(Target(at // SECTOR, length // SECTOR, "linear", f"{device} {start // SECTOR}"))
        at += length
    return tuple(targets)


def plan(found: Fast, making: Making, block_bytes: int) -> StoreSteps:
    """The steps that bring the fast pool up, with all drives in it; none when there can be none.

    Raises NotReady, Refused.
    """
    usable = tuple(area for area in found.areas if area.size >= SMALLEST)
    blank = tuple(area for area in usable if area.blank)
    added = tuple(area for area in blank if area.header is None)
    growing: StoreSteps = (GrowFast(added),) if added and making is Making.ALLOWED else ()
    if found.mode in (PoolMode.READ_WRITE, PoolMode.OUT_OF_DATA_SPACE):
        # A header that still calls a running pool fresh: whoever started it was cut off.
        return (GrowFast(()),) if blank != added and not growing else growing
    if not usable:
        return ()
    foreign = next((area for area in usable if area.foreign), None)
    if foreign is not None:
        raise Refused(f"{foreign.device} cannot hold the fast pool", why=foreign.foreign, hint=_RECREATE)
    stopping: StoreSteps = (StopFast(),) if found.devices else ()
    starting: StoreSteps = (ActivateMetadata(), ActivateFast())
    if blank == usable:
        if making is Making.FORBIDDEN or len(found.areas) < found.drives:
            return ()
        return (*stopping, CreateFast(usable, block_bytes), *starting)
    identity = _header(ours(usable)[0]).identity
    if identity != found.clean:
        starting = (starting[0], CheckFast(), *starting[1:])
    return (*stopping, *starting, *growing)


def plan_anew(found: Fast, block_bytes: int) -> StoreSteps:
    """The steps that give up the fast pool with all in it and make a new one. Raises NotReady."""
    usable = tuple(area for area in found.areas if area.size >= SMALLEST)
    if not usable or len(found.areas) < found.drives:
        raise NotReady("the fast pool cannot be made", why="its drive is missing", hint="run the role nvme_cache")
    stopping: StoreSteps = (StopFast(),) if found.devices else ()
    return (*stopping, CreateFast(usable, block_bytes), ActivateMetadata(), ActivateFast())


# Looking


def areas(machine: Machine) -> tuple[Area, ...]:
    """The partitions that are there."""
    return tuple(_area(part.device, part.guid) for part in nvme.parts(machine.config.require_nvme(), names.PART_FAST))


def _area(device: block.Device, guid: str) -> Area:
    found = Area(str(device.path), guid, device.size)
    try:
        return judged(found, block.read(device.path, 0, HEADER_BYTES))
    except CannotTell as error:
        return replace(found, foreign=str(error))


def judged(area: Area, data: bytes) -> Area:
    """The area with what its first bytes say. Pure."""
    try:
        header = fast_header.parse(data)
    except Unhealthy as error:
        return replace(area, foreign=error.what)
    if header is not None and header.guid != area.guid:
        return replace(area, foreign="it was copied from another drive")
    return replace(area, header=header)


def observe(machine: Machine) -> Fast:
    """Look at the partitions, at device-mapper and at how the pool was left. Raises CannotTell."""
    return Fast(
        drives=len(machine.config.require_nvme().devices),
        areas=areas(machine),
        mode=mode(machine),
        clean=marks.read(machine.config.paths.state / _CLEAN) or "",
        devices=any(machine.dm.find(name) is not None for name in (POOL, DATA, META)),
    )


def mode(machine: Machine) -> PoolMode | None:
    """How the running pool is, or None when there is none. One whose drive is dead has failed, whatever it says."""
    if machine.dm.find(POOL) is None:
        return None
    if Fence(machine.dm).look():
        return PoolMode.FAILED
    (status,) = machine.dm.status(POOL)
    return thin.parse_pool_status(status.params).mode


def table(machine: Machine, found: Sequence[Area]) -> Target:
    """The pool's table, as it must be (rules 3, 4)."""
    size = _header(found[0]).block // SECTOR
    length = sum(target.length for target in data_table(found))
    low_water = length // size * _LOW_WATER_PERCENT // 100
    path = machine.dm.path
    return thin.pool_table(path(DATA), path(META), length=length, block=size, low_water=low_water)


def down(machine: Machine) -> None:
    """Take the pool down; nothing is active in it. Raises InUse."""
    info = machine.dm.find(POOL)
    good = mode(machine) in (PoolMode.READ_WRITE, PoolMode.OUT_OF_DATA_SPACE)
    stop(machine)
    target = machine.config.paths.state
    if info is not None and good and mount.mounted_at(target) is not None:
        _mark_clean(machine, info.uuid.removeprefix(f"{names.uuid(POOL)}-"))


def _mark_clean(machine: Machine, identity: str) -> None:
    """Record, on stable storage, that this pool was shut down in order."""
    marks.write(machine.config.paths.state / _CLEAN, identity)
