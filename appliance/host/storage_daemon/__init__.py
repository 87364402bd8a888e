"""qemu-storage-daemon: its command line, and exports that come and go while it runs. One daemon serves one client."""

from appliance.host.storage_daemon.config import (
    CLIENT_CREDENTIALS,
    CREDENTIALS,
    DOOR,
    HANDSHAKE,
    Files,
    ServerConfig,
    aio_engine,
    command,
    parse,
    render,
)
from appliance.host.storage_daemon.exports import IOTHREAD, SHOWN, Export, Listen, Passed, Server
from appliance.host.storage_daemon.running import StorageDaemon

__all__ = [
    "CLIENT_CREDENTIALS",
    "CREDENTIALS",
    "DOOR",
    "HANDSHAKE",
    "IOTHREAD",
    "SHOWN",
    "Export",
    "Files",
    "Listen",
    "Passed",
    "Server",
    "ServerConfig",
    "StorageDaemon",
    "aio_engine",
    "command",
    "parse",
    "render",
]
