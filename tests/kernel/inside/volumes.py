"""Volumes of the running store, written and read as a guest would."""

import hashlib
import mmap
import os
import time
from pathlib import Path
from typing import Any

from appliance import config, wait
from appliance.host import block
from appliance.host.dm import Dm
from appliance.model import MIB, Access
from appliance.store.health import Store
from appliance.store.machine import Machine
from appliance.store.pool import Pool


def _pool() -> Pool:
    return Pool.open(Dm())


def store() -> Store:
    """The running store."""
    return Store(Machine(config.load()))


def content(seed: int, mib: int) -> bytes:
    """Data that does not repeat: ``mib`` MiB of it."""
    return b"".join(hashlib.sha256(f"{seed} {index}".encode()).digest() * 128 for index in range(mib * 256))


def write(path: str | Path, data: bytes, offset: int = 0) -> None:
    """Write past the page cache and flush."""
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, MIB) as buffer:
            for at in range(0, len(data), MIB):
                piece = data[at : at + MIB]
                buffer[: len(piece)] = piece
                with memoryview(buffer)[: len(piece)] as view:
                    written = os.pwritev(fd, [view], offset + at)
                assert written == len(piece)
        os.fsync(fd)
    finally:
        os.close(fd)


def digest(path: str, mib: int, request: int = 64 * 1024) -> str:
    """SHA-256 of the first ``mib`` MiB, read past the page cache in pieces of ``request`` bytes."""
    found = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, request) as buffer:
            for at in range(0, mib * MIB, request):
                assert os.preadv(fd, [buffer], at) == request
                found.update(buffer)
    finally:
        os.close(fd)
    return found.hexdigest()


def fill(path: str, seed: int, mib: int) -> None:
    """Write ``content`` from the beginning on."""
    write(path, content(seed, mib))


def make_template(thin_id: int, mib: int) -> str:
    """A sealed template full of data; returns the data's digest."""
    pool = _pool()
    pool.create_thin(thin_id)
    data = content(thin_id, mib)
    write(pool.activate_template(thin_id, mib * MIB, Access.READ_WRITE), data)
    pool.activate_template(thin_id, mib * MIB, Access.READ_ONLY)
    return hashlib.sha256(data).hexdigest()


def make_clone(thin_id: int, template: int, mib: int) -> str:
    """An active clone; returns its device."""
    pool = _pool()
    pool.create_snapshot(thin_id, template)
    return str(pool.activate_clone(thin_id, mib * MIB))


def activate_clone(thin_id: int, mib: int) -> str:
    """The device of a clone that exists, after a start."""
    return str(_pool().activate_clone(thin_id, mib * MIB))


def activate_template(thin_id: int, mib: int) -> str:
    """The device of a template that exists, after a start."""
    return str(_pool().activate_template(thin_id, mib * MIB, Access.READ_ONLY))


def backend_reads() -> int:
    """Bytes read from the backend's data partition so far, as sysfs alone tells: looking must not add to them."""
    (name,) = {path.parents[1].name for path in Path("/sys/block").glob("md*/md*p*/bcache/state")}
    return block.statistics(block.get(f"/dev/{name}")).read_bytes


def reads_by_looking() -> int:
    """Bytes that the backend reads while health and counters are asked ten times, after the first time."""
    look = store()
    look.health()
    look.counters()
    before = backend_reads()
    for _ in range(10):
        look.health()
        look.counters()
    return backend_reads() - before


def cold() -> None:
    """Empty the cache."""
    store().cold()


def await_index_written() -> None:
    """Wait until bcache has written its index.

    What a read miss adds to it is not journaled: the node is written 30 seconds after it became dirty. Timers of that
    length are up to 64 ticks late (kernel/time/timer.c), 0.64 seconds here, and later on a busy host. No counter tells
    which nodes are dirty, so that the kernel's timer is all there is to wait for.
    """
    begun = time.monotonic()
    wait.until(lambda: time.monotonic() - begun > 36, "bcache to write its index", deadline=240, interval=0.5)


def health() -> dict[str, Any]:
    """How the store is."""
    return store().health().as_json()
