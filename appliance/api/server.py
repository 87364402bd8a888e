"""The API's server: uvicorn on a unix socket, telling the service manager how it goes."""

import asyncio
import grp
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from appliance.api import audit, problems
from appliance.errors import HatcheryError, Refused
from appliance.host.notify import notify, watchdog_seconds
from appliance.service.exports import GROUP
from appliance.service.service import Service

log = logging.getLogger(__name__)

READERS = "hatchery-status"
"""Group of those who may look at everything by the API, and change nothing."""

CLOSE_SECONDS = 5.0
"""How long requests that only look may take to an orderly end."""

BACKLOG = 128
"""Connections that may wait to be accepted."""


def listen(path: Path, group: str = GROUP) -> socket.socket:
    """A socket of the API: for root and the group that may use it, and nobody else."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    try:
        wanted = grp.getgrnam(group).gr_gid
        # Its unit takes the right to change owners away: there, the group of hatcheryd or of the folder is right.
        if path.stat().st_gid != wanted:
            os.chown(path, -1, wanted)
        path.chmod(0o660)
    except KeyError:
        log.warning("there is no group %s: %s is for root alone", group, path)
    listener.listen(BACKLOG)
    return listener


class Reader:
    """The application for those who may look: whatever would change something is refused.

    It listens on a socket of its own, in a thread of its own, so that who looks holds up nobody who works.
    """

    def __init__(self, app: FastAPI, listener: socket.socket) -> None:
        config = uvicorn.Config(
            read_only(app), lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="readers", daemon=True
        )

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(CLOSE_SECONDS)


def read_only(app: FastAPI) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The application without the methods that change something."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            what, code = f"{scope['method']} {scope['path']} is refused", Refused.code
            why, hint = "this socket is for looking alone", "use /run/hatchery/api.sock, as the group hatchery may"
            refusal = problems.answer(code, what, why, hint, problems.status_of(code))
            await refusal(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded


class Server(uvicorn.Server):
    """uvicorn, telling the service manager how it goes."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                audit.audited(app),
                http=audit.Protocol,
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=5,
            )
        )
        self._service = service
        self._watchdog: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Ready once it listens."""
        await super().startup(sockets)
        if self.started:
            self._watchdog = asyncio.get_running_loop().create_task(self._alive())
            notify("READY=1", "STATUS=" + await asyncio.to_thread(self._words))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The service manager learns of the end first."""
        notify("STOPPING=1")
        # They would go on for ever, and be waited for.
        self._service.events.close()
        if self._watchdog is not None:
            self._watchdog.cancel()
        await super().shutdown(sockets)

    async def _alive(self) -> None:
        """Tell the watchdog that the event loop turns and that the catalog answers."""
        pause = watchdog_seconds()
        while pause is not None:
            notify("WATCHDOG=1", "STATUS=" + await asyncio.to_thread(self._words))
            await asyncio.sleep(pause)

    def _words(self) -> str:
        try:
            return self._service.words()
        except HatcheryError as error:
            return error.what
