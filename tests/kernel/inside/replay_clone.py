"""Power cuts under a durable clone: pool metadata, backing device and cache in one log, in both cache modes."""

import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance import wait
from appliance.host import bcache, block, thin
from appliance.host.block import Device
from appliance.host.dm import Dm
from appliance.model import KIB, MIB, SECTOR, Access
from appliance.run import Runner
from appliance.store import durable, names
from appliance.store.pool import Pool
from tests.kernel.inside import log_writes, volumes
from tests.kernel.inside.log_writes import Cut

META, BACKING, CACHE = 8 * MIB, 96 * MIB, 288 * MIB
SIZE = META + BACKING + CACHE
"""bcache wants more than 512 buckets of 512 KiB."""

SET = "11111111-2222-4333-8444-555555555555"
BLOCK = 64 * KIB
CLONE_BYTES = 8 * MIB
PLACES = 24
"""Stamped places: each in a block of its own, so that first writes break sharing and later ones do not."""

BATCH = 3
"""Writes between two flushes."""

_STAMP = struct.Struct("<8sQI")
_WORD = b"hatched!"


@contextmanager
def stack(dm: Dm, below: Path, mode: str, *, new: bool) -> Iterator[Pool]:
    """Pool on bcache on parts of one device, made or only started."""
    runner = Runner()
    with ExitStack() as undo:
        devices = []
        offset = 0
        for name, size in (("lab-meta", META), ("lab-backing", BACKING), ("lab-cache", CACHE)):
            devices.append(log_writes.slice_of(dm, name, below, offset, size))
            undo.callback(dm.remove, name, deadline=10)
            offset += size
        meta, backing, cache = devices
        if new:
            bcache.make_cache(runner, cache, set_uuid=SET, block_size=4 * KIB)
            bcache.make_backing(runner, backing, data_offset=MIB, block_size=4 * KIB)
        undo.callback(_stop, backing)
        for device in (cache, backing):
            bcache.register(device)
        if new:
            wait.until(lambda: bcache.cached(backing), "the cached device", deadline=20)
            bcache.attach(backing, SET)
        found = wait.until(lambda: _attached(backing), "the cache", deadline=20)
        bcache.apply_settings(backing, SET, mode)
        if mode == "writeback":
            # Written back as soon as it is dirty: both ways, to the cache and from it, are in the log.
            for setting, value in (("writeback_percent", "0"), ("writeback_delay", "1")):
                block.write_text(backing.sysfs / "bcache" / setting, value)
        if not new:
            # Raises when anything is wrong; blocks that leaked at the cut are given back.
            thin.check(runner, meta.path, deadline=60)
        undo.callback(dm.remove, durable.POOL, deadline=10)
        length = found.device.size // BLOCK * BLOCK // SECTOR
        block_sectors = BLOCK // SECTOR
        table = thin.pool_table(found.device.path, meta.path, length=length, block=block_sectors, low_water=1)
        dm.create(durable.POOL, names.uuid(durable.POOL), [table])
        pool = Pool.open(dm)
        for thin_id in (1, 2):
            undo.callback(pool.deactivate, thin_id)
        yield pool


def _attached(backing: Device) -> bcache.Cached | None:
    found = bcache.cached(backing)
    return found if found is not None and found.set_uuid == SET else None


def _stop(backing: Device) -> None:
    bcache.stop(backing)
    bcache.stop_set(SET)


def record(mode: str, count: int, flush: bool) -> None:
    """A template, a clone of it, and ``count`` writes into that, flushed and acknowledged in batches."""
    Runner().run(["modprobe", "-a", "bcache", "dm-thin-pool", "dm-multipath", "dm-round-robin"])
    dm = Dm()
    with log_writes.logged(dm, SIZE) as mark, stack(dm, dm.path(log_writes.LOGGED), mode, new=True) as pool:
        pool.create_thin(1)
        volumes.write(pool.activate_template(1, CLONE_BYTES, Access.READ_WRITE), volumes.content(1, 2))
        pool.activate_template(1, CLONE_BYTES, Access.READ_ONLY)
        pool.create_snapshot(2, 1)
        path = pool.activate_clone(2, CLONE_BYTES)
        pool.set_transaction_id(0, 1)
        mark("ready")
        states = _write_stamps(path, count, flush, mark)
        assert (bcache.State.DIRTY in states) is (mode == "writeback"), states


def _write_stamps(path: Path, count: int, flush: bool, mark: log_writes.Marker) -> set[str]:
    """Write; returns the states that the cached device was in: dirty, if the cache held what the disks did not."""
    states, state = set(), Path("/sys/block/bcache0/bcache/state")
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, 4 * KIB) as buffer:
            for number in range(count):
                buffer[:] = stamp(number) * (4 * KIB // SECTOR)
                os.pwrite(fd, buffer, _place(number))
                if number % BATCH == BATCH - 1:
                    if flush:
                        os.fdatasync(fd)
                    mark(f"ack={number}")
                    states.add(block.read_text(state))
    finally:
        os.close(fd)
    return states


def _place(number: int) -> int:
    return number * 7 % PLACES * 3 * BLOCK + 8 * KIB


def stamp(number: int) -> bytes:
    """A sector that says which write it is of."""
    return _STAMP.pack(_WORD, number, zlib.crc32(struct.pack("<Q", number))).ljust(SECTOR, b"\xa5")


def check(device: Path, cut: Cut, mode: str) -> None:
    """The stack starts, the metadata is sound, and each place holds its last acknowledged stamp or a later one."""
    dm = Dm()
    with stack(dm, device, mode, new=False) as pool:
        assert pool.thin_ids() == {1, 2}
        template = pool.activate_template(1, CLONE_BYTES, Access.READ_ONLY)
        assert volumes.digest(str(template), 2) == _template_digest()
        fd = os.open(pool.activate_clone(2, CLONE_BYTES), os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, 4 * KIB) as buffer:
                for place, least in _expected(cut.acknowledged).items():
                    os.preadv(fd, [buffer], place)
                    for at in range(0, 4 * KIB, SECTOR):
                        number = _read_stamp(buffer[at : at + SECTOR])
                        assert number >= least, f"at {place + at}: write {number} instead of {least}"
                        assert _place(number) == place, f"at {place + at}: write {number} belongs elsewhere"
        finally:
            os.close(fd)
    dm.close()


def _template_digest() -> str:
    return hashlib.sha256(volumes.content(1, 2)).hexdigest()


def _expected(acknowledged: int) -> dict[int, int]:
    return {_place(number): number for number in range(acknowledged + 1)}


def _read_stamp(sector: bytes) -> int:
    word, number, crc = _STAMP.unpack_from(sector)
    if word != _WORD or crc != zlib.crc32(struct.pack("<Q", number)):
        return -1
    return int(number)


def replay(mode: str, most: int, seed: int) -> dict[str, int]:
    """Check all cuts, or ``most`` of them."""
    return log_writes.replay(SIZE, lambda device, cut: check(device, cut, mode), most=most, seed=seed)
