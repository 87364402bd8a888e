"""Files that a module puts onto a machine as a whole, with their owners and modes, secret ones among them."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path


class Wrong(Exception):
    """What is wanted cannot be: what, why, and what to do."""

    def __init__(self, what: str, why: str, hint: str) -> None:
        super().__init__(what)
        self.words = {"code": "invalid-input", "what": what, "why": why, "hint": hint}


@dataclass(frozen=True)
class Thing:
    """A file, or a folder if it has no ``content``: as it is, or as it is wanted. A ``secret`` one is not shown."""

    path: Path
    mode: int
    uid: int
    gid: int
    content: bytes | None = None
    secret: bool = False

    def words(self, before: Thing | None = None) -> str:
        """It in words, for a diff; ``before`` is what was there instead."""
        if self.content is None:
            what, more = "folder", ""
        elif self.secret:
            what, more = "key" if before is None or before.content == self.content else "another key", ""
        elif self.path.suffix == ".pem":
            what, more = f"sha256 {hashlib.sha256(self.content).hexdigest()}", ""
        else:
            what, more = "file", self.content.decode(errors="replace")
        return f"{self.path} {_user(self.uid)}:{_group(self.gid)} {self.mode:04o} {what}\n{more}"


def missing_above(path: Path) -> list[Thing]:
    """The folders that there must be for a path and that are not there, the outermost first."""
    return [Thing(above, 0o755, *ourselves()) for above in reversed(path.parents) if not above.is_dir()]


def ourselves() -> tuple[int, int]:
    """Our user and group, which is root on a real machine."""
    return os.geteuid(), os.getegid()


def look(path: Path, *, secret: bool = False) -> Thing | None:
    """What is at a path. A link to a folder counts as one, any other as a file that has the link's words.

    Raises Wrong when it is neither a file nor a folder.
    """
    try:
        status = path.stat() if path.is_dir() else path.lstat()
    except FileNotFoundError:
        return None
    content = None if stat.S_ISDIR(status.st_mode) else b""
    if stat.S_ISREG(status.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsencode(path.readlink())
    elif content is not None:
        raise Wrong(f"{path} is not touched", "it is neither a file nor a folder", "look what it is, and move it away")
    return Thing(path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content, secret)


def put(thing: Thing) -> None:
    """Make a folder or file what it shall be. A file is replaced as a whole, and never open to others before."""
    if thing.content is None:
        thing.path.mkdir(mode=0o700, exist_ok=True)
        os.chown(thing.path, thing.uid, thing.gid)
        thing.path.chmod(thing.mode)
        return
    fresh = thing.path.with_name(f".{thing.path.name}.new")
    if fresh.is_symlink() or fresh.exists():
        fresh.unlink()
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:  # noqa: PTH123  a descriptor
        file.write(thing.content)
        file.flush()
        os.fchown(handle, thing.uid, thing.gid)
        os.fchmod(handle, thing.mode)
        os.fsync(handle)
    fresh.replace(thing.path)


def take_away(thing: Thing) -> None:
    """Remove a file or an empty folder."""
    if thing.content is None:
        thing.path.rmdir()
    else:
        thing.path.unlink()


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
