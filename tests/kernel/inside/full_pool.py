"""A guest that fills the pool over NBD, through the product's own storage daemon. Sizes in bytes."""

import errno
import importlib
import time
from pathlib import Path
from typing import Any

from appliance.config import Paths
from appliance.host import storage_daemon
from appliance.host.dm import Dm
from appliance.host.storage_daemon import Export, Files, Listen, ServerConfig
from appliance.model import GIB, MIB
from appliance.run import Runner
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


def fill_free_go_on(thin_id: int, other: int, most: int) -> dict[str, Any]:
    """Fill the pool, look at what was acknowledged, have ``other`` deleted, and write on over the same connection."""
    handle = connect(thin_id)
    slowest = 0.0
    number = 0
    acknowledged = 0
    while acknowledged < most:
        number, seconds = attempt(handle, acknowledged)
        if number:
            break
        acknowledged += 1
        slowest = max(slowest, seconds)
    print(f"{time.monotonic():.1f} error {number} after {acknowledged} MiB", flush=True)
    pool = Pool.open(Dm())
    full_mode = str(pool.status().mode)
    problems = [problem.what for problem in volumes.store().health().problems]
    damaged = [index for index in range(acknowledged) if bytes(handle.pread(MIB, index * MIB)) != piece(index)]
    print(f"{time.monotonic():.1f} read back", flush=True)
    files = Files(Paths().nbd(CLIENT))
    node = Export(f"n{other}", f"vol-{other}", Path())
    storage_daemon.StorageDaemon(files, storage_daemon.aio_engine()).cut_off(node)
    pool.deactivate(other)
    pool.delete(other)
    print(f"{time.monotonic():.1f} deleted the other", flush=True)
    again = [attempt(handle, acknowledged + extra)[0] for extra in range(2)]
    handle.flush()
    damaged += [i for i in range(acknowledged + 2) if bytes(handle.pread(MIB, i * MIB)) != piece(i)]
    return {
        "errno": number,
        "error_seconds": seconds,
        "acknowledged": acknowledged,
        "full_mode": full_mode,
        "problems": problems,
        "damaged": damaged,
        "again": again,
        "mode_at_the_end": str(pool.status().mode),
    }
