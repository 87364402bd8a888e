"""A model of qemu-storage-daemon: its QMP server in a thread, with exports from ``server.json`` as the real one."""

import contextlib
import json
import socket
import threading
from pathlib import Path
from typing import Any

from appliance.host import storage_daemon
from appliance.host.daemon_users import FIRST
from appliance.host.storage_daemon import Files

Reply = dict[str, Any]


class ModelDaemon:
    """Serves one connection at a time, as QEMU does."""

    def __init__(self, files: Files) -> None:
        self.config = storage_daemon.parse(files.config.read_text(encoding="utf-8"))
        self.exports = {export.node: export.name for export in self.config.exports}
        self.nodes = set(self.exports)
        self.limits = {export.node: export.throttle() for export in self.config.exports}
        """Those of each throttle group."""
        self.connected: set[str] = set()
        self.allowed = self.config.allowed
        self.commands: list[str] = []
        self.refuse: dict[str, str] = {}
        """Commands that fail, with the words of the error."""
        self.events_first: list[Reply] = []
        """Sent before the next answer."""
        files.qmp.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(files.qmp))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # Who hangs up before he heard the answer is nothing to it.
            with contextlib.suppress(ConnectionError), connection, connection.makefile("rwb") as stream:
                self._say(stream, {"QMP": {"version": {}, "capabilities": []}})
                for line in stream:
                    request = json.loads(line)
                    for event in self.events_first:
                        self._say(stream, event)
                    self.events_first.clear()
                    for message in self._answer(request["execute"], request.get("arguments", {})):
                        self._say(stream, message)

    def _say(self, stream: Any, message: Reply) -> None:
        stream.write(json.dumps(message).encode() + b"\r\n")
        stream.flush()

    def _answer(self, command: str, given: Reply) -> list[Reply]:
        self.commands.append(command)
        if command in self.refuse:
            return [_refused(self.refuse[command])]
        if command == "query-block-exports":
            return [{"return": [{"id": node, "shutting-down": False} for node in self.exports]}]
        if command == "query-named-block-nodes":
            # Each filter's device is a node as well, with a name that QEMU made up.
            names = [name for node in self.nodes for name in (node, f"#block-{node}")]
            return [{"return": [{"node-name": name, "ro": False} for name in names]}]
        if command == "qom-get":
            found = self.limits.get(given["path"].removeprefix("/objects/"))
            missing = _refused(f"Device '{given['path']}' not found", "DeviceNotFound")
            return [missing if found is None else {"return": found}]
        if command == "object-add":
            if given["id"] in self.limits:
                return [_refused(f"attempt to add duplicate property '{given['id']}' to object")]
            self.limits[given["id"]] = given["limits"]
        if command == "object-del":
            if given["id"] in self.nodes:
                return [_refused(f"object '{given['id']}' is in use, can not be deleted")]
            del self.limits[given["id"]]
        if command == "blockdev-add":
            if given["throttle-group"] not in self.limits:
                return [_refused(f"Throttle group '{given['throttle-group']}' does not exist")]
            self.nodes.add(given["node-name"])
        if command == "block-export-add":
            self.exports[given["id"]] = given["name"]
        if command == "qom-set" and given["path"] == f"/objects/{storage_daemon.DOOR}":
            self.allowed = tuple(rule["match"] for rule in given["value"])
        if command == "qom-set" and given["property"] == "limits":
            self.limits[given["path"].removeprefix("/objects/")].update(given["value"])
        if command == "blockdev-del":
            self.nodes.remove(given["node-name"])
        if command == "block-export-del":
            if given["mode"] == "safe" and given["id"] in self.connected:
                return [_refused(f"export '{given['id']}' still in use")]
            del self.exports[given["id"]]
            self.connected.discard(given["id"])
            event = {"event": "BLOCK_EXPORT_DELETED", "data": {"id": given["id"]}, "timestamp": {}}
            return [{"return": {}}, event]
        return [{"return": {}}]


def _refused(words: str, kind: str = "GenericError") -> Reply:
    return {"error": {"class": kind, "desc": words}}


class ModelUnits:
    """Starts model daemons; one that was killed is started again when asked."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self.daemons: dict[str, ModelDaemon] = {}

    def start(self, client: str) -> None:
        if client not in self.daemons:
            self.daemons[client] = ModelDaemon(Files(self._run / "nbd" / client))

    def stop(self, client: str) -> None:
        daemon = self.daemons.pop(client, None)
        if daemon is not None:
            daemon.stop()

    def kill(self, client: str) -> None:
        """The daemon is gone without anybody's wish."""
        self.stop(client)

    def restart(self, client: str) -> None:
        self.stop(client)
        self.start(client)

    def user(self, client: str) -> int:
        return FIRST + sum(client.encode())

    def describe(self, client: str) -> str:
        return "running" if client in self.daemons else "stopped"

    def close(self) -> None:
        """The daemons go on."""

    def stop_all(self) -> None:
        for client in list(self.daemons):
            self.stop(client)
