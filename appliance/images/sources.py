"""Where an image's bytes come from: an upload, a URL, a file. Each yields chunks of bytes, once."""

import contextlib
import hashlib
import os
import queue
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from appliance.errors import BadImage, DeadlineExceeded, InvalidInput, NotFound, NotReady, Refused, Unhealthy
from appliance.model import MIB
from appliance.redact import shown_url

CHUNK = 1 * MIB
"""Bytes that are read at a time."""


class Source(Protocol):
    """An image's bytes."""

    def size(self) -> int | None:
        """How many there will be; None when only the end will tell. Raises HatcheryError when it cannot be had."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes. Raises HatcheryError when they break off."""

    def close(self) -> None:
        """No more of them are wanted."""


class Counted:
    """Another source, whose bytes are counted and hashed as they pass. See ``Source``."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self.taken = 0
        """Bytes that have passed."""

    def size(self) -> int | None:
        """See Source."""
        return self._source.size()

    def chunks(self) -> Iterator[bytes]:
        """See Source."""
        for chunk in self._source.chunks():
            self._digest.update(chunk)
            self.taken += len(chunk)
            yield chunk

    def close(self) -> None:
        """See Source."""
        self._source.close()

    def sha256(self) -> str:
        """The digest of what has passed."""
        return self._digest.hexdigest()


class Peeked:
    """Another source, whose first bytes can be looked at before they are taken. See ``Source``."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._head = b""
        self._rest: Iterator[bytes] | None = None

    def head(self, count: int) -> bytes:
        """The first bytes, ``count`` or all that there are. Waits for them; to be asked for once, before all others."""
        self._rest = self._source.chunks()
        while len(self._head) < count and (chunk := next(self._rest, b"")):
            self._head += chunk
        return self._head[:count]

    def size(self) -> int | None:
        """See Source."""
        return self._source.size()

    def chunks(self) -> Iterator[bytes]:
        """See Source."""
        if self._head:
            yield self._head
        yield from self._source.chunks() if self._rest is None else self._rest

    def close(self) -> None:
        """See Source."""
        self._source.close()


class FileSource:
    """A file on the appliance that everybody may read.

    The service reads as root: a file that is closed to others must not leave the box as a template.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def size(self) -> int | None:
        """See Source."""
        if not self._path.is_absolute():
            raise InvalidInput(
                f"{self._path} is not an absolute path",
                why="it does not begin with /",
                hint="give it from / on, as the appliance sees it",
            )
        try:
            for parent in self._path.resolve(strict=True).parents:
                if not parent.stat().st_mode & stat.S_IXOTH:
                    raise self._closed(parent)
            status = self._path.stat()
        except FileNotFoundError as error:
            hint = "the path is meant on the appliance; the service does not see /home, /root, /tmp and /var/tmp"
            raise NotFound(
                f"{self._path} does not exist", why="the service sees no such file on the appliance", hint=hint
            ) from error
        except OSError as error:
            raise InvalidInput(
                f"{self._path} cannot be read",
                why=str(error),
                hint="is it a file on the appliance, and is its disk well?",
            ) from error
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(
                f"{self._path} is not a file", why="it is a folder or a device", hint="name the image's file"
            )
        if not status.st_mode & stat.S_IROTH:
            raise self._closed(self._path)
        return status.st_size

    def _closed(self, path: Path) -> Refused:
        return Refused(
            f"{self._path} is not imported",
            why=f"{path} is closed to other users",
            hint="open it to all (chmod o+rx for folders, o+r for the file), or upload the image",
        )

    def chunks(self) -> Iterator[bytes]:
        """See Source."""
        try:
            with self._path.open("rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise BadImage(
                f"{self._path} cannot be read",
                why=str(error),
                hint="look after the disk that it lies on: `journalctl -k` on the appliance",
            ) from error

    def close(self) -> None:
        """See Source."""


class DeviceSource:
    """A block device of the appliance that nobody writes to, ``length`` bytes of it; past the page cache."""

    def __init__(self, device: Path, length: int) -> None:
        self._device = device
        self._length = length
        self._closed = False

    def size(self) -> int | None:
        """See Source."""
        return self._length

    def chunks(self) -> Iterator[bytes]:
        """See Source."""
        direct = os.O_DIRECT if self._device.is_block_device() else 0
        # Anonymous memory is aligned to a page, as O_DIRECT wants it.
        piece = mmap(-1, CHUNK)
        try:
            fd = os.open(self._device, os.O_RDONLY | os.O_CLOEXEC | direct)
            try:
                for offset in range(0, self._length, CHUNK):
                    if self._closed:
                        raise NotReady(
                            "the copy was broken off",
                            why="the service ends",
                            hint="begin it again when the service is back: `hatchery status`",
                        )
                    count = os.preadv(fd, [piece], offset)
                    yield piece[: min(count, self._length - offset)]
            finally:
                os.close(fd)
        except OSError as error:
            raise Unhealthy(f"{self._device} cannot be read", why=str(error)) from error

    def close(self) -> None:
        """See Source."""
        self._closed = True


def check_url(url: str) -> str:
    """The URL, if it is an http or https one. Raises InvalidInput."""
    hint = "upload the image, or give http://HOST/PATH"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable()
    except ValueError:
        # Its words may be a part of a password.
        why = "its host and port cannot be read; what is no letter or digit in a password is written as %XX"
        raise InvalidInput(f"{shown_url(url)!r} is not an http or https URL", why=why, hint=hint) from None
    if not known:
        why = "it does not begin with http:// or https:// and a host, or has characters that cannot be printed"
        raise InvalidInput(f"{shown_url(url)!r} is not an http or https URL", why=why, hint=hint)
    return url


@dataclass(frozen=True, slots=True)
class Manner:
    """How a URL is asked for.

    ``begin`` bytes are there already: a server that can begins after them, if the file is still the one with the
    ``mark``, where that is known. ``encrypted``: by https alone, wherever the
    server sends on to. ``authority``: in PEM, the one authority whose certificates count; empty: those that the
    machine knows. ``look``: only the size is wanted.
    """

    begin: int = 0
    mark: str = ""
    encrypted: bool = False
    authority: str = ""
    look: bool = False


PLAIN = Manner()
"""All of it, by http or https."""


class WebSource(Source, Protocol):
    """Bytes from a URL. ``size`` is how many will come."""

    def begins(self) -> int:
        """Where in the file the bytes begin: 0 if the server cannot go on where somebody stopped."""

    def mark(self) -> str:
        """What the server knows this content by: another one has another mark; empty if it says nothing of it."""


class Opener(Protocol):
    """What opens URLs."""

    def __call__(self, url: str, manner: Manner = PLAIN) -> WebSource:
        """Nothing is asked of the server yet. Raises InvalidInput."""


def open_url(url: str, manner: Manner = PLAIN) -> WebSource:
    """An http or https URL. Raises InvalidInput."""
    # Only who fetches pays for it: to load an HTTP client is a good part of a service's start.
    from appliance.images.http_source import UrlSource

    return UrlSource(url, manner)


class UploadSource:
    """Bytes that another thread hands over, a few at a time; who is too fast waits."""

    DEPTH = 4
    """Chunks that may wait."""

    def __init__(self, size: int, *, patience: float = 60.0) -> None:
        """``size`` bytes are expected; ``patience`` is how many seconds the next ones may take."""
        self._size = size
        self._patience = patience
        self._queue: queue.Queue[bytes | None] = queue.Queue(self.DEPTH)
        self._ended = threading.Event()
        self._complete = False

    def put(self, chunk: bytes) -> bool:
        """Hand bytes over; false when nobody takes them any more."""
        return self._put(chunk)

    def end(self) -> bool:
        """All bytes were handed over, or the sender is gone: the size tells which."""
        return self._put(None)

    def _put(self, item: bytes | None) -> bool:
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False

    def wait_taken(self) -> bool:
        """Wait until the other side has taken all; false when it has given up."""
        self._ended.wait()
        return self._complete

    def size(self) -> int | None:
        """See Source."""
        return self._size

    def chunks(self) -> Iterator[bytes]:
        """See Source. Raises DeadlineExceeded when nothing comes, BadImage when too little came."""
        left = self._size
        while True:
            try:
                chunk = self._queue.get(timeout=self._patience)
            except queue.Empty as error:
                raise DeadlineExceeded(
                    f"the upload stands still: {left} bytes are missing",
                    why=f"none came for {self._patience:g} s",
                    hint="upload it again; does the connection to the appliance hold?",
                ) from error
            if chunk is None:
                break
            left -= len(chunk)
            yield chunk
        if left > 0:
            raise BadImage(
                "the upload broke off", why=f"{left} of {self._size} bytes are missing", hint="upload it again"
            )
        self._complete = True
        self._ended.set()

    def close(self) -> None:
        """See Source. Who waits for bytes in another thread takes that for the end."""
        self._ended.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)
