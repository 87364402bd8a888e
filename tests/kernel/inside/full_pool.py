"""A guest that fills the pool over NBD, through the product's own storage daemon. Sizes in bytes."""

import errno
import importlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance import config
from appliance.config import Paths
from appliance.host import storage_daemon
from appliance.host.dm import Dm, Target
from appliance.host.storage_daemon import Export, Files, Listen, ServerConfig
from appliance.model import GIB, MIB, SECTOR
from appliance.run import Runner
from appliance.store import durable
from appliance.store.machine import Machine
from appliance.store.pool import Pool
from tests.kernel.inside import volumes

CLIENT = "lab"


def serve(thin_ids: list[int], size: int = 2 * GIB) -> None:
    """Export new volumes, each larger than the pool, as vol-ID."""
    pool = Pool.open(Dm())
    exports = []
    for thin_id in thin_ids:
        pool.create_thin(thin_id)
        exports.append(Export(f"n{thin_id}", f"vol-{thin_id}", pool.activate_clone(thin_id, size)))
    files = Files(Paths().nbd(CLIENT))
    files.folder.mkdir(parents=True, exist_ok=True)
    listen = Listen(path=files.socket)
    files.config.write_text(storage_daemon.render(ServerConfig(CLIENT, listen, tuple(exports))), encoding="utf-8")
    Runner().run(["/usr/lib/hatchery/nbd-server", CLIENT])


def _nbd() -> Any:
    """libnbd's module, which only the lab's tree has."""
    return importlib.import_module("nbd")


def connect(thin_id: int) -> Any:
    """A connection of libnbd."""
    handle = _nbd().NBD()
    handle.set_export_name(f"vol-{thin_id}")
    handle.connect_unix(str(Files(Paths().nbd(CLIENT)).socket))
    return handle


def piece(index: int) -> bytes:
    """Data that tells one MiB from another."""
    return (index + 1).to_bytes(8, "little") * (MIB // 8)


def attempt(handle: Any, index: int) -> tuple[int, float]:
    """Write the MiB ``index``: the error number (0: none) and the seconds it took."""
    begin = time.monotonic()
    try:
        handle.pwrite(piece(index), index * MIB)
    except _nbd().Error as error:
        return error.errnum or errno.EIO, time.monotonic() - begin
    return 0, time.monotonic() - begin


def fill(thin_id: int, most: int) -> int:
    """Write MiB after MiB until ``most`` or an error; returns how many were acknowledged."""
    handle = connect(thin_id)
    for index in range(most):
        if attempt(handle, index)[0]:
            return index
    return most


def release() -> int:
    """Release the reserve."""
    return volumes.store().release_reserve()


def drill(thin_id: int, other: int, spare: str, most: int) -> dict[str, Any]:
    """Fill the pool and make space again, in each way that there is, all over one connection.

    ``other`` is a volume that may go, ``spare`` a disk that nothing uses. For each way: the error number of the write
    that did not fit, the seconds that it took, the pool's mode, what the operator is told, which of the pieces that
    were acknowledged are damaged, and what the next two writes came to.
    """
    handle = connect(thin_id)
    written: list[int] = []
    told: dict[str, Any] = {}

    def damaged() -> list[int]:
        return [index for index in written if bytes(handle.pread(MIB, index * MIB)) != piece(index)]

    ways: dict[str, Callable[[], object]] = {
        "reserve": release,
        "removal": lambda: _remove(other),
        "trim": lambda: _trim(handle, written),
        "growth": lambda: _grow(spare),
    }
    position = 0
    for way, make_space in ways.items():
        number, seconds = 0, 0.0
        while not number and position < most:
            number, seconds = attempt(handle, position)
            if not number:
                written.append(position)
                position += 1
        health = volumes.store().health()
        hurt = damaged()
        found = {
            "errno": number,
            "seconds": seconds,
            "written": len(written),
            "mode": str(Pool.open(Dm()).status().mode),
            "told": [f"{problem.what}: {problem.hint}" for problem in health.problems],
        }
        make_space()
        found["again"] = [attempt(handle, position + extra)[0] for extra in range(2)]
        written += [position, position + 1]
        position += 2
        handle.flush()
        found["damaged"] = hurt + damaged()
        found["mode_then"] = str(Pool.open(Dm()).status().mode)
        told[way] = found
        print(f"{way}: {found}", flush=True)
    return told


def _remove(thin_id: int) -> None:
    files = Files(Paths().nbd(CLIENT))
    node = Export(f"n{thin_id}", f"vol-{thin_id}", Path())
    storage_daemon.StorageDaemon(files, storage_daemon.aio_engine()).cut_off(node)
    pool = Pool.open(Dm())
    pool.deactivate(thin_id)
    pool.delete(thin_id)


def _trim(handle: Any, written: list[int]) -> None:
    gone = written[: len(written) // 4]
    handle.trim(len(gone) * MIB, gone[0] * MIB)
    del written[: len(gone)]


def _grow(spare: str) -> None:
    """A longer data device, as when the array has grown."""
    machine = Machine(config.load())
    below = machine.dm.table(durable.DATA)
    end = sum(target.length for target in below)
    added = Target(end, 32 * MIB // SECTOR, "linear", f"{spare} 0")
    machine.dm.reload(durable.DATA, [*below, added])
    durable.extend(machine)
