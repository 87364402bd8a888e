"""The digest of an image's inputs, under which its result is kept."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_SKIP = {"__pycache__", ".git", ".mkosi-private"}


def _walk(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for child in sorted(path.iterdir()):
        if child.name not in _SKIP and child.suffix != ".pyc":
            yield from _walk(child)


def digest(root: Path, paths: Iterable[str], *facts: str) -> str:
    """Return 16 hexadecimal digits that change when an input does.

    Counted are the names below `root`, contents, executable bits and targets of symbolic links of all files under
    `paths`, and the given facts. Left out are times, owners, and what Python caches.
    """
    total = hashlib.sha256()
    for fact in facts:
        total.update(f"fact {fact}\0".encode())
    for name in sorted(paths):
        for file in _walk(root / name):
            mode = file.lstat().st_mode
            if stat.S_ISLNK(mode):
                kind, content = "link", os.fsencode(file.readlink())
            else:
                kind, content = ("program" if mode & stat.S_IXUSR else "file"), file.read_bytes()
            total.update(f"{kind} {file.relative_to(root)} {len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()[:16]
