"""Drives that die under volumes of the store, and what is written meanwhile."""

import functools
from pathlib import Path

from appliance import config, wait
from appliance.host import bcache
from appliance.store import cache
from appliance.store.health import Store
from appliance.store.machine import Machine
from tests.kernel.inside import disks, volumes


def warm_up(device: str, mib: int) -> None:
    """Fill the beginning of a volume, and read it until all of it comes from the cache."""
    volumes.write(device, volumes.content(len(device), mib))

    def warm() -> bool:
        before = volumes.backend_reads()
        volumes.digest(device, mib)
        return volumes.backend_reads() == before

    wait.until(warm, "the cache to be warm", deadline=50)


def lose_cache(number: int, device: str, mib: int) -> None:
    """Let the cache drive die while a volume is read, until the kernel has given the cache up."""
    disks.fail(number)

    def gone() -> bool:
        volumes.digest(device, mib)
        found = cache.device(Machine(config.load()))
        return found.set_uuid is None and not any(Path("/sys/fs/bcache").glob("*-*"))

    wait.until(gone, "the kernel to give the cache up", deadline=50)


def write_anew(device: str, seed: int, mib: int) -> str:
    """Write over the beginning of a volume, no new block: nothing but its data changes. Returns the digest."""
    volumes.write(device, volumes.content(seed, mib))
    return volumes.digest(device, mib)


@functools.cache
def _looking() -> Store:
    """One for all looks, as the service has it: it knows what the last one saw."""
    return volumes.store()


def remember_loss() -> None:
    """What the service's look does."""
    _looking().remember_loss()


def cache_state() -> dict[str, object]:
    """How the kernel sees the cache."""
    found = cache.device(Machine(config.load()))
    return {
        "state": found.state,
        "attached": found.set_uuid is not None,
        "wrong": bcache.wrong_settings(found.backing, found.set_uuid, "writethrough"),
    }


def marks() -> list[str]:
    """Words left about the cache."""
    return sorted(path.name for path in config.load().paths.state.glob("cache.*"))
