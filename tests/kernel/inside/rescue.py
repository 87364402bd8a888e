"""Losses for the tests of backup, restore and repair, and looks at what is left."""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

from appliance import config
from appliance.catalog import Catalog
from appliance.host import thin, thin_dump
from appliance.host.dm import Dm
from appliance.host.thin import METADATA_BLOCK
from appliance.model import MIB
from appliance.progress import QUIET, Bar
from appliance.rescue import bundle, repair, stream
from appliance.run import Runner
from appliance.store import durable, mirror, names, start
from appliance.store.machine import Machine
from appliance.store.mirror import Making
from appliance.store.pool import Pool

STATE = Path("/var/lib/hatchery")
CATALOG = STATE / "catalog.db"


def manifest(folder: str) -> dict[str, Any]:
    """A backup's manifest, after its digests were compared."""
    bundle.load(Path(folder))
    found: dict[str, Any] = json.loads((Path(folder) / bundle.MANIFEST).read_text())
    return found


def dumped(folder: str) -> list[int]:
    """Ids of the volumes in a backup's dump."""
    plain = Path("/run/dump.xml")
    stream.decompress(Runner(), Path(folder) / bundle.DUMP, plain)
    return sorted(volume.thin_id for volume in thin_dump.read(plain)[1])


def held_root() -> int | None:
    """The metadata snapshot that the pool holds."""
    return thin.parse_pool_status(_pool_status()).held_root


def _pool_status() -> str:
    with closing(Dm()) as dm:
        return dm.status(durable.POOL)[0].params


def fill_state(leave_mib: int | None = None) -> None:
    """Fill the state file system: a dump does not fit any more but the catalog has room, or all but ``leave_mib``."""
    found = os.statvfs(STATE)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    size = free - (max(total // 4, 16 * MIB) if leave_mib is None else leave_mib * MIB)
    with (STATE / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(size, 1))


def lose_catalog(how: str) -> None:
    """Remove the catalog, overwrite the middle of it, or leave an empty file."""
    if how == "garble":
        Runner().run(["cp", STATE / "catalog.kept", CATALOG])
        with CATALOG.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(8192))
        return
    if CATALOG.exists() and not (STATE / "catalog.kept").exists():
        Runner().run(["cp", CATALOG, STATE / "catalog.kept"])
    for path in STATE.glob("catalog.db*"):
        path.unlink()
    if how == "empty":
        CATALOG.touch()


def ids() -> dict[str, int]:
    """Thin ids of all templates and clones, by name."""
    catalog = Catalog(CATALOG)
    try:
        found = {template.name: template.thin_id for template in catalog.templates()}
        return found | {clone.name: clone.thin_id for clone in catalog.clones()}
    finally:
        catalog.close()


def metadata_device() -> str:
    """The device that the durable pool's metadata is on."""
    return str(mirror.part(Machine(config.load()), names.PART_POOL_META).path)


# --- damage to the metadata, while the pool is not active


def raise_state() -> None:
    """Bring up all that is below the pool."""
    machine = Machine(config.load())
    start.raise_backend(machine)
    start.raise_state(machine, Making.FORBIDDEN)


def damage(first: int, count: int) -> None:
    """Overwrite blocks of the metadata (4 KiB each) with noise."""
    _overwrite(first, os.urandom(count * METADATA_BLOCK))


def blank(count: int) -> None:
    """Overwrite the metadata from its beginning with zeros, and all else of it that is in use."""
    _overwrite(0, bytes(count * METADATA_BLOCK))


def _overwrite(first: int, data: bytes) -> None:
    with Path(metadata_device()).open("r+b", buffering=0) as device:
        device.seek(first * METADATA_BLOCK)
        device.write(data)
        os.fsync(device.fileno())


def forget_clean_stop() -> None:
    """Let the next start look at the metadata, as after a power cut."""
    if not STATE.is_mount():
        raise_state()
    durable.mark_unclean(STATE)


def copies() -> list[str]:
    """Copies of damaged metadata."""
    return sorted(path.name for path in (STATE / "repair").glob("damaged-*"))


def make_volume(thin_id: int) -> None:
    """A volume that no dump knows."""
    Pool.open(Dm()).create_thin(thin_id)


def repair_cut_off() -> None:
    """A repair that dies in the middle of writing the new metadata back."""

    def cut(image: Path, device: Path, bar: Bar = QUIET) -> None:
        del image, bar
        with device.open("r+b", buffering=0) as file:
            file.write(os.urandom(8 * METADATA_BLOCK))
            os.fsync(file.fileno())
        raise RuntimeError("cut off here")

    repair.copy_over = cut
    repair.run(Machine(config.load()), repair.Wish(sure=True), print)


def up_in_a_hurry() -> None:
    """Start the store with no time for the check of its metadata."""
    durable.CHECK_DEADLINE = 0.001
    start.up(Machine(config.load()))
