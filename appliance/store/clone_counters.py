"""What clones' devices have done: for a few of them device by device, for many from lists of all devices at once."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

from appliance.host import block
from appliance.host.dm import Dm
from appliance.host.dm_ioctl import Info
from appliance.store import names

FEW = 8
"""Up to so many clones it is quicker to ask for each: the lists have a line for every device that there is."""


@dataclass(frozen=True, slots=True)
class DeviceCounters:
    """Block statistics of one device, exact at once."""

    name: str
    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    discards: int
    busy_millis: int


def find(dm: Dm, thin_id: int) -> Info | None:
    """The device that a clone is exported by, of either kind, or None while it is not active."""
    found = (dm.find(names.layer(layer, thin_id)) for layer in names.EXPORTED)
    return next((info for info in found if info is not None), None)


def read(dm: Dm, thin_ids: Iterable[int]) -> dict[int, DeviceCounters]:
    """The counters of those that are active. Raises CannotTell."""
    wanted = frozenset(thin_ids)
    return _each(dm, wanted) if len(wanted) <= FEW else _all(dm, wanted)


def _each(dm: Dm, wanted: frozenset[int]) -> dict[int, DeviceCounters]:
    found = {}
    for thin_id in wanted:
        info = find(dm, thin_id)
        device = block.by_number(str(info.number)) if info is not None else None
        if device is not None:
            found[thin_id] = DeviceCounters(device.name, *astuple(block.statistics(device)))
    return found


def _all(dm: Dm, wanted: frozenset[int]) -> dict[int, DeviceCounters]:
    every = block.every_statistics()
    found = {}
    for entry in dm.list():
        layer = names.parse_layer(entry.name)
        if layer is None or layer[0] not in names.EXPORTED or layer[1] not in wanted:
            continue
        counted = every.get(str(entry.number))
        if counted is not None:
            name, statistics = counted
            found[layer[1]] = DeviceCounters(name, *astuple(statistics))
    return found
