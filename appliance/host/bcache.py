"""bcache: superblocks, state and settings.

Sources: ``include/uapi/linux/bcache.h``'s former content, now ``drivers/md/bcache/bcache_ondisk.h``, and
``Documentation/admin-guide/bcache.rst`` of Linux 6.12; bcache-tools 1.0.8.
"""

import re
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum, StrEnum
from pathlib import Path

from appliance import wait
from appliance.errors import CannotTell, DeadlineExceeded, NotFound, Unhealthy
from appliance.host import block
from appliance.host.block import Device
from appliance.model import GIB, KIB, MIB, SECTOR
from appliance.run import Runner

_SETS = Path("/sys/fs/bcache")
_SUPERBLOCK = struct.Struct("<QQQ 16s 16s 16s 32s Q Q 64x Q HHHH")
_MAGIC = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
_BACKING_VERSIONS = frozenset({1, 4, 6})
_DEADLINE = 30.0
_ATTACH_DEADLINE = 10.0


class BackingState(IntEnum):
    """What a backing device's superblock says about its cache."""

    DETACHED = 0
    CLEAN = 1
    DIRTY = 2
    STALE = 3


@dataclass(frozen=True, slots=True)
class Superblock:
    """A bcache superblock. ``state`` is None on a cache device; ``block`` and ``data_offset`` in bytes."""

    uuid: str
    set_uuid: str
    block: int
    data_offset: int
    state: BackingState | None


def parse_superblock(data: bytes) -> Superblock | None:
    """Read the superblock from a device's second 4 KiB; None when there is none."""
    if len(data) < _SUPERBLOCK.size:
        return None
    _, _, version, magic, own, set_uuid, _, flags, _, first, block_size, *_ = _SUPERBLOCK.unpack_from(data)
    if magic != _MAGIC:
        return None
    backing = version in _BACKING_VERSIONS
    return Superblock(
        uuid=str(uuid.UUID(bytes=own)),
        set_uuid=str(uuid.UUID(bytes=set_uuid)),
        block=block_size * SECTOR,
        data_offset=first * SECTOR if backing else 0,
        state=BackingState(flags >> 61 & 3) if backing else None,
    )


def superblock(device: Device) -> Superblock | None:
    """The superblock on a device, or None. Raises CannotTell when the device cannot be read."""
    return parse_superblock(block.read(device.path, 4096, 4096))


def make_cache(runner: Runner, device: Device, *, set_uuid: str, block_size: int) -> None:
    """Make a device the only member of a new cache set. Raises CommandFailed when it holds a superblock already."""
    words = ["make-bcache", "-C", "--bucket", "512k", "--block", str(block_size), "--cset-uuid", set_uuid]
    runner.run([*words, device.path])


def make_backing(runner: Runner, device: Device, *, data_offset: int, block_size: int) -> None:
    """Make a device a backing device whose data begins at ``data_offset`` bytes. Raises CommandFailed."""
    offset = str(data_offset // SECTOR)
    runner.run(["make-bcache", "-B", "--block", str(block_size), "--data-offset", offset, device.path])


class State(StrEnum):
    """Words of a backing device's ``state`` file."""

    NO_CACHE = "no cache"
    CLEAN = "clean"
    DIRTY = "dirty"
    INCONSISTENT = "inconsistent"


@dataclass(frozen=True, slots=True)
class Cached:
    """A running cached device: ``device`` is bcache0, over ``backing``. ``set_uuid`` is None without a cache."""

    device: Device
    backing: Device
    state: State
    set_uuid: str | None


def register(device: Device) -> None:
    """Make the kernel look at a superblock; fine if it has done so. Raises Unhealthy.

    A cache may be attached by that to a device that is in use, which waited for it: its settings follow at once.
    """
    if not registered(device):
        try:
            block.write_text(_SETS / "register", str(device.path))
        except Unhealthy:
            # Somebody else, udev for one, may have been faster.
            if not registered(device):
                raise
    set_uuid = cache_set(device)
    if set_uuid is not None:
        _never_congested(set_uuid)


def registered(device: Device) -> bool:
    """Whether the kernel uses the device as a cache or as a backing device."""
    return (device.sysfs / "bcache").is_dir()


def cached(backing: Device) -> Cached | None:
    """The cached device over ``backing``, or None while it does not run."""
    folder = backing.sysfs / "bcache"
    link = folder / "dev"
    if not link.exists():
        return None
    device = block.by_name(link.resolve().name)
    if device is None:
        return None
    text = block.read_text_or(folder / "state", State.NO_CACHE.value)
    cache = folder / "cache"
    set_uuid = cache.resolve().name if cache.exists() else None
    return Cached(device, backing, State(text), set_uuid)


def has_cache(backing: Device) -> bool:
    """Whether a backing device has its cache now: one question of sysfs, for who asks often."""
    return (backing.sysfs / "bcache/cache").exists()


def cache_set(cache: Device) -> str | None:
    """Uuid of the running cache set that a cache device belongs to, or None."""
    link = cache.sysfs / "bcache/set"
    return link.resolve().name if link.exists() else None


def cache_device(set_uuid: str) -> Device | None:
    """The cache device of a running cache set, or None."""
    link = _SETS / set_uuid / "cache0"
    return block.by_name(link.resolve().parent.name) if link.exists() else None


def run_without_cache(backing: Device) -> Cached:
    """Start a backing device whose cache is missing. Raises Unhealthy when the missing cache holds unwritten data."""
    found = superblock(backing)
    if found is not None and found.state is BackingState.DIRTY:
        raise Unhealthy(
            "the cached device cannot start",
            why="its cache is missing and holds data that was never written to the backend",
            hint="bring the cache drive back",
        )
    block.write_text(backing.sysfs / "bcache/running", "1")
    return wait.until(lambda: cached(backing), f"a bcache device over {backing.name}", deadline=_DEADLINE)


def attach(backing: Device, set_uuid: str) -> None:
    """Give a backing device its cache; the cache's old content for it, if any, counts as invalid afterwards.

    The settings of the cache come first: with those that the kernel begins with, requests of guests that come right
    after it is attached would be let past a cache that is slow for a moment. Raises Unhealthy, also when it is not
    registered. A detach says that it is done a moment before an attach is possible: hence the second tries.
    """
    _never_congested(set_uuid)
    refused: list[Unhealthy] = []

    def attempt() -> bool:
        try:
            block.write_text(backing.sysfs / "bcache/attach", set_uuid)
        except Unhealthy as error:
            refused.append(error)
        return _attached(backing, set_uuid)

    try:
        wait.until(attempt, "the cache to be attached", deadline=_ATTACH_DEADLINE, interval=0.05)
    except DeadlineExceeded:
        if refused:
            raise refused[-1] from None
        raise


def _never_congested(set_uuid: str) -> None:
    for name, value in SET_SETTINGS.items():
        block.write_text(_SETS / set_uuid / name, value)


def _attached(backing: Device, set_uuid: str) -> bool:
    found = cached(backing)
    return found is not None and found.set_uuid == set_uuid and found.state in (State.CLEAN, State.DIRTY)


def dirty_bytes(backing: Device) -> int:
    """What the cache alone has of a backing device, and has to write back; 0 without a cache."""
    return parse_size(block.read_text_or(backing.sysfs / "bcache/dirty_data", "0"))


def detach(backing: Device, look: Callable[[], None] = lambda: None) -> None:
    """Take the cache away, which empties it; what is dirty is written back first. ``look`` is called meanwhile.

    A cache that died is gone already, though the kernel may go on to call the device clean.
    """
    if _state(backing) is State.NO_CACHE or not (backing.sysfs / "bcache/cache").exists():
        return
    block.write_text(backing.sysfs / "bcache/detach", "1")

    def gone() -> bool:
        look()
        return _state(backing) is State.NO_CACHE

    wait.until(gone, "the cache to be detached", deadline=600)


def collect_garbage(set_uuid: str) -> None:
    """Ask for buckets that nothing refers to any more to be freed."""
    block.write_text(_SETS / set_uuid / "internal/trigger_gc", "1")


def stop(backing: Device, *, deadline: float = _DEADLINE) -> None:
    """Stop the cached device over ``backing`` and let go of it. Raises DeadlineExceeded, Unhealthy."""
    if registered(backing):
        block.write_text(backing.sysfs / "bcache/stop", "1")
        wait.until(lambda: not registered(backing), f"{backing.name} to leave bcache", deadline=deadline)


def stop_set(set_uuid: str, *, deadline: float = _DEADLINE) -> None:
    """Stop a cache set and let go of its device. Raises DeadlineExceeded, Unhealthy."""
    folder = _SETS / set_uuid
    if folder.is_dir():
        block.write_text(folder / "stop", "1")
        wait.until(lambda: not folder.exists(), f"the cache set {set_uuid} to stop", deadline=deadline)


def _state(backing: Device) -> State | None:
    text = block.read_text_or(backing.sysfs / "bcache/state")
    return State(text) if text else None


# Settings. None of them lasts beyond the device's registration (rule 1).


def backing_settings(cache_mode: str) -> Mapping[str, str]:
    """Settings of the cached device: nothing goes past the cache."""
    return {"cache_mode": cache_mode, "sequential_cutoff": "0", "stop_when_cache_set_failed": "auto"}


SET_SETTINGS: Mapping[str, str] = {"congested_read_threshold_us": "0", "congested_write_threshold_us": "0"}
"""Settings of the cache set: it never counts as congested, which would send requests past it."""


def apply_settings(backing: Device, set_uuid: str | None, cache_mode: str) -> None:
    """Set all settings that matter and read them back. Raises Unhealthy when one does not hold."""
    for path, wanted in _settings(backing, set_uuid, cache_mode):
        block.write_text(path, wanted)
    wrong = wrong_settings(backing, set_uuid, cache_mode)
    if wrong:
        raise Unhealthy("the cache's settings do not hold", why="; ".join(wrong))


def wrong_settings(backing: Device, set_uuid: str | None, cache_mode: str) -> tuple[str, ...]:
    """The settings that differ from what they must be, as sentences for people."""
    wrong = []
    for path, wanted in _settings(backing, set_uuid, cache_mode):
        found = chosen(block.read_text(path))
        if not same(found, wanted):
            wrong.append(f"{path.name} is {found} instead of {wanted}")
    return tuple(wrong)


def _settings(backing: Device, set_uuid: str | None, cache_mode: str) -> list[tuple[Path, str]]:
    folder = backing.sysfs / "bcache"
    found = [(folder / name, value) for name, value in backing_settings(cache_mode).items()]
    if set_uuid is not None:
        found += [(_SETS / set_uuid / name, value) for name, value in SET_SETTINGS.items()]
    return found


def chosen(text: str) -> str:
    """The word in brackets of a file that lists choices, or the whole text."""
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else text


def same(found: str, wanted: str) -> bool:
    """Whether two values are equal; ``0.0k`` is 0."""
    if found == wanted:
        return True
    try:
        return parse_size(found) == parse_size(wanted)
    except CannotTell:
        return False


def parse_size(text: str) -> int:
    """Bytes of a number that bcache prints for people, such as ``4.0M``; exact to one decimal. Raises CannotTell."""
    found = re.fullmatch(r"(-?\d+)(?:\.(\d))?([kMGT]?)", text.strip())
    if found is None:
        raise CannotTell("a number of bcache cannot be read", why=repr(text))
    scale = {"": 1, "k": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}[found.group(3)]
    return int(found.group(1)) * scale + int(found.group(2) or 0) * scale // 10


@dataclass(frozen=True, slots=True)
class Totals:
    """bcache's own counters since the device runs; they lag by some seconds. ``bypassed`` in bytes."""

    hits: int
    misses: int
    bypass_hits: int
    bypass_misses: int
    miss_collisions: int
    bypassed: int


def totals(backing: Device) -> Totals:
    """The counters of the cached device over ``backing``. Raises CannotTell."""
    folder = backing.sysfs / "bcache/stats_total"
    return Totals(
        hits=int(block.read_text(folder / "cache_hits")),
        misses=int(block.read_text(folder / "cache_misses")),
        bypass_hits=int(block.read_text(folder / "cache_bypass_hits")),
        bypass_misses=int(block.read_text(folder / "cache_bypass_misses")),
        miss_collisions=int(block.read_text(folder / "cache_miss_collisions")),
        bypassed=parse_size(block.read_text(folder / "bypassed")),
    )


def add(found: Sequence[Totals]) -> Totals:
    """The counters of several cached devices together."""
    return Totals(*map(sum, zip(*map(astuple, found), strict=True)))


def available_percent(set_uuid: str) -> int:
    """Share of the cache that is free or can be freed. Raises CannotTell, NotFound."""
    if not (_SETS / set_uuid).is_dir():
        raise NotFound(f"there is no cache set {set_uuid}", why="the kernel does not know it")
    return int(block.read_text(_SETS / set_uuid / "cache_available_percent"))
