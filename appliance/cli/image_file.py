"""The image that ``hatchery template add`` sends: a file, a compressed file, or the standard input.

An upload says first how large it is. What does not know that yet is unpacked into a temporary file (in ``TMPDIR``),
with holes where it has zeros.
"""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from appliance import schema
from appliance.errors import BadImage, InvalidInput, NoSpace
from appliance.model import MIB, Compression, ImageFormat
from appliance.progress import Bar
from appliance.unpack import DAMAGES, HEAD, UNPACK, Bytes, kind_of, stated

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STDIN = "-"

SUFFIXES = {".qcow2": ImageFormat.QCOW2, ".raw": ImageFormat.RAW, ".img": ImageFormat.RAW}
"""What a file's name states about its format; the content is never asked."""

BLOCK = 1 * MIB
"""Bytes that are read at once."""


class Packed(StrEnum):
    """What is said of how an image is packed."""

    AUTO = "auto"
    NONE = "none"
    GZIP = Compression.GZIP.value
    XZ = Compression.XZ.value
    ZSTD = Compression.ZSTD.value

    def kind(self, head: bytes, name: str) -> Compression | None:
        """How a file is packed that has this head and name."""
        if self is Packed.AUTO:
            return kind_of(head, name)
        return None if self is Packed.NONE else Compression(self.value)

    def for_appliance(self) -> schema.Packed:
        """The same, as the appliance is asked that looks at it itself."""
        return "auto" if self is Packed.AUTO else self.kind(b"", "")


Sent = Callable[[int], None]
"""Is told of bytes that are done."""


@dataclass(frozen=True, slots=True)
class Image:
    """An image that can be sent. ``checked``: its SHA-256 was compared here, with that of the compressed file."""

    file: IO[bytes]
    title: str
    length: int
    checked: bool

    def blocks(self, sent: Sent) -> Iterator[bytes]:
        """The bytes."""
        while block := self.file.read(BLOCK):
            yield block
            sent(len(block))


def inner_name(source: str) -> str:
    """The name without what says that it is compressed: its suffix states the image's format."""
    return source if stated(source) is None else str(Path(source).with_suffix(""))


def stated_format(name: str) -> ImageFormat:
    """The format that a file's name states. Raises InvalidInput when it states none."""
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInput(
            f"the format of {name!r} is not known",
            why=f"its name ends in none of {', '.join(SUFFIXES)}",
            hint="state it: --format raw or --format qcow2",
        )
    return SUFFIXES[suffix]


class _Watched:
    """Bytes of a file, each told of as it is read."""

    def __init__(self, raw: IO[bytes], read: Sent) -> None:
        self._raw = raw
        self._read = read

    def read(self, size: int = -1, /) -> bytes:
        """See Bytes."""
        block = self._raw.read(size)
        self._read(len(block))
        return block

    def readinto(self, target: bytearray, /) -> int:
        """As that; hashing wants it so."""
        count: int = self._raw.readinto(target)  # type: ignore[attr-defined]  # a buffered one has it
        self._read(count)
        return count

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is read from its beginning to its end."""
        return False


@contextmanager
def opened(source: str, sha256: str | None, bar: Bar, said: Packed = Packed.AUTO) -> Iterator[Image]:
    """The image in a file, or in the standard input when ``source`` is ``-``; packed as it is ``said``. What is read
    meanwhile moves the bar.

    Raises InvalidInput when it cannot be read, BadImage when it is damaged or has another checksum, NoSpace.
    """
    title = "the standard input" if source == STDIN else Path(source).name
    with contextlib.ExitStack() as stack:
        try:
            raw = sys.stdin.buffer if source == STDIN else stack.enter_context(Path(source).open("rb"))
            length = _length(raw)
            head = raw.read(HEAD)
            packed = said.kind(head, source)
            whole: IO[bytes] = io.BufferedReader(_Behind(head, raw), BLOCK)
            again = raw.seekable()
            if packed is None and source != STDIN and again:
                raw.seek(0)
                file = raw
            else:
                file = stack.enter_context(tempfile.TemporaryFile(prefix="hatchery-image-"))
                if packed is not None and sha256 is not None:
                    if not again:
                        # The checksum is that of what is packed, and is to be known before that is unpacked.
                        raw = stack.enter_context(tempfile.TemporaryFile(prefix="hatchery-packed-"))
                        shutil.copyfileobj(whole, raw, BLOCK)
                    bar.begin(f"comparing {title}", length)
                    _compare(raw, title, sha256, bar)
                    whole = raw
                bar.begin(f"reading {title}" if packed is None else f"unpacking {title}", length)
                watched = cast(IO[bytes], _Watched(whole, bar.add))  # as much of a file as unpacking asks for
                _spool(watched if packed is None else UNPACK[packed](watched), file)
        except DAMAGES as error:
            hint = "fetch it once more, or unpack it yourself"
            raise BadImage(f"{title} cannot be unpacked", why=str(error), hint=hint) from error
        except OSError as error:
            if error.errno == errno.ENOSPC:
                hint = "let TMPDIR name a folder with more space, or unpack the image yourself"
                raise NoSpace(f"{title} cannot be unpacked", why=error.strerror or str(error), hint=hint) from error
            raise InvalidInput(
                f"{title} cannot be read",
                why=error.strerror or str(error),
                hint="is its path right, and may you read it?",
            ) from error
        length = os.fstat(file.fileno()).st_size
        if length == 0:
            raise InvalidInput(f"{title} is not a disk image", why="it is empty")
        yield Image(file, title, length, checked=packed is not None and sha256 is not None)


class _Behind(io.RawIOBase):
    """A file again from its beginning, whose first bytes were read: a pipe does not go back."""

    def __init__(self, head: bytes, raw: IO[bytes]) -> None:
        super().__init__()
        self._left = head
        self._raw = raw

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """The next bytes; how many. None at the end."""
        with memoryview(buffer) as target:
            chunk = self._left[: len(target)] or self._raw.read(len(target))
            self._left = self._left[len(target) :]
            target[: len(chunk)] = chunk
        return len(chunk)


def _length(raw: IO[bytes]) -> int | None:
    """Bytes of a file; None of what is none, a pipe above all, which does not know it."""
    try:
        found = os.fstat(raw.fileno())
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _spool(source: Bytes, target: IO[bytes]) -> None:
    while block := source.read(BLOCK):
        if block.count(0) == len(block):
            target.seek(len(block), os.SEEK_CUR)
        else:
            target.write(block)
    # A hole at the end is part of it too.
    target.truncate(target.tell())
    target.seek(0)


def _compare(raw: IO[bytes], title: str, sha256: str, bar: Bar) -> None:
    raw.seek(0)
    digest = hashlib.file_digest(_Watched(raw, bar.add), "sha256").hexdigest()
    if digest != sha256.lower():
        raise BadImage(f"{title} is not the image that was meant", why=f"its SHA-256 is {digest}", hint="fetch it anew")
    raw.seek(0)
