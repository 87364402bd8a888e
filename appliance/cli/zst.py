"""Unpacking zstd as Python's own libraries unpack gzip and xz: piece by piece, and not without noticing its end."""

from typing import IO

PIECE = 1024
"""Bytes that are unpacked at a time. A block of zstd has at least 4 bytes and at most 128 KiB in it, so that no more
than 32 MiB come of them; zstandard itself refuses what needs a window of more than 128 MiB."""

_READ = 1024 * PIECE


class Damaged(Exception):
    """It is no zstd, or not whole, or needs too much memory."""


class ZstdFile:
    """What is packed in a file: one frame, or several after each other, as ``zstd`` takes them."""

    def __init__(self, raw: IO[bytes]) -> None:
        # Imported late: no other command needs it.
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
