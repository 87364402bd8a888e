"""Names of everything that the store makes: partitions, arrays, device-mapper devices."""

from enum import StrEnum

from appliance.errors import InvalidInput
from appliance.model import MAX_THIN_ID
from appliance.model import PoolName as PoolName

HOMEHOST = "hatchery"
BACKEND = "backend"
META = "meta"
CACHE = "cache"

PART_META = "hatchery-meta"
PART_CACHE = "hatchery-cache"
PART_FAST = "hatchery-fast"
PART_DATA = "hatchery-data"
"""The first; what the array grew by later is ``hatchery-data-2`` and so on."""

PART_POOL_META = "hatchery-pool-meta"
PART_STATE = "hatchery-state"

STATE_LABEL = "hatchery-state"
"""Label of the state file system; set last, so that it also says that the file system is complete."""

PREFIX = "hatchery-"
UUID_PREFIX = "HATCHERY-"


class Layer(StrEnum):
    """The kinds of device-mapper devices that stand for one thin volume, those above others first."""

    CLONE = "clone"
    THIN = "thin"
    EPHEMERAL = "ephemeral"
    TEMPLATE = "template"
    FETCHING = "fetching"
    SOURCE = "source"
    STAGING = "staging"
    PROBE = "probe"


EXPORTED = (Layer.CLONE, Layer.EPHEMERAL)
"""The layers that clients get to see: of a durable and of an ephemeral clone."""


def array(name: str) -> str:
    """The name in an array's superblock: ``hatchery:backend``."""
    return f"{HOMEHOST}:{name}"


def parse_data(name: str) -> int | None:
    """Which of the backend's data partitions this is, from 1 on, or None when it is not one."""
    if name == PART_DATA:
        return 1
    number = name.removeprefix(f"{PART_DATA}-")
    return int(number) if number != name and number.isdecimal() and int(number) > 1 else None


def data(number: int) -> str:
    """Name of the backend's data partition of that number, from 1 on."""
    return PART_DATA if number == 1 else f"{PART_DATA}-{number}"


def layer(kind: Layer, thin_id: int) -> str:
    """A volume's device-mapper name: ``hatchery-clone-7``. Raises InvalidInput for an impossible id."""
    if not 0 <= thin_id <= MAX_THIN_ID:
        raise InvalidInput(f"{thin_id} is not a thin device id", why=f"ids go from 0 to {MAX_THIN_ID}")
    return f"{PREFIX}{kind}-{thin_id}"


def pool(name: str) -> str:
    """A pool's device-mapper name: ``hatchery-pool-durable``."""
    return f"{PREFIX}pool-{name}"


def pool_data(name: str) -> str:
    """The device that a pool keeps its data on: ``hatchery-pool-durable-data``."""
    return f"{pool(name)}-data"


def pool_metadata(name: str) -> str:
    """The device that a pool keeps its metadata on, where that is one of ours: ``hatchery-pool-fast-meta``."""
    return f"{pool(name)}-meta"


def uuid(name: str) -> str:
    """The device-mapper uuid of one of our names; udev's rules know our devices by it."""
    return UUID_PREFIX + name.removeprefix(PREFIX)


def parse_layer(name: str) -> tuple[Layer, int] | None:
    """The layer and thin id that a device-mapper name stands for, or None if it is not a volume of ours."""
    kind, dash, number = name.removeprefix(PREFIX).rpartition("-")
    if not name.startswith(PREFIX) or not dash or kind not in set(Layer) or not number.isdecimal():
        return None
    return Layer(kind), int(number)
