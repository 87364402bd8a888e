"""Unpacking gzip, xz and zstd: piece by piece, and not without noticing that the end is missing."""

import gzip
import lzma
import zlib
from collections.abc import Callable, Mapping
from typing import IO, Protocol

from appliance.model import Compression

PIECE = 1024
"""Bytes of zstd that are unpacked at a time. A block of it has at least 4 bytes and at most 128 KiB in it, so that no
more than 32 MiB come of them; zstandard itself refuses what needs a window of more than 128 MiB."""

_READ = 1024 * PIECE


class Bytes(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most that many; none at the end."""


class Damaged(Exception):
    """It is no zstd, or not whole, or needs too much memory."""


class ZstdFile:
    """What is packed in a file: one frame, or several after each other, as ``zstd`` takes them."""

    def __init__(self, raw: Bytes) -> None:
        # Imported late: nothing else needs it.
        import zstandard

        self._library = zstandard
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False
        """Whether some of the frame was there, and not all of it."""
        self._any = False
        self._packed = memoryview(b"")
        self._plain = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end. Raises Damaged, OSError."""
        while not self._plain:
            if not self._packed:
                self._packed = memoryview(self._raw.read(_READ))
                if not self._packed:
                    if self._begun or not self._any:
                        raise Damaged("it ends before its end")
                    return b""
            self._unpack()
        found, self._plain = bytes(self._plain[:size]), self._plain[size:]
        return found

    def _unpack(self) -> None:
        piece = self._packed[:PIECE]
        try:
            self._plain = memoryview(self._frame.decompress(piece))
        except self._library.ZstdError as error:
            raise Damaged(str(error)) from error
        self._begun = self._any = True
        taken = len(piece)
        if self._frame.eof:
            taken -= len(self._frame.unused_data)
            self._frame = self._library.ZstdDecompressor().decompressobj()
            self._begun = False
        self._packed = self._packed[taken:]


UNPACK: Mapping[Compression, Callable[[IO[bytes]], Bytes]] = {
    Compression.GZIP: lambda raw: gzip.GzipFile(fileobj=raw, mode="rb"),
    Compression.XZ: lambda raw: lzma.LZMAFile(raw, "rb"),  # noqa: SIM115 - it closes no file, and holds none
    Compression.ZSTD: ZstdFile,
}
"""What reads the content of a packed file."""

DAMAGES = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, Damaged)
"""What reading raises when the file is not what it should be."""


MAGIC: Mapping[Compression, tuple[bytes, ...]] = {
    # RFC 1952 (with the one method that there is), the xz file format 1.2, RFC 8878 (a frame, or one that is skipped).
    Compression.GZIP: (b"\x1f\x8b\x08",),
    Compression.XZ: (b"\xfd7zXZ\0",),
    Compression.ZSTD: (b"\x28\xb5\x2f\xfd", *(bytes((kind, 0x2A, 0x4D, 0x18)) for kind in range(0x50, 0x60))),
}
"""What packed files begin with."""

HEAD = max(len(magic) for magics in MAGIC.values() for magic in magics)
"""Bytes that tell."""


def kind_of(head: bytes, name: str) -> Compression | None:
    """How a file is packed: by what it begins with (``HEAD`` bytes of it), or else as its name states it.

    No more is known than that somebody may take it for packed so. Whether it is, shows when it is unpacked.
    """
    told = next((kind for kind, magics in MAGIC.items() if head.startswith(magics)), None)
    return told or stated(name)


def stated(name: str) -> Compression | None:
    """How a file is packed, as the end of its name states it."""
    return next((each for each in Compression if name.lower().endswith(f".{each}")), None)
