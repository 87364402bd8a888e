"""A pool's metadata, read while the pool runs: one reader at a time, from a metadata snapshot.

A pool has room for one metadata snapshot, and whoever releases it while another one reads it lets the kernel use its
blocks again. So the reader holds a lock, on the metadata device itself, for as long as it has the snapshot.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance import wait
from appliance.errors import CannotTell, DeadlineExceeded, HatcheryError, InUse, Unhealthy
from appliance.host.dm import Dm
from appliance.host.thin import Check
from appliance.model import Health, Problem
from appliance.store import marks

_CHECK = "metadata.check"
_BACKUP = "backup.last"
_BACKUP_LATE = 6 * 3600.0
_READ_WHOLE = "read whole by a dump"

LOCK_DEADLINE = 120.0
"""Seconds to wait for another reader. The longest is a dump; its own deadline is longer, so a caller may see InUse."""


def device(dm: Dm, pool: str) -> Path:
    """The metadata device of an active pool, given the pool's device-mapper name. Raises NotFound, CannotTell."""
    targets = dm.table(pool)
    if len(targets) != 1 or targets[0].kind != "thin-pool":
        raise Unhealthy(f"{pool} is not a thin pool", why="its table is another one", hint="run `hatchery-store up`")
    number = targets[0].params.split()[0]
    try:
        name = Path(f"/sys/dev/block/{number}").resolve(strict=True).name
    except OSError as error:
        raise CannotTell("cannot find the pool's metadata device", why=str(error)) from error
    return Path("/dev") / name


@contextmanager
def snapshot(dm: Dm, pool: str, *, deadline: float = LOCK_DEADLINE) -> Iterator[Path]:
    """Hold a metadata snapshot of an active pool; gives the metadata device, for tools with ``--metadata-snap``.

    ``pool`` is its device-mapper name. Raises InUse when another reader holds it for longer than ``deadline`` seconds,
    NotFound, CannotTell.
    """
    metadata = device(dm, pool)
    with _locked(metadata, deadline):
        try:
            dm.message(pool, "reserve_metadata_snap")
        except HatcheryError:
            # One is held although nobody has the lock: left by a process that died.
            dm.message(pool, "release_metadata_snap")
            dm.message(pool, "reserve_metadata_snap")
        try:
            yield metadata
        finally:
            dm.message(pool, "release_metadata_snap")


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotTell(f"cannot open {path}", why=error.strerror or str(error)) from error
    try:
        _await_lock(fd, deadline)
        yield
    finally:
        os.close(fd)


def _await_lock(fd: int, deadline: float) -> None:
    try:
        wait.until(lambda: _try_lock(fd), "the other reader of the pool's metadata", deadline=deadline, interval=0.1)
    except DeadlineExceeded as error:
        raise InUse("the pool's metadata is being read", why=str(error), hint="try again later") from error


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# What is remembered on the state file system, and told to the operator


def record_check(state: Path, found: Check) -> None:
    """Remember how the last check of the durable pool's metadata ended."""
    marks.write(state / _CHECK, json.dumps({"outcome": found.value, "at": int(time.time())}))


def record_dump(state: Path) -> None:
    """Remember that a dump read all of the metadata without an error: as good as the check that was not finished."""
    if _recorded(state / _CHECK).get("outcome") == Check.NOT_FINISHED:
        marks.write(state / _CHECK, json.dumps({"outcome": _READ_WHOLE, "at": int(time.time())}))


def record_backup(state: Path, trouble: str) -> None:
    """Remember how the last scheduled backup ended: ``trouble`` is empty when it has all that it should have."""
    last = _recorded(state / _BACKUP).get("good", 0)
    good = last if trouble else int(time.time())
    marks.write(state / _BACKUP, json.dumps({"good": good, "at": int(time.time()), "trouble": trouble}))


def last_backup(state: Path) -> int | None:
    """When the last scheduled backup ended that has all that it should have, in seconds since the epoch."""
    good = _recorded(state / _BACKUP).get("good")
    # A bool is an int to Python, and none to people.
    return good if type(good) is int and good > 0 else None


def problems(state: Path, now: float) -> tuple[Problem, ...]:
    """What an operator should know of the checks and the backups. ``now`` in seconds since the epoch."""
    found = []
    if _recorded(state / _CHECK).get("outcome") == Check.NOT_FINISHED:
        what = "the check of the pool's metadata at the last start was not finished in time"
        found.append(Problem(Health.DEGRADED, what, "run `hatchery-store backup`: it reads all of the metadata"))
    last = _recorded(state / _BACKUP)
    good = last_backup(state)
    if last.get("trouble"):
        what = f"the last backup has trouble: {last['trouble']}"
        found.append(Problem(Health.DEGRADED, what, "see `journalctl -u hatchery-backup`"))
    elif good is not None and now - good > _BACKUP_LATE:
        hours = int(now - good) // 3600
        what = f"the last backup of metadata and catalog is {hours} hours old"
        found.append(Problem(Health.DEGRADED, what, "run `hatchery-store backup`; see `systemctl list-timers`"))
    return tuple(found)


def _recorded(path: Path) -> dict[str, object]:
    try:
        found = json.loads(marks.read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
