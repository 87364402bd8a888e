"""The device-mapper devices of a pool's volumes, one by one: made, found, or made anew. Sizes in bytes."""

from pathlib import Path

from appliance.errors import InvalidInput, Refused, Unhealthy
from appliance.host import thin
from appliance.host.dm import Dm, Target
from appliance.model import SECTOR, Access
from appliance.reconcile.volumes import Devices, FoundDevice
from appliance.store import names
from appliance.store.names import Layer

CLOSE_DEADLINE = 3.0
"""Seconds that somebody may take to let go of a device."""

_STANDS_FOR = {
    Layer.CLONE: Devices.EXPORTED,
    Layer.THIN: Devices.EXPORTED,
    Layer.EPHEMERAL: Devices.EXPORTED,
    Layer.TEMPLATE: Devices.IMPORT,
    Layer.STAGING: Devices.STAGING,
}
"""What the top layer that is there says of a volume's devices. A thin layer alone is never the whole."""


class Layers:
    """The devices of the volumes of the pool whose device is called ``pool``."""

    def __init__(self, dm: Dm, pool: str) -> None:
        self._dm = dm
        self._pool = pool

    def table_of(self, thin_id: int, size: int, origin: Path | None = None) -> Target:
        """The table of a volume."""
        return thin.thin_table(self._dm.path(self._pool), checked(thin_id), sectors(size), origin)

    def activate(self, layer: Layer, thin_id: int, size: int, access: Access) -> Path:
        """A volume's device, made or found. Raises NotFound, InUse."""
        return self.ensure(names.layer(layer, thin_id), self.table_of(thin_id, size), access)

    def over(self, layer: Layer, thin_id: int, size: int, access: Access, origin: Path | None) -> Path:
        """A volume's device over that of its template. Raises Refused when that can be written (rules 2 and 11)."""
        if origin is None:
            return self.activate(layer, thin_id, size, access)
        parsed, info = names.parse_layer(origin.name), self._dm.find(origin.name)
        if parsed is None or parsed[0] is not Layer.TEMPLATE or info is None or not info.read_only:
            raise Refused(
                f"{origin} cannot be the origin of a clone",
                why="it is not the device of a sealed template",
                hint="seal the template first",
            )
        table = self.table_of(thin_id, size, self._dm.path(origin.name))
        return self.ensure(names.layer(layer, thin_id), table, access, str(info.number))

    def ensure(self, name: str, target: Target, access: Access, origin: str = "") -> Path:
        """The device, made or found; one that differs from what is wanted is made anew. Raises NotFound, InUse.

        ``origin`` is the number of the external origin that it must have.
        """
        info = self._dm.find(name)
        if info is not None:
            table = self._dm.table(name)
            same = [(line.length, line.kind) for line in table] == [(target.length, target.kind)]
            same = same and (target.kind != "thin" or thin.parse_origin(table[0].params) == origin)
            if same and info.read_only is (access is Access.READ_ONLY):
                # Held by somebody who died before he let it go on: its table is what it should be.
                return self._dm.resume(name) if info.suspended else self._dm.path(name)
            self._dm.remove(name, deadline=CLOSE_DEADLINE)
        return self._dm.create(name, names.uuid(name), [target], access=access)

    def found(self, thin_id: int, layers: frozenset[Layer]) -> FoundDevice | None:
        """What the layers that are there make of a volume; None of what goes at this moment."""
        for layer, kind in _STANDS_FOR.items():
            if layer not in layers:
                continue
            name = names.layer(layer, thin_id)
            info = self._dm.find(name)
            if info is None:
                return None
            if layer is Layer.TEMPLATE and info.read_only:
                kind = Devices.FETCHING if Layer.FETCHING in layers else Devices.SEALED
            table = self._dm.table(name)
            size = sum(line.length for line in table) * SECTOR
            wanted = {Layer.CLONE, Layer.THIN} if layer in (Layer.CLONE, Layer.THIN) else {layer}
            wanted |= {Layer.FETCHING, Layer.SOURCE} if kind is Devices.FETCHING else set()
            # An ephemeral clone that was stopped when its drive died answers everything with an error.
            works = not info.suspended and all(line.kind != "error" for line in table)
            if layer is Layer.CLONE and works and Layer.THIN in layers:
                # It is the lower one that is held for a snapshot.
                below = self._dm.find(names.layer(Layer.THIN, thin_id))
                works = below is not None and not below.suspended
            return FoundDevice(kind, size, whole=layers == frozenset(wanted) and works)
        return None


def only(targets: tuple[Target, ...], kind: str, name: str) -> Target:
    """The one line of a device's table or status. Raises Unhealthy when it is another one."""
    if len(targets) != 1 or targets[0].kind != kind:
        found = ", ".join(target.kind for target in targets) or "no table"
        raise Unhealthy(f"{name} is not a {kind} device", why=f"it has {found}")
    return targets[0]


def checked(thin_id: int) -> int:
    """The id, if it can be one. Raises InvalidInput."""
    names.layer(Layer.THIN, thin_id)
    return thin_id


def sectors(size: int) -> int:
    """A volume's size in sectors. Raises InvalidInput."""
    if size <= 0 or size % SECTOR:
        raise InvalidInput(f"{size} is not the size of a volume", why=f"it must be a multiple of {SECTOR} bytes")
    return size // SECTOR
