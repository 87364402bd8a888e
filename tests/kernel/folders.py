"""The labs' folders on the host: made with a lock, swept when their owner is gone."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.run import Runner


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for prepared disks, removed at the end."""
    folder, lock = own_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def pycache() -> Path:
    """Where the labs keep byte code between them: in the project's cache."""
    base = os.environ.get("HATCHERY_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/hatchery"
    folder = Path(base) / "lab-pycache"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


_PREFIX = "hatchery-lab-"


def own_folder() -> tuple[Path, int]:
    """A new folder with a lock on it, and first the removal of folders whose owner was killed."""
    base = Path(tempfile.gettempdir())
    for stale in base.glob(f"{_PREFIX}*"):
        try:
            handle = os.open(stale, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - stale.stat().st_mtime > 60:
                shutil.rmtree(stale, ignore_errors=True)
        except OSError:
            pass  # it has a living owner
        finally:
            os.close(handle)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return folder, handle


def copy(source: Path, target: Path) -> None:
    """Copy a folder's content, holes kept, sharing blocks where the file system can."""
    target.mkdir(parents=True, exist_ok=True)
    Runner().run(["cp", "-a", "--sparse=always", "--reflink=auto", f"{source}/.", target], timeout=300)
