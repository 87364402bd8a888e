"""A small NBD client: one request at a time, each answered before the next is sent.

Source: the NBD project's doc/proto.md (fixed newstyle handshake, option EXPORT_NAME, simple replies).
"""

import errno
import os
import socket
import struct
from pathlib import Path
from typing import Self


def door(client: str) -> Path:
    """Where the storage daemon of a client without TCP listens."""
    return Path(f"/run/hatchery/nbd/{client}/nbd.sock")


SOCKET = door("local")
"""Where the local client's storage daemon listens."""

_GREETING = struct.Struct(">8s8sH")
_OPTION = struct.Struct(">8sII")
_EXPORT = struct.Struct(">QH")
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_FIXED_NEWSTYLE, _NO_ZEROES = 1, 2
_EXPORT_NAME = 1
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM = 0, 1, 2, 3, 4


class NbdClient:
    """A connection to one export. Every verb raises OSError with the server's error number."""

    def __init__(self, name: str, path: Path = SOCKET, *, deadline: float = 60.0) -> None:
        """Connect to the export ``name``; each answer must come within ``deadline`` seconds."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(deadline)
        self._socket.connect(str(path))
        magic, options, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if (magic, options) != (b"NBDMAGIC", b"IHAVEOPT") or flags & 3 != _FIXED_NEWSTYLE | _NO_ZEROES:
            raise OSError(errno.EPROTO, f"{path} does not speak NBD as it should")
        word = name.encode()
        self._socket.sendall(
            struct.pack(">I", _FIXED_NEWSTYLE | _NO_ZEROES) + _OPTION.pack(b"IHAVEOPT", _EXPORT_NAME, len(word)) + word
        )
        self.size, _ = _EXPORT.unpack(self._receive(_EXPORT.size))

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from ``offset`` on."""
        self._ask(_READ, offset, length)
        return self._receive(length)

    def write(self, offset: int, data: bytes) -> None:
        """Write; acknowledged, but not flushed."""
        self._ask(_WRITE, offset, len(data), data)

    def flush(self) -> None:
        """What was acknowledged before is durable when this returns."""
        self._ask(_FLUSH, 0, 0)

    def trim(self, offset: int, length: int) -> None:
        """Give blocks back."""
        self._ask(_TRIM, offset, length)

    def close(self) -> None:
        """Disconnect."""
        try:
            self._socket.sendall(_REQUEST.pack(0x25609513, 0, _DISCONNECT, 0, 0, 0))
        except OSError:
            return
        finally:
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, kind: int, offset: int, length: int, data: bytes = b"") -> None:
        self._socket.sendall(_REQUEST.pack(0x25609513, 0, kind, 0, offset, length) + data)
        magic, error, _ = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != 0x67446698:
            raise OSError(errno.EPROTO, "an NBD reply begins with something else")
        if error:
            raise OSError(error, os.strerror(error))

    def _receive(self, length: int) -> bytes:
        parts = []
        while length:
            part = self._socket.recv(length)
            if not part:
                raise ConnectionResetError(errno.ECONNRESET, "the NBD server hung up")
            parts.append(part)
            length -= len(part)
        return b"".join(parts)
