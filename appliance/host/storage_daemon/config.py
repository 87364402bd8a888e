"""How a storage daemon is started: its settings in ``server.json``, its run-time files, its command line.

Source of the options: QEMU's docs/tools/qemu-storage-daemon.rst.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from appliance.errors import Unhealthy
from appliance.host.storage_daemon.exports import IOTHREAD, SHOWN, Export, Listen
from appliance.model import MAX_CONNECTIONS, Limits

TLS, DOOR = "tls0", "door0"
"""Ids of a daemon's TLS settings, and of its list of who is let in."""

PRIORITY = "NORMAL:-VERS-ALL:+VERS-TLS1.3"
"""What GnuTLS may agree on: TLS 1.3 and nothing older."""

HANDSHAKE = 10
"""Seconds until a client that has not said which export it wants is cut off."""

TOLD = ("nbd_negotiate_send_rep_err", "nbd_handshake_timer_cb")
"""QEMU's trace events that a daemon writes into its log: what it tells a client that it refuses, and that it waited too
long for one. Of both it says nothing by itself, of plain text on a TLS port for example."""

CREDENTIALS = ("ca-cert.pem", "server-cert.pem", "server-key.pem")
"""The files that QEMU reads its TLS settings from, in one folder."""

CLIENT_CREDENTIALS = ("ca-cert.pem", "client-cert.pem", "client-key.pem")
"""The same of a daemon that asks another server."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """All that a client's daemon is started with; kept in ``server.json``.

    ``allowed`` are the distinguished names of the certificates that are let in, where it listens with TLS. Of
    connections beyond ``max_connections`` none is taken in until another one ends. ``asks``: it is a client of other
    servers itself, and shows them its certificate.
    """

    client: str
    listen: Listen
    exports: tuple[Export, ...]
    allowed: tuple[str, ...] = ()
    max_connections: int = MAX_CONNECTIONS
    asks: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """The run-time files of one client's daemon."""

    folder: Path

    @property
    def config(self) -> Path:
        """What the daemon is started with."""
        return self.folder / "server.json"

    @property
    def socket(self) -> Path:
        """The NBD socket of a unix client."""
        return self.folder / "nbd.sock"

    @property
    def qmp(self) -> Path:
        """The control socket."""
        return self.folder / "qmp.sock"

    @property
    def pid(self) -> Path:
        """The daemon's process id, written once it listens."""
        return self.folder / "pid"

    @property
    def log(self) -> Path:
        """What the daemon says, where there is no journal."""
        return self.folder / "log"


def command(
    config: ServerConfig, files: Files, aio: str, credentials: Path | None = None, listener: int | None = None
) -> tuple[str, ...]:
    """The daemon's command line. It stays in the foreground: in the background QEMU throws its messages away.

    Its process id is in its file once it listens, with all its exports. ``credentials`` is the folder of its key and
    certificates; with TLS there must be one. ``listener`` is the descriptor of the socket that it gets; without one it
    makes its own.
    """
    words = ["qemu-storage-daemon", "--pidfile", str(files.pid)]
    for event in TOLD:
        words += ["--trace", event]
    words += ["--chardev", f"socket,id=qmp,path={files.qmp},server=on,wait=off", "--monitor", "chardev=qmp"]
    # Without polling: a daemon that looks for work all the time takes the processor from the other clients' daemons.
    words += ["--object", f"iothread,id={IOTHREAD},poll-max-ns=0"]
    server: dict[str, Any] = {
        "addr": config.listen.words() if listener is None else {"type": "fd", "str": str(listener)},
        "max-connections": config.max_connections,
        "handshake-max-seconds": HANDSHAKE,
    }
    if config.listen.tls:
        for made in _tls(config.allowed, credentials):
            words += ["--object", json.dumps(made)]
        server |= {"tls-creds": TLS, "tls-authz": DOOR}
    if config.asks:
        words += ["--object", json.dumps(_identity("client", SHOWN, credentials))]
    words += ["--nbd-server", json.dumps(server)]
    for export in config.exports:
        if export.limited:
            words += ["--object", json.dumps(export.group())]
        words += ["--blockdev", json.dumps(export.blockdev(aio))]
        words += ["--export", json.dumps(export.export())]
    return tuple(words)


def _tls(allowed: Iterable[str], credentials: Path | None) -> tuple[dict[str, Any], ...]:
    """The objects that a daemon with TLS has: its credentials, and who is let in."""
    door = {"qom-type": "authz-list", "id": DOOR, "policy": "deny", "rules": rules(allowed)}
    return _identity("server", TLS, credentials), door


def _identity(endpoint: str, name: str, credentials: Path | None) -> dict[str, Any]:
    """What it is to others over TLS, as ``endpoint`` of a connection."""
    if credentials is None:
        raise Unhealthy(
            "a storage daemon has no certificate",
            why="it takes TLS, and systemd gave it no folder of credentials",
            hint="restart hatcheryd: it makes one",
        )
    return {
        "qom-type": "tls-creds-x509",
        "id": name,
        "endpoint": endpoint,
        "dir": str(credentials),
        "verify-peer": True,
        "priority": PRIORITY,
    }


def rules(allowed: Iterable[str]) -> list[dict[str, str]]:
    """The list of who is let in, of these distinguished names."""
    return [{"match": name, "policy": "allow", "format": "exact"} for name in allowed]


def aio_engine(io_uring_disabled: Path = Path("/proc/sys/kernel/io_uring_disabled")) -> str:
    """``io_uring`` where the kernel lets us, else ``native`` (Linux AIO; needs O_DIRECT, which we have)."""
    try:
        return "io_uring" if io_uring_disabled.read_text(encoding="ascii").strip() == "0" else "native"
    except OSError:
        return "native"


def render(config: ServerConfig) -> str:
    """``server.json`` as text, stable for equal settings: a line for each export."""
    listen = config.listen
    head = {
        "client": config.client,
        "listen": {
            "path": None if listen.path is None else str(listen.path),
            "address": listen.address,
            "port": listen.port,
            "tls": listen.tls,
        },
        "allowed": list(config.allowed),
        "max_connections": config.max_connections,
        "asks": config.asks,
    }
    exports = ",\n".join(map(_line, config.exports))
    return f'{json.dumps(head)[:-1]}, "exports": [\n{exports}\n]}}\n'


@lru_cache(maxsize=8192)
def _line(export: Export) -> str:
    # Kept, because the file is written for every export that comes or goes, with all the others.
    return json.dumps(
        {
            "node": export.node,
            "name": export.name,
            "device": str(export.device),
            "iops": export.limits.iops,
            "bandwidth": export.limits.bandwidth,
            "writable": export.writable,
            "file": export.file,
        }
    )


def parse(text: str) -> ServerConfig:
    """Read what ``render`` wrote. Raises Unhealthy when it is something else."""
    try:
        data = json.loads(text)
        listen = data["listen"]
        return ServerConfig(
            client=data["client"],
            listen=Listen(
                path=None if listen["path"] is None else Path(listen["path"]),
                address=listen["address"],
                port=listen["port"],
                tls=listen["tls"],
            ),
            allowed=tuple(data["allowed"]),
            max_connections=data["max_connections"],
            # A former release's file has it not.
            asks=data.get("asks", False),
            exports=tuple(
                Export(
                    e["node"],
                    e["name"],
                    Path(e["device"]),
                    Limits(e["iops"], e["bandwidth"]),
                    writable=e["writable"],
                    file=e["file"],
                )
                for e in data["exports"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Unhealthy(
            "server.json is damaged", why=repr(error), hint="restart hatcheryd: it writes it anew"
        ) from error
