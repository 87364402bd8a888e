"""qemu-storage-daemon: its command line, and exports that come and go while it runs.

One daemon serves one client. Source of the options and commands: QEMU's qemu-storage-daemon-qmp-ref and
docs/tools/qemu-storage-daemon.rst. The disks are opened with O_DIRECT, so that a full pool is told to the guest at
once (rule 4) and nothing acknowledged lives in a page cache only.

Every export has QEMU's throttle filter (docs/throttle.txt), also one without limits: no command of QEMU 10.0 puts a
filter under an export that is in use, while the limits of a filter that is there change at once. Each filter is alone
in its group, because members of a group share its limits and take turns.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from appliance.errors import InUse, NotFound, Unhealthy
from appliance.host.qmp import Qmp, QmpError
from appliance.model import MAX_CONNECTIONS, NO_LIMITS, Limits

IOTHREAD = "io0"
"""Id of the thread that serves all exports of a daemon."""

TLS, DOOR, SHOWN = "tls0", "door0", "shown0"
"""Ids of a daemon's TLS settings, of its list of who is let in, and of what it shows to a server that it asks."""

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
class Listen:
    """Where a daemon listens: a unix socket, or an address and a TCP port, there with ``tls`` or without."""

    path: Path | None = None
    address: str | None = None
    port: int | None = None
    tls: bool = False

    def words(self) -> dict[str, str]:
        """As QEMU's SocketAddress."""
        if self.path is not None:
            return {"type": "unix", "path": str(self.path)}
        return {"type": "inet", "host": str(self.address), "port": str(self.port)}


@dataclass(frozen=True, slots=True)
class Export:
    """A block device, or a file with a disk's content, offered under a name and held to limits.

    ``node`` names it inside the daemon, its filter's group as well, and is never used twice.
    """

    node: str
    name: str
    device: Path
    limits: Limits = NO_LIMITS
    writable: bool = True
    file: bool = False

    def disk(self, aio: str) -> dict[str, Any]:
        """The options of the device, or of the file: that is in memory, past which there is nothing."""
        if self.file:
            return {"driver": "file", "filename": str(self.device), "read-only": not self.writable}
        return {
            "driver": "host_device",
            "filename": str(self.device),
            "read-only": not self.writable,
            "cache": {"direct": True, "no-flush": False},
            "aio": aio,
            "discard": "unmap",
            "detect-zeroes": "off",
        }

    def throttle(self) -> dict[str, int]:
        """The limits as QEMU's ThrottleLimits. All that we ever set are named: what is not named stays as it was."""
        return {"iops-total": self.limits.iops or 0, "bps-total": self.limits.bandwidth or 0}

    def group(self) -> dict[str, Any]:
        """The options of the filter's group."""
        return {"qom-type": "throttle-group", "id": self.node, "limits": self.throttle()}

    def blockdev(self, aio: str) -> dict[str, Any]:
        """The options of the node: the filter with the device in it. Its group must be there."""
        return {
            "driver": "throttle",
            "node-name": self.node,
            "throttle-group": self.node,
            "read-only": not self.writable,
            "cache": {"direct": not self.file, "no-flush": False},
            "discard": "unmap",
            "file": self.disk(aio),
        }

    def export(self) -> dict[str, Any]:
        """The export's options."""
        return {
            "type": "nbd",
            "id": self.node,
            "node-name": self.node,
            "name": self.name,
            "writable": self.writable,
            "iothread": IOTHREAD,
        }


@dataclass(frozen=True, slots=True)
class Server:
    """An export of another NBD server, by TCP; with ``tls`` the daemon shows its client's certificate."""

    host: str
    port: int
    export: str
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nbd{'s' if self.tls else ''}://{host}:{self.port}/{self.export}"


@dataclass(frozen=True, slots=True)
class Passed(Export):
    """What another server exports, passed on read-only. Its ``device`` is none.

    A request waits up to ``patience`` seconds for a server that went away, and fails then; those that follow fail at
    once until it is back. ``opening``: seconds in which it must be reached at first.
    """

    server: Server = Server("", 0, "")
    patience: int = 0
    opening: int = 0

    @property
    def far(self) -> str:
        """The name of the node that asks the server."""
        return f"{self.node}-far"

    def disk(self, aio: str) -> dict[str, Any]:  # noqa: ARG002  nothing is opened here
        """The options of the node that asks. That it may be written, if the server allows it, only shows if it does."""
        words = {
            "driver": "nbd",
            "node-name": self.far,
            "server": {"type": "inet", "host": self.server.host, "port": str(self.server.port)},
            "export": self.server.export,
            "read-only": False,
            "auto-read-only": True,
            "reconnect-delay": self.patience,
            "open-timeout": self.opening,
            "cache": {"direct": True, "no-flush": False},
        }
        return words | ({"tls-creds": SHOWN} if self.server.tls else {})


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
        words += ["--object", json.dumps(export.group()), "--blockdev", json.dumps(export.blockdev(aio))]
        words += ["--export", json.dumps(export.export())]
    return tuple(words)


def _tls(allowed: Iterable[str], credentials: Path | None) -> tuple[dict[str, Any], ...]:
    """The objects that a daemon with TLS has: its credentials, and who is let in."""
    door = {"qom-type": "authz-list", "id": DOOR, "policy": "deny", "rules": _rules(allowed)}
    return _identity("server", TLS, credentials), door


def _identity(endpoint: str, name: str, credentials: Path | None) -> dict[str, Any]:
    """What it is to others over TLS, as ``endpoint`` of a connection."""
    if credentials is None:
        raise Unhealthy("a storage daemon has no certificate", hint="restart hatcheryd: it makes one")
    return {
        "qom-type": "tls-creds-x509",
        "id": name,
        "endpoint": endpoint,
        "dir": str(credentials),
        "verify-peer": True,
        "priority": PRIORITY,
    }


def _rules(allowed: Iterable[str]) -> list[dict[str, str]]:
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


class StorageDaemon:
    """The verbs on one running daemon. They are idempotent: what is there already, or gone already, is fine."""

    def __init__(self, files: Files, aio: str) -> None:
        self._files = files
        self._aio = aio

    def exports(self) -> frozenset[str]:
        """Nodes that are exported now. Raises NotReady when the daemon does not run."""
        with Qmp(self._files.qmp) as qmp:
            return _exports(qmp)

    def sync(self, wanted: Iterable[Export]) -> None:
        """Make the exports and their limits those of ``wanted``; surplus exports are cut off.

        Raises NotReady, Unhealthy.
        """
        by_node = {export.node: export for export in wanted}
        with Qmp(self._files.qmp) as qmp:
            present = _exports(qmp)
            for node in sorted(present - set(by_node)):
                _remove(qmp, node, "hard")
            for node in sorted(present & set(by_node)):
                _limit(qmp, by_node[node])
            self._add(qmp, [export for node, export in by_node.items() if node not in present])

    def read_only(self, node: str) -> bool:
        """Whether a node can only be read. Raises NotReady, NotFound."""
        with Qmp(self._files.qmp) as qmp:
            for found in qmp.execute("query-named-block-nodes", {"flat": True}):
                if found["node-name"] == node:
                    return bool(found["ro"])
        raise NotFound(f"the storage daemon has no node {node}", why="it was started anew")

    def allow(self, names: Iterable[str]) -> None:
        """Let in the certificates of these distinguished names, and no others, from the next handshake on.

        Connections that are open stay. For a daemon with TLS. Raises NotReady, Unhealthy.
        """
        with Qmp(self._files.qmp) as qmp:
            try:
                qmp.execute("qom-set", {"path": f"/objects/{DOOR}", "property": "rules", "value": _rules(names)})
            except QmpError as error:
                raise Unhealthy("a storage daemon does not change whom it lets in", why=error.text) from error

    def add(self, exports: Iterable[Export]) -> None:
        """Offer devices. Other exports are not disturbed. Raises NotReady, Unhealthy."""
        with Qmp(self._files.qmp) as qmp:
            new = [(export, _has_group(qmp, export.node)) for export in exports]
            # What has no group is not exported. The list of all that is grows long, and is read only if it matters.
            present = _exports(qmp) if any(begun for _, begun in new) else frozenset()
            self._add(qmp, [export for export, _ in new if export.node not in present])

    def limit(self, export: Export) -> None:
        """Hold an export to its limits from now on; who is connected stays so. Fine when it is not exported.

        Raises NotReady, Unhealthy.
        """
        with Qmp(self._files.qmp) as qmp:
            if _has_group(qmp, export.node):
                _limit(qmp, export)

    def remove(self, export: Export) -> None:
        """Stop offering a device. Raises InUse while somebody is connected to it, NotReady, Unhealthy."""
        with Qmp(self._files.qmp) as qmp:
            _remove(qmp, export.node, "safe")

    def cut_off(self, export: Export) -> None:
        """Stop offering a device even if somebody is connected to it. Raises NotReady, Unhealthy."""
        with Qmp(self._files.qmp) as qmp:
            _remove(qmp, export.node, "hard")

    def _add(self, qmp: Qmp, exports: Sequence[Export]) -> None:
        for export in exports:
            try:
                begun = _has_group(qmp, export.node)
                if begun:
                    _limit(qmp, export)
                else:
                    qmp.execute("object-add", export.group())
                if not begun or export.node not in _nodes(qmp):
                    qmp.execute("blockdev-add", export.blockdev(self._aio))
                qmp.execute("block-export-add", export.export())
            except QmpError as error:
                raise Unhealthy(
                    f"{export.name} cannot be exported", why=error.text, hint="see the storage daemon's journal"
                ) from error


def _exports(qmp: Qmp) -> frozenset[str]:
    # An export that is shutting down still shows up and must not be taken for a living one.
    return frozenset(e["id"] for e in qmp.execute("query-block-exports") if not e["shutting-down"])


def _nodes(qmp: Qmp) -> frozenset[str]:
    return frozenset(node["node-name"] for node in qmp.execute("query-named-block-nodes", {"flat": True}))


def _has_group(qmp: Qmp, node: str) -> bool:
    """Whether a node's group is there. Without it there is no node, and the long list of nodes need not be read."""
    try:
        qmp.execute("qom-get", {"path": f"/objects/{node}", "property": "limits"})
    except QmpError as error:
        if error.kind == "DeviceNotFound":
            return False
        raise Unhealthy(f"the limits of {node} cannot be read", why=error.text) from error
    return True


def _limit(qmp: Qmp, export: Export) -> None:
    try:
        qmp.execute("qom-set", {"path": f"/objects/{export.node}", "property": "limits", "value": export.throttle()})
    except QmpError as error:
        raise Unhealthy(f"the limits of {export.name} cannot be set", why=error.text) from error


def _remove(qmp: Qmp, node: str, mode: str) -> None:
    present = {e["id"] for e in qmp.execute("query-block-exports")}
    try:
        if node in present:
            qmp.execute("block-export-del", {"id": node, "mode": mode})
            qmp.wait_event("BLOCK_EXPORT_DELETED", {"id": node})
        if _has_group(qmp, node):
            if node in present or node in _nodes(qmp):
                qmp.execute("blockdev-del", {"node-name": node})
            qmp.execute("object-del", {"id": node})
    except QmpError as error:
        if mode == "safe" and "in use" in error.text:
            raise InUse("the export is in use", why=error.text, hint="shut its guest down, or force it") from error
        raise Unhealthy(f"the export {node} cannot be removed", why=error.text) from error
