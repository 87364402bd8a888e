"""The race of rule 1, by construction: a write waits on its way to the backend while its block is read from there.

A cache of two dm devices, without a store above: ``race-disk`` holds writes back (dm-delay) until it is given another
table, which lets them out; ``race-cache`` the same. So each step of the interleaving waits for the one before.

Source: the linux-bcache list, May 2026, "fix stale data race between read cache miss and bypass write"; how a write is
invalidated: ``drivers/md/bcache/request.c`` of Linux 6.12, ``bch_data_insert_start``, ``check_should_bypass``.
"""

import mmap
import os
import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

from appliance import wait
from appliance.host import bcache, block
from appliance.host.dm import Dm, Target
from appliance.model import KIB, MIB
from appliance.run import Runner

DISK, CACHE = "race-disk", "race-cache"
_BELOW = {DISK: "/dev/ubdb", CACHE: "/dev/ubda"}
_MINUTES = 600_000  # longer than any test: what waits is let out, not waited for
_SET = uuid.UUID(int=0xACE)


def make() -> None:
    """The cached device, with the settings that the product gives it."""
    run = Runner().run
    run(["modprobe", "--all", "bcache", "dm-delay"])
    with Dm() as dm:
        for name in (DISK, CACHE):
            dm.create(name, f"LAB-{name}", [_table(name)])
    disk, cache = block.get(f"/dev/mapper/{DISK}"), block.get(f"/dev/mapper/{CACHE}")
    bcache.make_cache(Runner(), cache, set_uuid=str(_SET), block_size=512)
    bcache.make_backing(Runner(), disk, data_offset=MIB, block_size=512)
    bcache.register(cache)
    bcache.register(disk)
    wait.until(lambda: bcache.cached(disk), "the cached device", deadline=30)
    bcache.attach(disk, str(_SET))
    ours()


def _table(name: str, milliseconds: int = 0) -> Target:
    below = _BELOW[name]
    sectors = block.get(below).size // 512
    if not milliseconds:
        return Target(0, sectors, "linear", f"{below} 0")
    return Target(0, sectors, "delay", f"{below} 0 0 {below} 0 {milliseconds}")


def _hold(name: str) -> None:
    """From now on writes wait."""
    with Dm() as dm:
        dm.reload(name, [_table(name, _MINUTES)])


def _let_out(name: str) -> None:
    """The writes that wait go on, and others pass."""
    with Dm() as dm:
        dm.reload(name, [_table(name)])


def ours() -> None:
    """The product's settings."""
    bcache.apply_settings(block.get(f"/dev/mapper/{DISK}"), str(_SET), "writethrough")


def _set(name: str, value: str) -> None:
    folder = block.get(f"/dev/mapper/{DISK}").sysfs / "bcache"
    path = folder / name
    if not path.exists():
        path = Path("/sys/fs/bcache") / str(_SET) / name
    block.write_text(path, value)


def _waiting(name: str) -> int:
    """Writes under way in a device."""
    return int((block.get(f"/dev/mapper/{name}").sysfs / "inflight").read_text(encoding="ascii").split()[1])


def _write(offset: int, data: bytes) -> None:
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        fd = os.open("/dev/bcache0", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            assert os.pwrite(fd, buffer, offset) == len(data)
        finally:
            os.close(fd)


def _read(offset: int, length: int) -> bytes:
    with mmap.mmap(-1, length) as buffer:
        fd = os.open("/dev/bcache0", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            assert os.preadv(fd, [buffer], offset) == length
        finally:
            os.close(fd)
        return buffer[:]


def _content(word: str, length: int) -> bytes:
    return f"{word} ".encode().ljust(32, b".") * (length // 32)


def _place_old(offset: int, data: bytes) -> None:
    """Old content, on the disk only. In a thread of its own: bcache remembers how sequential a thread has been."""
    _set("cache_mode", "writearound")
    writer = threading.Thread(target=_write, args=(offset, data), daemon=True)
    writer.start()
    writer.join(60)
    assert not writer.is_alive()
    ours()


def race(settings: dict[str, str], rounds: int, length: int, first: int = 0) -> dict[str, int]:
    """Old content, a write that waits, reads of the same block, the write goes on: what is read when all is over.

    Returns how often all of that was ``new``, and how often some of it was ``old``: stale, for good.
    """
    found = {"new": 0, "old": 0}
    for number in range(first, first + rounds):
        offset = number * 2 * MIB
        old, new = _content(f"old {number}", length), _content(f"new {number}", length)
        _place_old(offset, old)
        for name, value in settings.items():
            _set(name, value)
        _interleave(offset, old, new)
        ours()
        found[_judge(_read(offset, length), old, new)] += 1
    return found


def _judge(found: bytes, old: bytes, new: bytes) -> str:
    kinds = {
        "new" if piece == fresh else "old" if piece == stale else "neither"
        for piece, fresh, stale in zip(_pieces(found), _pieces(new), _pieces(old), strict=True)
    }
    assert "neither" not in kinds
    return "old" if "old" in kinds else "new"


def _interleave(offset: int, old: bytes, new: bytes) -> None:
    with ExitStack() as stack:
        _hold(DISK)
        stack.callback(_let_out, DISK)
        writer = threading.Thread(target=_write, args=(offset, new), daemon=True)
        writer.start()
        wait.until(lambda: _waiting(DISK), "the write to wait on its way to the disk", deadline=30)
        # The first may meet the write's own change of the index, which a miss notices; those after it cannot.
        # They are small and apart from each other, so that none of them counts as sequential.
        for _ in range(4):
            for at in range(0, len(old), 64 * KIB):
                assert _read(offset + at, 4 * KIB) in (old[: 4 * KIB], new[: 4 * KIB])
        assert writer.is_alive(), "the write was over before it was read: nothing was shown"
    writer.join(60)
    assert not writer.is_alive()


def _pieces(data: bytes) -> list[bytes]:
    return [data[at : at + 4 * KIB] for at in range(0, len(data), 4 * KIB)]


def race_without_buckets(length: int) -> str:
    """The same with the product's settings, while no bucket of the cache is free, so that the write cannot be cached.

    The cache's own writes wait until all its free buckets are taken; once it is let go, the block is read.
    Returns ``new`` or ``old``.
    """
    offset, filler = 0, 512 * MIB
    old, new = _content("old", length), _content("new", length)
    _place_old(offset, old)
    threads: list[threading.Thread] = []
    with ExitStack() as stack:
        _hold(CACHE)
        stack.callback(_let_out, CACHE)
        for number in range(96):
            at = filler + number * MIB
            thread = threading.Thread(target=_write, args=(at, _content(f"filler {number}", MIB)), daemon=True)
            thread.start()
            threads.append(thread)
        # One that was not given a bucket does not wait for the cache.
        wait.until(lambda: not all(t.is_alive() for t in threads), "the free buckets to be taken", deadline=60)
        _hold(DISK)
        stack.callback(_let_out, DISK)
        writer = threading.Thread(target=_write, args=(offset, new), daemon=True)
        writer.start()
        wait.until(lambda: _waiting(DISK), "the write to wait on its way to the disk", deadline=30)
        _let_out(CACHE)
        for _ in range(50):
            _read(offset, length)
        assert writer.is_alive()
    writer.join(60)
    for thread in threads:
        thread.join(60)
    return _judge(_read(offset, length), old, new)
