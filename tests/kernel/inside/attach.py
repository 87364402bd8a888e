"""The kernel as a client: a load on a device that tells an error, wrong data and a long wait; a device of others."""

import hashlib
import json
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance import wait
from appliance.attach import target
from appliance.attach.connection import connections
from appliance.client import connect
from appliance.host.nbd import Kernel, Wanted
from appliance.model import KIB, MIB
from appliance.run import Runner

PIECE = 64 * KIB
WORKERS = 4


def load(device: str, folder: str) -> dict[str, float]:
    """Write and read back, four requests at a time, until the folder has a file ``stop``.

    Counts rounds in files there. Returns how many there were and the longest wait in seconds. Raises the first error.
    """
    where = Path(folder)
    where.mkdir()
    with ThreadPoolExecutor(WORKERS) as pool:
        done = list(pool.map(lambda number: _work(device, where, number), range(WORKERS)))
    return {"rounds": sum(rounds for rounds, _ in done), "longest": max(longest for _, longest in done)}


def _work(device: str, where: Path, number: int) -> tuple[int, float]:
    handle = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    rounds, longest = 0, 0.0
    try:
        with mmap.mmap(-1, PIECE) as data:  # aligned, as direct I/O wants it
            while not (where / "stop").exists():
                offset = number * MIB + rounds % 8 * PIECE
                wanted = f"{number}:{rounds:09}".encode().ljust(512, b".") * (PIECE // 512)
                began = time.monotonic()
                data[:] = wanted
                assert os.pwritev(handle, [data], offset) == PIECE
                data[:] = bytes(PIECE)
                assert os.preadv(handle, [data], offset) == PIECE
                longest = max(longest, time.monotonic() - began)
                assert data[:] == wanted, f"round {rounds} of {number} reads {data[:16]!r}"
                rounds += 1
                (where / f"{number}.new").write_text(str(rounds))
                (where / f"{number}.new").replace(where / f"{number}.rounds")
        os.fsync(handle)
    finally:
        os.close(handle)
    return rounds, longest


def progress(folder: str, more: int) -> None:
    """Wait until each of the load's workers is ``more`` rounds further than now."""

    def rounds() -> list[int]:
        return [int(file.read_text()) for file in sorted(Path(folder).glob("*.rounds"))]

    wait.until(lambda: len(rounds()) == WORKERS, "the load to begin", deadline=30)
    before = rounds()
    wait.until(
        lambda: all(now >= then + more for now, then in zip(rounds(), before, strict=True)),
        f"{more} rounds of the load",
        deadline=50,
    )


def listed() -> list[dict[str, object]]:
    """What ``hatchery-attach --list`` says."""
    found: list[dict[str, object]] = json.loads(Runner().run(["hatchery-attach", "--list", "--json"]).stdout)
    return found


def attached(uri: str) -> str:
    """Wait until an export is attached; its device."""

    def device() -> str | None:
        return next((str(one["device"]) for one in listed() if one["export"] == uri), None)

    return wait.until(device, f"{uri} to be attached", deadline=40)


def listens(path: str) -> None:
    """Wait until somebody listens at a unix socket."""
    wait.until(lambda: Path(path).is_socket(), path, deadline=30)


def foreign(uri: str) -> int:
    """A device that another program made, with an identifier of its own; its index."""
    with Kernel() as kernel, connections(target.parse(uri), 1) as made:
        return kernel.connect(Wanted("somebody/else", made.export.size, made.export.flags, 60), made.sockets)


def digest(device: str) -> str:
    """The digest of all that a device reads, past the page cache."""
    handle = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        found = hashlib.sha256()
        with mmap.mmap(-1, MIB) as data:
            offset = 0
            while got := os.preadv(handle, [data], offset):
                found.update(data[:got])
                offset += got
        return found.hexdigest()
    finally:
        os.close(handle)


def failed_read(device: str) -> dict[str, float]:
    """Read the device's beginning, past the page cache, which must fail: the error's number, and after how long."""
    handle = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    began = time.monotonic()
    try:
        with mmap.mmap(-1, PIECE) as data:
            os.preadv(handle, [data], 0)
    except OSError as error:
        return {"error": error.errno or 0, "seconds": time.monotonic() - began}
    finally:
        os.close(handle)
    raise AssertionError("it was read although nobody serves it")


def connected(client: str) -> int:
    """How many connections a client's storage daemon has."""
    with connect() as api:
        return sum(len(found.connections or ()) for found in api.clients() if found.name == client)
