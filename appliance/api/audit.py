"""The audit log: every request that would change something, with who sent it and what became of it.

Each is a line of ``hatchery-audit`` in the journal, with fields of its own; ``journalctl -t hatchery-audit``. Whoever
has the API's socket is known by the kernel's word: user and process at the other end of it. By SSH that is the login's
shell, and its own log says whose key it was.

What changes without a request, and what commands change without the API, is there too (``appliance.host.audit``).

Of a request's body only what names things is kept. Keys and user data are never among it.
"""

import json
import socket
import struct
from asyncio import Transport
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from appliance.host import journal
from appliance.host.audit import Tell, process, who_in_words, write
from appliance.service.events import ASKED

NAMES = ("name", "template", "clones", "client", "count", "kind", "shared", "size", "which", "serials", "transport")
"""What of a body names things, in the order in which it is told."""

MOST = 64 * 1024
"""Bytes of a body that are looked at; what is larger names nothing."""

MOST_PATH = 500
"""Characters of a path that are told: nothing that exists has a longer one."""

_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
_PEER = struct.Struct("3i")


class Protocol(H11Protocol):
    """HTTP on a unix socket that knows who is at the other end."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # asyncio's own is wider
        """Ask the kernel, which noted it when the other end connected."""
        super().connection_made(transport)
        found: socket.socket | None = transport.get_extra_info("socket")
        if found is not None and found.family == socket.AF_UNIX:
            pid, user, _ = _PEER.unpack(found.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
            self.client = (str(user), pid)


def audited(app: ASGIApp, tell: Tell = journal.send) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The application, each request that would change something written down just before it is answered."""

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _LOOKING:
            await app(scope, receive, send)
            return
        ASKED.set(True)  # in this request's own context
        begun = _who(scope)
        seen = _Body(receive, _is_json(scope))
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        written = False

        def note(status: int) -> None:
            nonlocal written
            if not written:
                written = True
                _write(scope, begun, seen.names(), status, str(state.get("problem", "")), tell)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                note(message["status"])
            await send(message)

        try:
            await app(scope, seen.receive, answer)
        finally:
            note(0)  # it has no answer

    return watched


class _Body:
    """What comes in, kept while it is small."""

    def __init__(self, receive: Receive, wanted: bool) -> None:
        self._receive = receive
        self._kept: bytearray | None = bytearray() if wanted else None

    async def receive(self) -> Message:
        """The next message, as it is."""
        message = await self._receive()
        if self._kept is not None and message["type"] == "http.request":
            self._kept += message.get("body", b"")
            if len(self._kept) > MOST:
                self._kept = None
        return message

    def names(self) -> str:
        """What it names, in words."""
        try:
            found = json.loads(self._kept or b"")
        except (ValueError, RecursionError):
            return ""
        if not isinstance(found, dict):
            return ""
        told = [(key, found[key]) for key in NAMES if found.get(key) not in (None, False)]
        return " ".join(f"{key}={_short(value)}" for key, value in told)


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(_short(each) for each in value[:20]) + (",..." if len(value) > 20 else "")
    return str(value)[:200] if isinstance(value, str | int | float) else "..."


def _is_json(scope: Scope) -> bool:
    return any(name == b"content-type" and b"json" in value for name, value in scope["headers"])


def _who(scope: Scope) -> dict[str, str]:
    """Who sent a request, before he may have gone."""
    user, pid = scope.get("client") or ("", 0)
    if not str(user).isdigit():
        return {"HATCHERY_USER": "unknown"}
    return process(int(user), pid)


def _write(scope: Scope, who: Mapping[str, str], names: str, status: int, problem: str, tell: Tell) -> None:
    query = scope.get("query_string", b"").decode("ascii", errors="replace")
    path = (scope["path"] + (f"?{query}" if query else ""))[:MOST_PATH]
    result = "done" if 200 <= status < 300 else "failed" if status >= 500 or not status else "refused"
    what = " ".join(filter(None, (scope["method"], path, names)))
    words = f"{who_in_words(who)}: {what}: {result}" + (f", {problem}" if problem else "")
    fields = {
        **who,
        "HATCHERY_METHOD": scope["method"],
        "HATCHERY_PATH": path,
        "HATCHERY_NAMES": names,
        "HATCHERY_STATUS": str(status),
        "HATCHERY_PROBLEM": problem,
    }
    write(words, result, fields, tell)
