"""The durable pool and the state file system, the two things on the metadata mirror. Sizes in bytes."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.config import StoreConfig
from appliance.errors import HatcheryError, NotReady, Refused, Unhealthy
from appliance.host import block, mount, thin
from appliance.host.dm import Target
from appliance.host.thin import METADATA_BLOCK, PoolMode
from appliance.model import KIB, MIB, SECTOR
from appliance.reconcile import Description
from appliance.store import cache, capacity, marks, metadata, mirror, names
from appliance.store.machine import Machine, StoreSteps
from appliance.store.mirror import Making

POOL = names.pool("durable")
DATA = names.pool_data("durable")

CHECK_DEADLINE = 180.0
"""Seconds that a check of the metadata may take; a start goes on without its result after that."""

REPAIRING = "repair.json"
"""A repair's notes on the state file system; there while the metadata is being written back."""

_CLEAN = "store.clean"
_USED = "store.used"
_REPAIR = "nothing was changed; run `hatchery-store repair`"
_LOW_WATER_PERCENT = 15
_MOUNT_OPTIONS = "noatime,nodev,nosuid,noexec,errors=remount-ro"


@dataclass(frozen=True, slots=True)
class Durable:
    """What was found. ``label`` is that of the state partition, ``foreign`` what else it holds: looked for unless it is
    mounted.

    ``used`` says that a pool was active on this metadata before: then blank metadata is damage. ``repairing`` says
    that a repair was cut off while it wrote the metadata back, ``gained`` is what the backend has more than the data
    device.
    """

    label: str
    foreign: str
    mounted: bool
    clean: bool
    blank_metadata: bool
    data: bool
    pool: bool
    used: bool = False
    repairing: bool = False
    gained: int = 0


@dataclass(frozen=True, slots=True)
class MakeState:
    """Make the state file system; its label, set last, says that it is complete."""

    device: str

    def describe(self) -> Description:
        """What it does."""
        return Description("format", "state file system", f"ext4 on {self.device}")

    def apply(self, machine: Machine) -> None:
        """Make and label it."""
        machine.runner.run(["mkfs.ext4", "-q", "-F", "-m", "1", "-E", "nodiscard", self.device])
        machine.runner.run(["tune2fs", "-L", names.STATE_LABEL, self.device])
        block.settle(machine.runner)


@dataclass(frozen=True, slots=True)
class MountState:
    """Mount the state file system."""

    device: str
    target: str

    def describe(self) -> Description:
        """What it does."""
        return Description("mount", self.target, f"from {self.device}")

    def apply(self, machine: Machine) -> None:
        """Mount it; its journal puts right what a power cut left."""
        mount.mount(machine.runner, Path(self.device), Path(self.target), _MOUNT_OPTIONS)


@dataclass(frozen=True, slots=True)
class CheckMetadata:
    """Check the pool's metadata after a stop that was not clean."""

    device: str

    def describe(self) -> Description:
        """What it does."""
        return Description("check", "pool metadata", f"{self.device}, at most {CHECK_DEADLINE:g} s")

    def apply(self, machine: Machine) -> None:
        """Check it, and record how that ended. Raises Unhealthy on damage: then no pool is made of it."""
        try:
            found = thin.check(machine.runner, Path(self.device), deadline=CHECK_DEADLINE)
        except Unhealthy as error:
            raise Unhealthy(error.what, why=error.why, hint=_REPAIR) from error
        metadata.record_check(machine.config.paths.state, found)


@dataclass(frozen=True, slots=True)
class ActivateData:
    """Make the pool's data device of the cached devices."""

    def describe(self) -> Description:
        """What it does."""
        return Description("activate", DATA)

    def apply(self, machine: Machine) -> None:
        """Make it."""
        machine.dm.create(DATA, names.uuid(DATA), data_targets(machine))


@dataclass(frozen=True, slots=True)
class GrowPool:
    """Give the pool the space that its data device gained, while it is in use."""

    gained: int

    def describe(self) -> Description:
        """What it does."""
        return Description("grow", POOL, f"its data device by {self.gained // MIB} MiB")

    def apply(self, machine: Machine) -> None:
        """Lengthen the data device, then the pool; I/O waits a moment for each."""
        machine.dm.reload(DATA, data_targets(machine))
        extend(machine)


def data_targets(machine: Machine) -> tuple[Target, ...]:
    """The table of the pool's data device: the cached devices without their beginnings, one after the other.

    What was appended once keeps its place: lengths are whole blocks, and each growth adds one more device at the end.
    Raises NotReady, Unhealthy.
    """
    block_bytes = machine.config.require_store().block_kib * KIB
    targets: list[Target] = []
    at = 0
    for cached in cache.devices(machine):
        offset = cache.data_offset(cached)
        length = (cached.device.size - offset) // block_bytes * block_bytes
        targets.append(Target(at // SECTOR, length // SECTOR, "linear", f"{cached.device.path} {offset // SECTOR}"))
        at += length
    return tuple(targets)


@dataclass(frozen=True, slots=True)
class ActivatePool:
    """Make the pool."""

    target: str

    def describe(self) -> Description:
        """What it does."""
        return Description("activate", POOL)

    def apply(self, machine: Machine) -> None:
        """Make it; from here on the shutdown counts as not clean, and blank metadata as damage."""
        marks.remove(Path(self.target) / _CLEAN)
        machine.dm.create(POOL, names.uuid(POOL), [table(machine)])
        if not (Path(self.target) / _USED).exists():
            marks.write(Path(self.target) / _USED)


def table(machine: Machine, reserve_percent: int | None = None) -> Target:
    """The pool's table, as it must be: all of the data device but the reserve, by default that of the settings.

    Raises NotReady, CannotTell.
    """
    metadata = mirror.part(machine, names.PART_POOL_META)
    data = block.get(machine.dm.path(DATA))
    store = machine.config.require_store()
    block_bytes = store.block_kib * KIB
    percent = store.reserve_percent if reserve_percent is None else reserve_percent
    if machine.dm.find(POOL) is None:
        given = capacity.given(metadata, block_bytes)
    else:
        given = sum(target.length for target in machine.dm.table(POOL)) * SECTOR
    length = capacity.pool_bytes(data.size, block_bytes, given, percent) // SECTOR
    block_sectors = block_bytes // SECTOR
    low_water = length // block_sectors * _LOW_WATER_PERCENT // 100
    return thin.pool_table(data.path, metadata.path, length=length, block=block_sectors, low_water=low_water)


def extend(machine: Machine, reserve_percent: int | None = None) -> int:
    """Give the running pool what its data device has more than it, but the reserve; returns the bytes that it gained.

    A full pool takes writes again at once. Raises NotReady when it is not active, Unhealthy.
    """
    if machine.dm.find(POOL) is None:
        raise NotReady("the pool is not active", hint="see `hatchery-store status`")
    wanted = table(machine, reserve_percent)
    gained = (wanted.length - sum(target.length for target in machine.dm.table(POOL))) * SECTOR
    if gained > 0:
        machine.dm.reload(POOL, [wanted])
    return gained


def observe(machine: Machine) -> Durable:
    """Look at the mirror's partitions and at device-mapper. Raises NotReady when the mirror is not running."""
    state = mirror.part(machine, names.PART_STATE)
    target = machine.config.paths.state
    mounted = mount.mounted_at(target)
    if mounted is not None and mounted.number != state.number:
        raise Refused(f"{target} is taken", why=f"{mounted.source} is mounted there", hint="unmount it")
    found = () if mounted is not None else block.signatures(machine.runner, state)
    ours = [signature for signature in found if signature.kind == "ext4"]
    metadata = mirror.part(machine, names.PART_POOL_META)
    data = machine.dm.find(DATA)
    return Durable(
        label=ours[0].label if ours else "",
        foreign=", ".join(str(signature) for signature in found if signature.kind != "ext4"),
        mounted=mounted is not None,
        clean=mounted is not None and (target / _CLEAN).exists(),
        blank_metadata=not any(block.read(metadata.path, 0, METADATA_BLOCK)),
        data=data is not None,
        pool=machine.dm.find(POOL) is not None,
        used=mounted is not None and ((target / _USED).exists() or machine.config.paths.catalog.exists()),
        repairing=mounted is not None and (target / REPAIRING).exists(),
        gained=_gained(machine) if data is not None else 0,
    )


def _gained(machine: Machine) -> int:
    try:
        wanted = data_targets(machine)
    except NotReady:
        # A growth has got as far as the new partition: the cache comes before the pool.
        return 0
    return (_length(wanted) - _length(machine.dm.table(DATA))) * SECTOR


def _length(targets: Iterable[Target]) -> int:
    return sum(target.length for target in targets)


def plan_state(found: Durable, making: Making, device: str, target: str) -> StoreSteps:
    """The steps that make and mount the state file system. Raises NotReady, Refused."""
    if found.mounted:
        return ()
    mounting = MountState(device, target)
    if found.label == names.STATE_LABEL:
        return (mounting,)
    if found.foreign:
        raise Refused(f"{device} is not empty", why=f"it holds {found.foreign}", hint="wipe the disks and begin again")
    if making is Making.FORBIDDEN:
        raise NotReady("there is no state file system", hint="run the role clone_store")
    return MakeState(device), mounting


def plan_pool(found: Durable, device: str, target: str) -> StoreSteps:
    """The steps that bring the pool up; the state file system is mounted already, and says how the pool was left.

    Raises Unhealthy when metadata that was used is blank: the kernel would begin a new pool over the data.
    """
    if found.pool:
        return (GrowPool(found.gained),) if found.gained > 0 else ()
    if found.repairing:
        raise Unhealthy("a repair of the pool's metadata was cut off", hint="run `hatchery-store repair`: it goes on")
    if found.blank_metadata and found.used:
        why = f"{device} begins with zeros although a pool was on it"
        raise Unhealthy("the pool's metadata is gone", why=why, hint=_REPAIR)
    steps: StoreSteps = ()
    if not found.clean and not found.blank_metadata:
        steps = (CheckMetadata(device),)
    if not found.data:
        steps = (*steps, ActivateData())
    return (*steps, ActivatePool(target))


def verify(machine: Machine, wanted: StoreConfig) -> None:
    """Compare the running pool's table with what the rules ask for. Raises Unhealthy (rules 3, 4, 13)."""
    wrong = wrong_features(machine, wanted)
    if wrong:
        raise Unhealthy("the pool breaks the store's rules", why="; ".join(wrong), hint="stop and start the store")


def wrong_features(machine: Machine, wanted: StoreConfig) -> tuple[str, ...]:
    """What is wrong in the running pool's table, in words."""
    return broken_rules(machine.dm.table(POOL), wanted.block_kib * KIB)


RULES = {
    "new blocks are not zeroed": 3,
    "a full pool does not answer at once": 4,
    "discards go through to the array": 13,
}
"""What can be wrong in a pool's table, and the rule that it breaks."""


def broken_rules(targets: tuple[Target, ...], block_bytes: int) -> tuple[str, ...]:
    """What is wrong in a pool's table, in words; ``RULES`` has the rules."""
    if len(targets) != 1 or targets[0].kind != "thin-pool":
        return ("it is not a thin pool",)
    size, features = thin.parse_pool_table(targets[0].params)
    wrong = []
    if "skip_block_zeroing" in features:
        wrong.append("new blocks are not zeroed")
    if "error_if_no_space" not in features:
        wrong.append("a full pool does not answer at once")
    if "no_discard_passdown" not in features:
        wrong.append("discards go through to the array")
    if size * SECTOR != block_bytes:
        wrong.append(f"its blocks have {size * SECTOR // KIB} KiB instead of {block_bytes // KIB}")
    return tuple(wrong)


def mark_clean(target: Path) -> None:
    """Record, on stable storage, that the pool was shut down in order."""
    marks.write(target / _CLEAN)


def mark_unclean(target: Path) -> None:
    """Let the next start check the metadata."""
    marks.remove(target / _CLEAN)


def sound(machine: Machine) -> bool:
    """Whether the active pool has had no trouble with its metadata, so that an orderly stop needs no check."""
    status = machine.dm.status(POOL)
    if len(status) != 1 or status[0].kind != "thin-pool":
        return False
    found = thin.parse_pool_status(status[0].params)
    return found.mode in (PoolMode.READ_WRITE, PoolMode.OUT_OF_DATA_SPACE) and not found.needs_check


def quiet(machine: Machine) -> None:
    """Let no retry layer hold I/O any longer, so that nothing that is stopped has to wait for it."""
    for entry in machine.dm.list():
        found = names.parse_layer(entry.name)
        if found is not None and found[0] is names.Layer.CLONE:
            with contextlib.suppress(HatcheryError):
                machine.dm.message(entry.name, "fail_if_no_path")
