"""A bundle that is fetched from a URL, file by file, into a folder of its own.

Its description (SHA256SUMS, the signature of that, bundle.json) is small and comes first. Once the signature counts it
says what every other file is and how large it can be at most, so that a server can make us fetch neither more nor
something else. What broke off stays, to be gone on with: for the bundle of the same SHA256SUMS and no other.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from appliance.errors import BadImage, DeadlineExceeded, InvalidInput, NoSpace, NotFound, NotReady
from appliance.images.sources import Manner, Opener
from appliance.model import MIB
from appliance.progress import QUIET, Bar
from appliance.update.bundle import ABOUT, SIGNATURE, SUMS, Bundle

DESCRIPTION = (SUMS, SIGNATURE, ABOUT)
DESCRIPTION_MAX = 64 * 1024
MANIFEST_MAX = 16 * MIB
"""Bytes that each file of the description, and the list of packages, may have."""

RESERVE = 64 * MIB
"""Bytes that the file system keeps free for what else is written to it."""

_PART = ".part"
"""After the name of a file that is not whole."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """When fetching is given up: after ``tries`` connections in a row without a new byte, or ``deadline`` seconds.

    ``pause`` is how many seconds lie between two such connections.
    """

    tries: int = 5
    pause: float = 5.0
    deadline: float = 7200.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bundle is: the URL of its folder, with a slash at its end, and how that is asked for."""

    url: str
    manner: Manner
    open_url: Opener


def describe(place: Place) -> dict[str, bytes]:
    """The files of a bundle's description; nothing in them is verified yet. Raises NotFound, and what Opener raises."""
    return {name: _small(place, name) for name in DESCRIPTION}


def _small(place: Place, name: str) -> bytes:
    url = place.url + name
    source = place.open_url(url, place.manner)
    content = b""
    try:
        for chunk in source.chunks():
            content += chunk
            if len(content) > DESCRIPTION_MAX:
                raise InvalidInput(f"{url} is too large", why=f"it has more than {DESCRIPTION_MAX} bytes")
    except NotFound as error:
        raise _no_bundle(place, name, error) from error
    except BadImage as error:
        raise NotReady(error.what, why=error.why, hint=error.hint) from error
    finally:
        source.close()
    return content


def _no_bundle(place: Place, name: str, error: NotFound) -> NotFound:
    return NotFound(
        f"{place.url} is no update bundle",
        why=f"{name}: {error.why}",
        hint="give the URL of the folder that `script/image bundle` made",
    )


def write(folder: Path, description: Mapping[str, bytes]) -> None:
    """Put a description into a folder."""
    for name, content in description.items():
        (folder / name).write_bytes(content)


def limits(made: Bundle, names: Iterable[str]) -> dict[str, int]:
    """How many bytes each file of a bundle can have, by what its owner signed; the description is left out."""
    return {name: _limit(made, name) for name in names if name not in DESCRIPTION}


def _limit(made: Bundle, name: str) -> int:
    if name.endswith(".efi"):
        return made.uki_size
    if name.endswith(".manifest"):
        return MANIFEST_MAX
    plain = made.verity_size if ".usr-verity_" in name else made.usr_size
    # What cannot be packed grows by five bytes in 16 KiB, and by a head and a tail (RFC 1951, 1952).
    return plain + plain // 1024 + 1024


def sizes(place: Place, most: Mapping[str, int]) -> dict[str, int]:
    """How large the server says that files are. Raises InvalidInput for one that can be none of this bundle."""
    found: dict[str, int] = {}
    for name, limit in most.items():
        source = place.open_url(place.url + name, replace(place.manner, look=True))
        try:
            size = source.size()
        except NotFound as error:
            raise _no_bundle(place, name, error) from error
        finally:
            source.close()
        if size is None:
            raise InvalidInput(
                f"{place.url}{name} is not fetched",
                why="the server does not say how large it is",
                hint="offer the bundle by a server that gives files as they are",
            )
        if size > limit:
            raise InvalidInput(
                f"{place.url}{name} is not what was signed",
                why=f"it has {size} bytes, and by its description {limit} at most",
                hint="put the bundle there again",
            )
        found[name] = size
    return found


class Spool:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def holds(self, description: Mapping[str, bytes]) -> bool:
        """Whether what is in it is of this bundle."""
        try:
            return (self.folder / SUMS).read_bytes() == description[SUMS]
        except OSError:
            return False

    def begin(self, description: Mapping[str, bytes]) -> None:
        """Make it this bundle's: what is left of another one goes."""
        if not self.holds(description):
            self.clear()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(self.folder, description)

    def clear(self) -> None:
        """Remove it."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def check_room(self, wanted: Mapping[str, int]) -> None:
        """Check that files of these sizes will fit. Raises NoSpace.

        What is here is of them, or goes before they come.
        """
        here = sum(file.stat().st_size for file in self.folder.iterdir()) if self.folder.exists() else 0
        needed = sum(wanted.values()) - here
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        status = os.statvfs(existing)
        free = status.f_bavail * status.f_frsize - RESERVE
        if needed > max(0, free):
            raise NoSpace(
                "the bundle cannot be fetched",
                why=f"{needed} bytes are needed, and {max(0, free)} are free for it",
                hint=f"make room on the file system of {self.folder}",
            )

    def fetch(
        self, place: Place, wanted: Mapping[str, int], sums: Mapping[str, str], patience: Patience, bar: Bar = QUIET
    ) -> None:
        """Fetch what is not here, or not whole: files of these sizes and digests. ``bar`` moves with their bytes.

        Raises NotReady when the server does not give a file whole, after which this can be done again; InvalidInput
        when it is not what was signed; NoSpace.
        """
        known = {*DESCRIPTION, *wanted, *(name + _PART for name in wanted)}
        for file in self.folder.iterdir():
            if file.name not in known:
                file.unlink()
        end = time.monotonic() + patience.deadline
        whole, before = sum(wanted.values()), 0
        for name, size in wanted.items():
            if not (self.folder / name).exists():
                log.info("fetching %s, %d MiB", name, -(-size // MIB))
                far = _Far(bar, f"fetching {name}", before, whole)
                self._whole(place, name, size, patience, end, far)
                self._keep(name, sums[name])
            before += size

    def _whole(self, place: Place, name: str, size: int, patience: Patience, end: float, far: "_Far") -> None:
        """Connect until all of a file is here."""
        part = self._part(name)
        part.touch(mode=0o600)
        if _size(part) > size:
            os.truncate(part, 0)
        idle, most = 0, _size(part)
        while _size(part) < size:
            why = "the connection ended"
            try:
                self._more(place, name, size, end, far)
            except (NotReady, BadImage, DeadlineExceeded) as error:
                why = error.why or error.what
            idle = 0 if _size(part) > most else idle + 1
            most = max(most, _size(part))
            if _size(part) < size:
                if idle >= patience.tries or time.monotonic() >= end:
                    raise NotReady(
                        f"{place.url}{name} broke off",
                        why=f"{_size(part)} of {size} bytes came: {why}",
                        hint="do the same again: it goes on where it stopped",
                    )
                log.warning("%s broke off after %d of %d bytes: %s", name, _size(part), size, why)
                time.sleep(patience.pause if idle else 0)

    def _more(self, place: Place, name: str, size: int, end: float, far: "_Far") -> None:
        """Take what one connection brings. Raises NotReady, BadImage, DeadlineExceeded when that is not all."""
        part = self._part(name)
        there = _size(part)
        source = place.open_url(place.url + name, replace(place.manner, begin=there))
        try:
            coming, begins = source.size(), source.begins()
            if coming is None or begins not in (0, there) or begins + coming != size:
                raise InvalidInput(
                    f"{place.url}{name} is not what was signed",
                    why=f"it had {size} bytes a moment ago",
                    hint="put the bundle there again",
                )
            with part.open("r+b") as file:
                file.truncate(begins)
                file.seek(begins)
                for chunk in source.chunks():
                    _append(file, chunk, size)
                    far.at(file.tell())
                    if time.monotonic() >= end:
                        raise DeadlineExceeded("the bundle was not fetched in time", why="the server is too slow")
        finally:
            source.close()

    def _keep(self, name: str, digest: str) -> None:
        """Give a file its name if it is what was signed. Raises InvalidInput."""
        part = self._part(name)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        if found != digest:
            raise InvalidInput(
                f"{name} is not what was signed",
                why="the server has another file of this name and size",
                hint="put the bundle there again",
            )
        part.rename(self.folder / name)

    def _part(self, name: str) -> Path:
        return self.folder / (name + _PART)


@dataclass(frozen=True, slots=True)
class _Far:
    """How far the fetching of all files is while one comes; ``before`` are the bytes of those before it."""

    bar: Bar
    words: str
    before: int
    whole: int

    def at(self, done: int) -> None:
        """So much of the file is here."""
        self.bar.tell(self.words, self.before + done, self.whole)


def _append(file: BinaryIO, chunk: bytes, size: int) -> None:
    if file.tell() + len(chunk) > size:
        raise InvalidInput(f"the server gives more than {size} bytes", why="it said that there were no more")
    file.write(chunk)
    file.flush()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
