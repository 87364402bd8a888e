"""Small files on the state file system that say how something was left. On stable storage when a verb returns."""

import os
from pathlib import Path


def write(path: Path, text: str = "") -> None:
    """Leave a mark: after a crash it is there whole or not at all, as far as anybody can tell from its text."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode("ascii"))
        os.fsync(fd)
    finally:
        os.close(fd)
    _sync(path.parent)


def read(path: Path) -> str | None:
    """The mark's text, or None when there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def remove(path: Path) -> None:
    """Take a mark away; fine when there is none."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
