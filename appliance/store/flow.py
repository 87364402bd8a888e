"""How much the backend has read and the cache has taken in, for those who ask hundreds of times a second."""

from appliance.errors import HatcheryError
from appliance.host import block
from appliance.store import cache
from appliance.store.machine import Machine


class Flow:
    """The devices are looked up once; to ask costs the reading of two small files."""

    def __init__(self, machine: Machine) -> None:
        """Raises NotReady when the cached devices do not run."""
        self._backings = tuple(found.backing for found in cache.devices(machine))
        try:
            self._fast = cache.fast_device(machine)
        except HatcheryError:
            self._fast = None

    def bytes(self) -> tuple[int, int]:
        """Bytes read from the backend and written to the cache so far; 0 of a cache that is not there.

        Raises CannotTell when a device has gone.
        """
        read = sum(block.statistics(backing).read_bytes for backing in self._backings)
        return read, block.statistics(self._fast).write_bytes if self._fast is not None else 0
