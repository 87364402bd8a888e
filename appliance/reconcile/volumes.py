"""Volumes: which there should be, which there are, and the steps from one to the other.

One plan serves all: an operation plans for the volumes that it makes or removes, a start and a dry run for all that the
catalog knows. What is wanted comes from the catalog, what was found from the kernel; this module knows neither.

Order of the steps: volumes are made, others deleted, the pools' transaction ids moved on (rule 9), devices brought up.
A volume that nothing wants is never touched: it is an orphan, for people or the collector to judge.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from appliance.errors import NotFound
from appliance.model import Access, PoolName
from appliance.reconcile import Description


class Birth(StrEnum):
    """How a volume comes to be when the pool has it not."""

    NEVER = "never"
    """It was made once: when it is missing, it is lost."""
    EMPTY = "empty"
    SNAPSHOT = "snapshot"
    MOMENT = "moment"
    """A snapshot of a volume that may be written at this moment: it is held still for it (rule 11)."""
    UNDER_WAY = "under way"
    """Somebody is making it at this moment: it is let alone, whether it is there or not."""


class Devices(StrEnum):
    """What stands for a volume in ``/dev/mapper``."""

    NONE = "none"
    SEALED = "sealed"
    """A template's device, read-only."""
    IMPORT = "import"
    """A template's device that its image is written to."""
    STAGING = "staging"
    FETCHING = "fetching"
    """A template's device, read-only, that shows what is in the volume already and what another server still has."""
    EXPORTED = "exported"
    """A durable clone with its retry layer, or an ephemeral clone over its template."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The template that a clone comes from; ``size`` in bytes. It is ``whole`` unless it is still being fetched."""

    thin_id: int
    size: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that there should be, ``size`` in bytes. ``owner`` is whose it is, in words.

    ``origin`` is what a snapshot is taken of, and what an ephemeral clone's device shows where nothing was written.
    So does that of an ``overlay``, which is a durable clone without a snapshot.
    """

    thin_id: int
    pool: PoolName
    owner: str
    size: int
    devices: Devices = Devices.NONE
    birth: Birth = Birth.NEVER
    origin: Origin | None = None
    overlay: bool = False


@dataclass(frozen=True, slots=True)
class Doomed:
    """A volume that there should not be any more, and why."""

    thin_id: int
    pool: PoolName
    why: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that is concerned, and the transaction id that the catalog has for each pool (None: never any)."""

    volumes: tuple[Volume, ...] = ()
    doomed: tuple[Doomed, ...] = ()
    transactions: Mapping[PoolName, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundPool:
    """A pool that is there: its transaction id, and which of the volumes that are concerned it has."""

    transaction_id: int
    thin_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class FoundDevice:
    """The devices of one volume: what kind, all of them or only some, how large (bytes)."""

    devices: Devices
    size: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """What the kernel has. A pool that is not there is left out."""

    pools: Mapping[PoolName, FoundPool]
    devices: Mapping[int, FoundDevice] = field(default_factory=dict)


class Pool(Protocol):
    """What steps need of a pool; see ``appliance.store.pool``."""

    def create_thin(self, thin_id: int) -> None:
        """Make an empty volume."""

    def create_snapshot(self, thin_id: int, origin: int) -> None:
        """Make a snapshot of a sealed volume."""

    def still(self, thin_id: int) -> AbstractContextManager[None]:
        """Hold a volume's I/O for as long as it takes."""

    def delete(self, thin_id: int) -> None:
        """Remove an inactive volume. Raises NotFound."""

    def set_transaction_id(self, old: int, new: int) -> None:
        """Compare and swap."""

    def activate_template(self, thin_id: int, size: int, access: Access) -> Path:
        """Make a template's device."""

    def activate_fetching(self, thin_id: int, size: int) -> Path:
        """Make the devices of a template that is being fetched; the one to write to."""

    def origin(self, thin_id: int, size: int, *, whole: bool) -> Path:
        """The template's device that clones show. Raises NotReady for one that is being fetched and has none."""

    def activate_staging(self, thin_id: int, size: int) -> Path:
        """Make a staging volume's device."""

    def activate_clone(self, thin_id: int, size: int, origin: Path | None = None) -> Path:
        """Make a durable clone's devices; an overlay shows ``origin`` where nothing was written."""

    def activate_ephemeral(self, thin_id: int, size: int, origin: Path) -> Path:
        """Make an ephemeral clone's device."""

    def deactivate(self, thin_id: int) -> None:
        """Remove a volume's devices."""


class Machine(Protocol):
    """What steps are applied to."""

    def pool_of(self, name: PoolName) -> Pool:
        """The pool of that name. Raises NotReady when it is not there."""


# --- steps


@dataclass(frozen=True, slots=True)
class Make:
    """Make a volume."""

    volume: Volume

    def describe(self) -> Description:
        """See Step."""
        of = "empty" if self.volume.origin is None else f"as a snapshot of volume {self.volume.origin.thin_id}"
        return Description("make", _title(self.volume), "empty" if self.volume.birth is Birth.EMPTY else of)

    def apply(self, machine: Machine) -> None:
        """See Step."""
        pool = machine.pool_of(self.volume.pool)
        origin = self.volume.origin
        if self.volume.birth is Birth.SNAPSHOT and origin is not None:
            pool.create_snapshot(self.volume.thin_id, origin.thin_id)
        elif self.volume.birth is Birth.MOMENT and origin is not None:
            with pool.still(origin.thin_id):
                pool.create_snapshot(self.volume.thin_id, origin.thin_id)
        else:
            pool.create_thin(self.volume.thin_id)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a volume with its devices; fine when the pool has none of that id."""

    doomed: Doomed

    def describe(self) -> Description:
        """See Step."""
        return Description("delete", f"volume {self.doomed.thin_id} in the {self.doomed.pool} pool", self.doomed.why)

    def apply(self, machine: Machine) -> None:
        """See Step."""
        pool = machine.pool_of(self.doomed.pool)
        pool.deactivate(self.doomed.thin_id)
        try:
            pool.delete(self.doomed.thin_id)
        except NotFound:
            return


@dataclass(frozen=True, slots=True)
class Advance:
    """Move a pool's transaction id on: a compare and swap, which says that nobody else changed the pool."""

    pool: PoolName
    old: int
    new: int

    def describe(self) -> Description:
        """See Step."""
        return Description("move", f"transaction id of the {self.pool} pool", f"from {self.old} to {self.new}")

    def apply(self, machine: Machine) -> None:
        """See Step."""
        machine.pool_of(self.pool).set_transaction_id(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Activate:
    """Bring up the devices of a volume, or make them what they should be."""

    volume: Volume

    def describe(self) -> Description:
        """See Step."""
        return Description("activate", _title(self.volume), f"{self.volume.devices}, {self.volume.size} bytes")

    def apply(self, machine: Machine) -> None:
        """See Step."""
        volume, pool = self.volume, machine.pool_of(self.volume.pool)
        match volume.devices:
            case Devices.SEALED:
                pool.activate_template(volume.thin_id, volume.size, Access.READ_ONLY)
            case Devices.IMPORT:
                pool.activate_template(volume.thin_id, volume.size, Access.READ_WRITE)
            case Devices.STAGING:
                pool.activate_staging(volume.thin_id, volume.size)
            case Devices.FETCHING:
                pool.activate_fetching(volume.thin_id, volume.size)
            case Devices.EXPORTED:
                activate(volume, machine)
            case Devices.NONE:
                pool.deactivate(volume.thin_id)


def activate(clone: Volume, machine: Machine) -> Path:
    """Make a clone's devices, and return the one that is exported. Raises NotReady, NotFound, InUse, Refused."""
    pool, template = machine.pool_of(clone.pool), clone.origin
    if template is None or (clone.pool is PoolName.DURABLE and not clone.overlay):
        return pool.activate_clone(clone.thin_id, clone.size)
    durable = machine.pool_of(PoolName.DURABLE)
    origin = durable.origin(template.thin_id, template.size, whole=template.whole)
    if clone.pool is PoolName.FAST:
        return pool.activate_ephemeral(clone.thin_id, clone.size, origin)
    return pool.activate_clone(clone.thin_id, clone.size, origin)


@dataclass(frozen=True, slots=True)
class Deactivate:
    """Take away the devices of a volume: it should have none, or others."""

    volume: Volume

    def describe(self) -> Description:
        """See Step."""
        return Description("deactivate", _title(self.volume))

    def apply(self, machine: Machine) -> None:
        """See Step."""
        machine.pool_of(self.volume.pool).deactivate(self.volume.thin_id)


Step = Make | Delete | Advance | Activate | Deactivate


# --- the plan


@dataclass(frozen=True, slots=True)
class Orphan:
    """A volume that a pool has and nothing wants."""

    thin_id: int
    pool: PoolName


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A pool whose transaction id is not the catalog's, and no intent explains it: one is older than the other."""

    pool: PoolName
    expected: int
    found: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and what cannot be put right by doing something."""

    steps: tuple[Step, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    missing: tuple[Volume, ...] = ()
    disagreements: tuple[Disagreement, ...] = ()

    @property
    def advances(self) -> dict[PoolName, int]:
        """The transaction ids that the pools are at when the plan was applied, where it moves them."""
        return {step.pool: step.new for step in self.steps if isinstance(step, Advance)}


def plan(wanted: Wanted, found: Found) -> Plan:
    """The steps from what was found to what is wanted. Pure."""
    there = {name: pool.thin_ids for name, pool in found.pools.items()}
    missing = tuple(
        v for v in wanted.volumes if v.birth is Birth.NEVER and v.thin_id not in there.get(v.pool, frozenset())
    )
    made = (Birth.EMPTY, Birth.SNAPSHOT, Birth.MOMENT)
    makes = [Make(v) for v in wanted.volumes if v.birth in made and _absent(v, there)]
    deletes = [Delete(d) for d in wanted.doomed if d.thin_id in there.get(d.pool, frozenset())]
    changed = {make.volume.pool for make in makes} | {delete.doomed.pool for delete in deletes}
    advances = [
        Advance(name, pool.transaction_id, pool.transaction_id + 1)
        for name, pool in found.pools.items()
        if name in changed
    ]
    lost = {volume.thin_id for volume in missing}
    devices = [step for volume in wanted.volumes if volume.thin_id not in lost for step in _devices(volume, found)]
    return Plan(
        steps=(*makes, *deletes, *advances, *devices),
        orphans=tuple(_orphans(wanted, there)),
        missing=missing,
        disagreements=tuple(_disagreements(wanted, found)),
    )


def _absent(volume: Volume, there: Mapping[PoolName, frozenset[int]]) -> bool:
    return volume.thin_id not in there.get(volume.pool, frozenset())


def _devices(volume: Volume, found: Found) -> Iterator[Activate | Deactivate]:
    """The step that makes a volume's devices what they should be, if any."""
    if volume.birth is Birth.UNDER_WAY:
        return
    device = found.devices.get(volume.thin_id)
    if volume.devices is Devices.NONE:
        if device is not None:
            yield Deactivate(volume)
    elif device != FoundDevice(volume.devices, volume.size):
        if device is not None and device.size != volume.size:
            # A layer cannot change its length below the one that stands on it.
            yield Deactivate(volume)
        yield Activate(volume)


def _orphans(wanted: Wanted, there: Mapping[PoolName, frozenset[int]]) -> Iterator[Orphan]:
    known = {(volume.pool, volume.thin_id) for volume in wanted.volumes}
    known |= {(doomed.pool, doomed.thin_id) for doomed in wanted.doomed}
    for pool, thin_ids in there.items():
        for thin_id in sorted(thin_ids):
            if (pool, thin_id) not in known:
                yield Orphan(thin_id, pool)


def _disagreements(wanted: Wanted, found: Found) -> Iterator[Disagreement]:
    # A pool may be one ahead when a change's result was not recorded any more: then its intent is still open.
    open_intents = {doomed.pool for doomed in wanted.doomed}
    open_intents |= {volume.pool for volume in wanted.volumes if volume.birth is not Birth.NEVER}
    for name, pool in found.pools.items():
        expected = wanted.transactions.get(name)
        allowed = {expected, expected + 1} if expected is not None and name in open_intents else {expected}
        if expected is not None and pool.transaction_id not in allowed:
            yield Disagreement(name, expected, pool.transaction_id)


def _title(volume: Volume) -> str:
    return f"volume {volume.thin_id} of {volume.owner} in the {volume.pool} pool"
