"""The two pools: thin volumes and the device-mapper devices that stand for them. Sizes in bytes.

durable
    hatchery-template-ID                   read-only once sealed
    hatchery-clone-ID -> hatchery-thin-ID  the retry layer, which is what gets exported, over the thin volume
    hatchery-staging-ID                    scratch space of an import
    while a template is fetched from another server:
    hatchery-template-ID -> hatchery-fetching-ID -> hatchery-source-ID -> /dev/nbdN
                                           read-only; what is in its volume; what is not, or errors while it is away
fast
    hatchery-ephemeral-ID                  exported as it is; what it does not hold is read from hatchery-template-ID

Ids come from one sequence for both pools, so that each of these names stands for one volume.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from appliance.errors import InUse, InvalidInput, NotFound, NotReady, Refused, Unhealthy
from appliance.fence import Fence
from appliance.host import block, dm_stats, multipath, thin
from appliance.host.dm import Dm, Slot
from appliance.host.thin import METADATA_BLOCK, PoolMode
from appliance.model import MIB, SECTOR, Access, Extent
from appliance.reconcile.volumes import FoundDevice
from appliance.run import Runner
from appliance.store import emptying, fetching, metadata, names, places
from appliance.store.layers import CLOSE_DEADLINE, Layers, checked, only, sectors
from appliance.store.names import Layer, PoolName

__all__ = ["Pool", "PoolMode", "PoolName", "PoolStatus"]

_EMPTY_FIRST = 256 * MIB
_THIN_LAYERS = {
    PoolName.DURABLE: (Layer.THIN, Layer.FETCHING, Layer.TEMPLATE, Layer.STAGING),
    PoolName.FAST: (Layer.EPHEMERAL,),
}
_LAYERS = {
    PoolName.DURABLE: frozenset(Layer) - {Layer.EPHEMERAL},
    PoolName.FAST: frozenset({Layer.EPHEMERAL}),
}


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """How a pool is. ``metadata_*`` and ``data_*`` in bytes."""

    transaction_id: int
    data_used: int
    data_total: int
    metadata_used: int
    metadata_total: int
    block_bytes: int
    mode: PoolMode
    needs_check: bool
    features: frozenset[str]

    @property
    def data_free(self) -> int:
        """Bytes of data that still fit."""
        return self.data_total - self.data_used


class Pool:
    """A thin pool that is active. ``kind`` says which of the two, ``name`` is its device-mapper name."""

    def __init__(self, dm: Dm, kind: PoolName, runner: Runner, block_bytes: int) -> None:
        self._dm = dm
        self._runner = runner
        self.kind = kind
        self.name = names.pool(kind)
        self._layers = Layers(dm, self.name)
        self.block_bytes = block_bytes

    @classmethod
    def open(cls, dm: Dm, name: str = PoolName.DURABLE, runner: Runner | None = None) -> Self:
        """The pool of that name, ``durable`` or ``fast``. Raises NotReady when it is not active."""
        kind = PoolName(name)
        try:
            target = only(dm.table(names.pool(kind)), "thin-pool", names.pool(kind))
        except NotFound as error:
            raise NotReady(f"the {kind} pool is not active", hint="see `hatchery-store status`") from error
        block, _ = thin.parse_pool_table(target.params)
        return cls(dm, kind, runner or Runner(), block * SECTOR)

    def identity(self) -> str:
        """Which pool of that name it is: made anew, on the same drive or on another one, it has another identity.

        Empty for the durable pool, which is never replaced. Raises NotReady when the pool is gone.
        """
        info = self._dm.find(self.name)
        if info is None:
            raise NotReady(f"{self.name} is not active", hint="see `hatchery-store status`")
        return info.uuid.removeprefix(names.uuid(self.name)).removeprefix("-")

    def dead(self) -> str:
        """Why nothing can be kept in the pool any more; empty while it lives, a full one included."""
        if self.kind is PoolName.FAST:
            return Fence(self._dm).look()
        try:
            mode = self.status().mode
        except NotReady as error:
            return error.what
        return f"the pool is {mode}" if mode is PoolMode.FAILED else ""

    def status(self) -> PoolStatus:
        """How the pool is, without making it commit. Raises NotReady when it is gone, CannotTell."""
        try:
            line = thin.parse_pool_status(only(self._dm.status(self.name), "thin-pool", self.name).params)
            table = only(self._dm.table(self.name), "thin-pool", self.name)
        except NotFound as error:
            raise NotReady(f"{self.name} is not active", hint="see `hatchery-store status`") from error
        block, features = thin.parse_pool_table(table.params)
        return PoolStatus(
            transaction_id=line.transaction_id,
            data_used=line.data_used * block * SECTOR,
            data_total=line.data_total * block * SECTOR,
            metadata_used=line.metadata_used * METADATA_BLOCK,
            metadata_total=line.metadata_total * METADATA_BLOCK,
            block_bytes=block * SECTOR,
            mode=line.mode,
            needs_check=line.needs_check,
            features=features,
        )

    # Thin devices in the pool's metadata

    def create_thin(self, thin_id: int) -> None:
        """Make an empty thin device. Raises AlreadyExists."""
        self._message(f"create_thin {checked(thin_id)}")

    def create_snapshot(self, thin_id: int, origin: int) -> None:
        """Make ``thin_id`` a snapshot of ``origin``. Raises AlreadyExists, NotFound.

        Raises Refused while the origin is active, writable and running: the kernel would take a snapshot without
        what is in flight (rule 11).
        """
        for layer in _THIN_LAYERS[self.kind]:
            info = self._dm.find(names.layer(layer, origin))
            if info is not None and not info.read_only and not info.suspended:
                raise Refused(
                    f"cannot make a snapshot of thin device {origin}",
                    why=f"{info.name} may be written at this moment",
                    hint="seal the template, or suspend the volume",
                )
        self._message(f"create_snap {checked(thin_id)} {checked(origin)}")

    @contextmanager
    def still(self, thin_id: int) -> Iterator[None]:
        """Hold a clone's I/O: what is under way ends first, what comes waits. Fine when it has no device.

        It is for the moment of a snapshot: its guest is paused meanwhile. A process that dies in it leaves the clone
        held; the next one that makes its devices what they should be lets it go on.
        """
        name = names.layer(_THIN_LAYERS[self.kind][0], thin_id)
        if self._dm.find(name) is None:
            yield
            return
        try:
            self._dm.suspend(name)
            yield
        finally:
            self._dm.resume(name)

    def delete(self, thin_id: int) -> None:
        """Delete a thin device that is not active and free its blocks. Raises NotFound, InUse.

        A large one is emptied in pieces first, because the pool stands still while it deletes (rule 14).
        """
        self._refuse_active(thin_id)
        line = self._line(thin_id)
        if thin.parse_mapped(line) > _EMPTY_FIRST:
            self._empty(thin_id, thin.parse_end(line))
        self._message(f"delete {checked(thin_id)}")

    def empty(self, thin_id: int, go_on: Callable[[], bool]) -> bool:
        """Give back the blocks of a volume that is not active, in pieces; ``go_on`` is asked after each.

        False when it said no; then the rest is still there. Raises NotFound, InUse, Unhealthy.
        """
        self._refuse_active(thin_id)
        return self._empty(thin_id, thin.parse_end(self._line(thin_id)) or self.block_bytes, go_on)

    def held_bytes(self, thin_id: int) -> int:
        """Bytes mapped by a volume, active or not, blocks shared with others included. Raises NotFound."""
        try:
            return self.mapped_bytes(thin_id)
        except NotFound:
            return thin.parse_mapped(self._line(thin_id))

    def usage(self) -> dict[int, thin.Usage]:
        """What each volume maps, and what of it no other does. Slow: reads all mappings. Raises CannotTell, InUse."""
        with metadata.snapshot(self._dm, self.name) as device:
            found = thin.usage(self._runner, device)
        return {each.thin_id: each.times(self.block_bytes) for each in found}

    def places(self, thin_id: int, extents: Iterable[Extent]) -> tuple[Path, tuple[Extent, ...]]:
        """Where extents of a sealed volume lie: the pool's data device, and extents of it; see ``places``.

        Raises InUse, NotFound, CannotTell.
        """
        return self._dm.path(names.pool_data(self.kind)), places.find(
            self._runner, self._dm, self.name, thin_id, extents
        )

    def requests(self) -> int:
        """Reads and writes of the pool's data device so far: whether it rests. Raises NotReady."""
        device = block.find(self._dm.path(names.pool_data(self.kind)))
        if device is None:
            raise NotReady(f"{self.name} is not active", hint="see `hatchery-store status`")
        found = block.statistics(device)
        return found.reads + found.writes

    def exists(self, thin_id: int) -> bool:
        """Whether the pool's metadata has the thin device: asked of the kernel, by a trial load of a table."""
        if any(self._dm.find(names.layer(layer, thin_id)) for layer in _THIN_LAYERS[self.kind]):
            return True
        return self._probe(thin_id) is not None

    def set_transaction_id(self, old: int, new: int) -> None:
        """Compare and swap the pool's transaction id. Raises Unhealthy when it is not ``old``."""
        try:
            self._message(f"set_transaction_id {old} {new}")
        except Unhealthy as error:
            raise Unhealthy(
                f"cannot move the pool's transaction id from {old} to {new}",
                why=f"it is {self.status().transaction_id}",
                hint="pool and catalog disagree: restart hatcheryd, which reconciles them",
            ) from error

    def thin_ids(self) -> frozenset[int]:
        """All thin devices in the pool. Slow: for reconciling only. Raises CannotTell, InUse."""
        with metadata.snapshot(self._dm, self.name) as device:
            return thin.listed_ids(self._runner, device)

    # Volumes

    def activate_template(self, thin_id: int, size: int, access: Access) -> Path:
        """The template's device: writable while its image is being imported, read-only once sealed.

        One that was being fetched gets the table of a sealed one under whoever has it open: the caller knows that all
        of it is in the volume. What it was fetched by goes.
        """
        return fetching.seal(self._dm, thin_id, self._layers.table_of(thin_id, size)) or self._layers.activate(
            Layer.TEMPLATE, thin_id, size, access
        )

    def activate_fetching(self, thin_id: int, size: int) -> Path:
        """The devices of a template that is being fetched; the one to write to. See ``store.fetching``."""
        return fetching.activate(self._dm, thin_id, lambda origin: self._layers.table_of(thin_id, size, origin))

    def show_source(self, thin_id: int, source: Path | None) -> None:
        """Read from ``source`` what is not in the volume of a template that is being fetched; from none, errors.

        Raises NotFound.
        """
        fetching.show_source(self._dm, thin_id, source)

    def origin(self, thin_id: int, size: int, *, whole: bool) -> Path:
        """The template's device that clones show. One that is not whole is never made here: it would read as zeros.

        Raises NotReady when there is none then.
        """
        if whole:
            return self.activate_template(thin_id, size, Access.READ_ONLY)
        return fetching.shown(self._dm, thin_id)

    def activate_still(self, thin_id: int, size: int, origin: Path | None) -> Path:
        """A read-only device of a clone's snapshot, over ``origin`` if that is the snapshot of an overlay."""
        return self._layers.over(Layer.TEMPLATE, thin_id, size, Access.READ_ONLY, origin)

    def activate_staging(self, thin_id: int, size: int) -> Path:
        """Scratch space of an import."""
        return self._layers.activate(Layer.STAGING, thin_id, size, Access.READ_WRITE)

    def activate_clone(self, thin_id: int, size: int, origin: Path | None = None) -> Path:
        """The clone's device to export: its retry layer (rule 7), with a latency histogram on it.

        ``origin`` is what an overlay shows where nothing was written, as ``activate_ephemeral`` has it.
        """
        below = self._layers.over(Layer.THIN, thin_id, size, Access.READ_WRITE, origin)
        name = names.layer(Layer.CLONE, thin_id)
        path = self._layers.ensure(name, multipath.retry_table(below, sectors(size)), Access.READ_WRITE)
        dm_stats.create(self._dm, name)
        return path

    def activate_ephemeral(self, thin_id: int, size: int, origin: Path) -> Path:
        """The ephemeral clone's device to export, with a latency histogram on it; only in the fast pool.

        ``origin`` is the device of its sealed template, which may be smaller. Raises Refused when that is anything
        else or can be written (rules 2 and 11): what changes below a clone changes in the clone.
        """
        if self.kind is not PoolName.FAST:
            raise InvalidInput(f"the {self.kind} pool has no ephemeral clones", why="they are in the fast pool")
        path = self._layers.over(Layer.EPHEMERAL, thin_id, size, Access.READ_WRITE, origin)
        dm_stats.create(self._dm, names.layer(Layer.EPHEMERAL, thin_id))
        return path

    def deactivate(self, thin_id: int) -> None:
        """Take away all devices of a volume; fine when there are none. Raises InUse, naming the one that is open."""
        for layer in Layer:
            name = names.layer(layer, thin_id)
            info = self._dm.find(name)
            if info is None:
                continue
            try:
                self._dm.remove(name, deadline=CLOSE_DEADLINE)
            except InUse as error:
                raise InUse(
                    f"cannot deactivate thin device {thin_id}",
                    why=f"/dev/mapper/{name} is open",
                    hint="detach the clone from its client first",
                ) from error

    def active(self) -> dict[int, frozenset[Layer]]:
        """The layers of this pool's volumes that are active now, by thin id."""
        found: dict[int, set[Layer]] = {}
        for entry in self._dm.list():
            parsed = names.parse_layer(entry.name)
            if parsed is not None and parsed[0] in _LAYERS[self.kind]:
                found.setdefault(parsed[1], set()).add(parsed[0])
        return {thin_id: frozenset(layers) for thin_id, layers in found.items()}

    def devices(self) -> dict[int, FoundDevice]:
        """The devices of this pool's volumes that are there now, by thin id."""
        found = {}
        for thin_id, layers in self.active().items():
            device = self._layers.found(thin_id, layers - {Layer.PROBE})
            if device is not None:
                found[thin_id] = device
        return found

    def mapped_bytes(self, thin_id: int) -> int:
        """Bytes mapped by an active volume, blocks shared with others included. Raises NotFound.

        Of an ephemeral clone these are the blocks that it has written: the template's are in the other pool.
        """
        for layer in _THIN_LAYERS[self.kind]:
            name = names.layer(layer, thin_id)
            # Asked for at once, for all clones: to look whether it is there before would be as much again.
            with suppress(NotFound):
                return thin.parse_mapped(only(self._dm.status(name), "thin", name).params)
        raise NotFound(f"thin device {thin_id} is not active", why="it has no device now")

    # Inside

    def _message(self, text: str) -> None:
        self._dm.message(self.name, text)

    def _refuse_active(self, thin_id: int) -> None:
        for layer in Layer:
            name = names.layer(layer, thin_id)
            if self._dm.find(name) is not None:
                raise InUse(f"cannot delete thin device {thin_id}", why=f"{name} is active", hint="deactivate it first")

    def _line(self, thin_id: int) -> str:
        line = self._probe(thin_id)
        if line is None:
            raise NotFound(f"there is no thin device {thin_id}", why="the pool has none of that id")
        return line

    def _probe(self, thin_id: int) -> str | None:
        """The status line of a thin device that is not active, or None when the metadata has no such device."""
        probe = names.layer(Layer.PROBE, thin_id)
        self._dm.remove(probe)
        self._dm.create_empty(probe, names.uuid(probe))
        try:
            self._dm.load(probe, [self._layers.table_of(thin_id, self.block_bytes)])
            return only(self._dm.status(probe, slot=Slot.INACTIVE), "thin", probe).params
        except NotFound:
            if self._dm.find(self.name) is None:
                raise
            return None
        finally:
            self._dm.remove(probe)

    def _empty(self, thin_id: int, size: int, go_on: Callable[[], bool] = lambda: True) -> bool:
        layer = _THIN_LAYERS[self.kind][0]
        path = self._layers.activate(layer, thin_id, size, Access.READ_WRITE)
        try:
            return emptying.discard(path, size, go_on)
        finally:
            self._dm.remove(names.layer(layer, thin_id), deadline=CLOSE_DEADLINE)
