"""Connections to an export that are through the handshake, ready for the kernel."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from appliance.attach import handshake
from appliance.attach.handshake import Export, Negotiation
from appliance.attach.target import Target
from appliance.errors import NotReady

HANDSHAKE = 10.0
"""Seconds in which the server must answer; the appliance's own gives a client as many."""

_UNANSWERED_MS = 30_000
"""After this long a peer that does not even acknowledge is dead: an appliance that lost its power says no goodbye."""


@dataclass(frozen=True, slots=True)
class Connections:
    """Open sockets to one export, and what the server says of it."""

    sockets: tuple[socket.socket, ...]
    export: Export


@contextmanager
def connections(target: Target, count: int) -> Iterator[Connections]:
    """``count`` connections, or one where the server does not allow several; closed at the end in any case.

    The kernel keeps references of its own to those that it was given. Raises NotReady, and what
    ``Negotiation.take`` raises.
    """
    with ExitStack() as opened:
        first = opened.enter_context(_reach(target))
        export = _negotiate(first, target)
        sockets = [first]
        while export.many and len(sockets) < count:
            further = opened.enter_context(_reach(target))
            _negotiate(further, target)
            sockets.append(further)
        yield Connections(tuple(sockets), export)


def _reach(target: Target) -> socket.socket:
    try:
        if target.socket is None:
            return _tcp(target)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            made.settimeout(HANDSHAKE)
            made.connect(str(target.socket))
        except BaseException:
            made.close()
            raise
    except OSError as error:
        hint = "is the appliance up, and the address right?"
        raise NotReady(f"{target.server} cannot be reached", why=str(error), hint=hint) from error
    return made


def _tcp(target: Target) -> socket.socket:
    made = socket.create_connection((target.host, target.port), timeout=HANDSHAKE)
    try:
        for level, option, value in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNANSWERED_MS),
        ):
            made.setsockopt(level, option, value)
    except BaseException:
        made.close()
        raise
    return made


def _negotiate(stream: socket.socket, target: Target) -> Export:
    """The handshake on a fresh socket, which blocks afterwards, as the kernel wants it."""
    negotiation = Negotiation(target)
    try:
        stream.sendall(handshake.answer(_receive(stream, handshake.GREETING_BYTES), target))
        while True:
            head = handshake.reply(_receive(stream, handshake.REPLY_BYTES), target)
            export = negotiation.take(head, _receive(stream, head.length))
            if export is not None:
                stream.settimeout(None)
                return export
    except TimeoutError as error:
        why = f"no answer within {HANDSHAKE:g} s: it may have all the connections that it takes"
        raise NotReady(f"{target.server} does not answer", why=why, hint="try again later") from error
    except OSError as error:
        hint = "the server's log may say more"
        raise NotReady(f"{target.server} ended the handshake", why=str(error), hint=hint) from error


def _receive(stream: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = stream.recv(length - len(data))
        if not piece:
            raise ConnectionResetError("it hung up")
        data += piece
    return data
