"""All of a small export, read without a device: NBD's simplest request, on one connection.

Source: the NBD project's doc/proto.md, simple replies.
"""

import socket
import struct

from appliance.attach.connection import HANDSHAKE, connections
from appliance.attach.target import Target
from appliance.errors import NotReady, Refused, Unhealthy

_REQUEST, _REPLY = struct.Struct(">IHHQQI"), struct.Struct(">IIQ")
_REQUEST_MAGIC, _REPLY_MAGIC = 0x25609513, 0x67446698
_READ, _DISCONNECT = 0, 2
_PIECE = 1 << 20


def read(target: Target, most: int) -> bytes:
    """An export's bytes, ``most`` at most. Raises what ``connections`` raises, Refused when there are more."""
    with connections(target, 1) as made:
        (stream,) = made.sockets
        stream.settimeout(HANDSHAKE)
        size = made.export.size
        if size > most:
            raise Refused(
                f"{target.export} is too large",
                why=f"it has {size} bytes, at most {most} are read",
                hint="is it the right export?",
            )
        try:
            data = b"".join(_piece(stream, at, min(_PIECE, size - at)) for at in range(0, size, _PIECE))
            stream.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        except OSError as error:
            raise NotReady(f"{target.server} does not answer", why=str(error)) from error
    return data


def _piece(stream: socket.socket, offset: int, length: int) -> bytes:
    stream.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _READ, offset, offset, length))
    magic, error, handle = _REPLY.unpack(_receive(stream, _REPLY.size))
    if (magic, error, handle) != (_REPLY_MAGIC, 0, offset):
        raise Unhealthy("an export cannot be read", why=f"the server answers with the error {error}")
    return _receive(stream, length)


def _receive(stream: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = stream.recv(length - len(data))
        if not piece:
            raise ConnectionResetError("it hung up")
        data += piece
    return bytes(data)
