"""The API's server: uvicorn on a unix socket, telling the service manager how it goes."""

import asyncio
import grp
import logging
import os
import socket
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from appliance.errors import HatcheryError
from appliance.host.notify import notify, watchdog_seconds
from appliance.service.exports import GROUP
from appliance.service.service import Service

log = logging.getLogger(__name__)

BACKLOG = 128
"""Connections that may wait to be accepted."""


def listen(path: Path) -> socket.socket:
    """The API's socket: for root and the group that may use it, and nobody else."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    try:
        group = grp.getgrnam(GROUP).gr_gid
        # Its unit runs hatcheryd in this group, and takes the right to change owners away.
        if path.stat().st_gid != group:
            os.chown(path, -1, group)
        path.chmod(0o660)
    except KeyError:
        log.warning("there is no group %s: the API is for root alone", GROUP)
    listener.listen(BACKLOG)
    return listener


class Server(uvicorn.Server):
    """uvicorn, telling the service manager how it goes."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        super().__init__(
            uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=5)
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
