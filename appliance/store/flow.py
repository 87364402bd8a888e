"""How much the backend has read and the cache has taken in, for those who ask hundreds of times a second."""

from appliance.errors import HatcheryError
from appliance.host.block import OpenStatistics
from appliance.store import cache
from appliance.store.machine import Machine


class Flow:
    """The devices are looked up once, and their statistics stay open for as long as this is there."""

    def __init__(self, machine: Machine) -> None:
        """Raises NotReady when the cached devices do not run, CannotTell."""
        self._backings = tuple(OpenStatistics(found.backing) for found in cache.devices(machine))
        self._fast = _fast(machine)

    def bytes(self) -> tuple[int, int]:
        """Bytes read from the backend and written to the cache so far; 0 of a cache that is not there.

        Raises CannotTell when a device has gone.
        """
        read = sum(backing.read().read_bytes for backing in self._backings)
        return read, self._fast.read().write_bytes if self._fast is not None else 0


def _fast(machine: Machine) -> OpenStatistics | None:
    try:
        device = cache.fast_device(machine)
        return OpenStatistics(device) if device is not None else None
    except HatcheryError:
        return None
