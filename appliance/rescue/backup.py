"""``hatchery-store backup``: the pool's metadata and the catalog of one moment, while everything runs. Sizes in bytes.

Kept on the state file system, which lies on the metadata mirror: this protects from a wrong command, from damage by
software and from a lost catalog, not from the loss of the backend. For that there is ``--to``.
"""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from appliance import __version__
from appliance.catalog import condition
from appliance.catalog.condition import Condition
from appliance.config import Paths
from appliance.errors import CommandFailed, DeadlineExceeded, HatcheryError, InUse, NoSpace, NotReady, Unhealthy
from appliance.host import thin
from appliance.host.thin import PoolLine
from appliance.model import MIB
from appliance.progress import QUIET, Bar
from appliance.rescue import bundle, stream
from appliance.rescue.bundle import Backup, Manifest
from appliance.store import durable, metadata, mirror, names
from appliance.store.machine import Machine

log = logging.getLogger(__name__)

KEEP = 3
"""Backups that are kept on the state file system."""

SNAPSHOT = ("--metadata-snap",)
"""thin_dump's option for a pool that runs."""

_TRIES = 5
_SPARE = 16 * MIB


def place(paths: Paths) -> Path:
    """Where backups are kept."""
    return paths.state / "backups"


def room(folder: Path) -> int:
    """Bytes that one backup on the state file system may take.

    A fifth of it, and a quarter stays free for the catalog, whose growth must never fail because of a backup.
    """
    found = os.statvfs(folder)
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return max(0, min(total // 5, free - max(total // 4, _SPARE)))


def local(machine: Machine, *, deadline: float = stream.FOREVER, bar: Bar = QUIET) -> Backup:
    """Make a backup on the state file system and remove the oldest. How it went is remembered for the status.

    Raises NoSpace, DeadlineExceeded, CommandFailed when it is there without the dump; all else leaves no backup.
    """
    state = machine.config.paths.state
    if not state.is_mount():
        raise NotReady(f"{state} is not mounted", hint="see `hatchery-store status`")
    folder = place(machine.config.paths)
    folder.mkdir(mode=0o700, exist_ok=True)
    try:
        made, trouble = make(machine, folder, room=room(folder), deadline=deadline, bar=bar)
    except HatcheryError as error:
        metadata.record_backup(state, str(error))
        raise
    metadata.record_backup(state, str(trouble) if trouble else "")
    if trouble is not None:
        raise trouble
    if made.dump is not None:
        metadata.record_dump(state)
    return made


def elsewhere(machine: Machine, folder: Path, *, deadline: float = stream.FOREVER, bar: Bar = QUIET) -> Backup:
    """Make a backup in another folder, on another file system as a rule. Nothing there is removed. Raises as above."""
    if not folder.is_dir():
        raise NotReady(
            f"{folder} is not a folder", why="a backup is written into one", hint="make it, or name another one"
        )
    found = os.statvfs(folder)
    # Half of what is free: it becomes an archive next.
    space = found.f_bavail * found.f_frsize // 2
    made, trouble = make(machine, folder, room=space, deadline=deadline, keep=None, bar=bar)
    if trouble is not None:
        raise trouble
    return made


def make(
    machine: Machine, folder: Path, *, room: int, deadline: float, keep: int | None = KEEP, bar: Bar = QUIET
) -> tuple[Backup, HatcheryError | None]:
    """Make a backup; with the reason why it has no dump, if it has none. Raises InUse, Unhealthy, NoSpace."""
    now = time.time()
    with _alone(folder):
        final = bundle.free_name(folder, now)
        for rest in folder.glob(f"*{bundle.UNFINISHED}"):
            shutil.rmtree(rest)
        unfinished = final.with_name(final.name + bundle.UNFINISHED)
        unfinished.mkdir(mode=0o700)
        try:
            found, catalog_id, trouble = _collect(machine, unfinished, room, deadline, bar)
            _settings(machine.config.paths, unfinished)
        except OSError as error:
            shutil.rmtree(unfinished)
            raise NoSpace(
                f"cannot write to {folder}", why=error.strerror or str(error), hint="make room on its file system"
            ) from error
        except BaseException:
            shutil.rmtree(unfinished)
            raise
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        manifest = Manifest(
            created=now,
            release=__version__,
            transaction_id=found.transaction_id if found else None,
            catalog_transaction_id=catalog_id,
            data_blocks=found.data_total if found else 0,
            no_dump=str(trouble) if trouble else "",
            files={str(path.relative_to(unfinished)): stream.digest(path) for path in files},
        )
        made = bundle.finish(unfinished, manifest, final)
        if keep is not None:
            for gone in bundle.prune(folder, keep):
                log.info("removed the backup %s", gone.name)
    return made, trouble


def _collect(
    machine: Machine, target: Path, room: int, deadline: float, bar: Bar
) -> tuple[PoolLine | None, int | None, HatcheryError | None]:
    """Catalog and dump, of one moment when it can be.

    Returns the running pool's status then, the transaction id in the catalog, and why there is no dump.
    """
    if machine.dm.find(durable.POOL) is None:
        catalog_id = _catalog(machine.config.paths, target)
        device = mirror.part(machine, names.PART_POOL_META).path
        return None, catalog_id, _dump(machine, target, device, (), room, deadline, bar)
    for attempt in range(_TRIES):
        with metadata.snapshot(machine.dm, durable.POOL) as device:
            found = thin.parse_pool_status(machine.dm.status(durable.POOL)[0].params)
            catalog_id = _catalog(machine.config.paths, target)
            if catalog_id in (found.transaction_id, None) or attempt == _TRIES - 1:
                return found, catalog_id, _dump(machine, target, device, SNAPSHOT, room, deadline, bar)
    raise AssertionError("the last attempt returns")


def _catalog(paths: Paths, target: Path) -> int | None:
    """Copy the catalog, if there is one yet. Raises Unhealthy when it is damaged: an older backup is worth more."""
    copied = target / bundle.CATALOG
    copied.unlink(missing_ok=True)
    if condition.look(paths.catalog).condition is Condition.ABSENT:
        return None
    condition.copy(paths.catalog, copied)
    return condition.transaction_id(copied)


def _dump(
    machine: Machine, target: Path, device: Path, options: tuple[str, ...], room: int, deadline: float, bar: Bar
) -> HatcheryError | None:
    try:
        words = ["thin_dump", *options, str(device)]
        bar.begin("packing the pool's metadata, about as much as the last time", _last_dump(machine.config.paths))
        stream.compress(machine.runner, words, target / bundle.DUMP, room=room, deadline=deadline, bar=bar)
    except (NoSpace, DeadlineExceeded, CommandFailed) as error:
        log.warning("the backup has no dump of the pool's metadata: %s", error)
        return error
    return None


def _last_dump(paths: Paths) -> int | None:
    """Bytes of the newest dump here, from which one made now differs little; None when there is none."""
    with contextlib.suppress(HatcheryError, OSError):
        found = newest_dump(paths).dump
        return None if found is None else found.stat().st_size
    return None


def _settings(paths: Paths, target: Path) -> None:
    folder = target / bundle.CONFIG
    folder.mkdir(mode=0o700)
    for file in sorted(paths.conf_d.glob("*.toml")):
        shutil.copyfile(file, folder / file.name)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InUse("a backup is being made already", hint="wait for it") from error
    finally:
        os.close(fd)


def newest(paths: Paths) -> Iterator[Backup]:
    """The backups on the state file system that are whole, the newest first; the others are named in the log."""
    for folder in bundle.folders(place(paths)):
        try:
            yield bundle.load(folder)
        except HatcheryError as error:
            log.warning("%s", error)


def newest_dump(paths: Paths) -> Backup:
    """The newest backup that has a dump. Raises Unhealthy when there is none."""
    found = next((backup for backup in newest(paths) if backup.dump is not None), None)
    if found is None:
        raise Unhealthy("there is no dump of the pool's metadata", hint="name one that was written elsewhere")
    return found
