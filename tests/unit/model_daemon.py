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
        limited = [export for export in self.config.exports if export.limited]
        self.nodes = set(self.exports)
        self.limits = {export.node: export.throttle() for export in limited}
        """Those of each throttle group."""
        self.filters = {export.filter: export.node for export in limited}
        """The group of each filter that is a node."""
        self.below = {export.node: export.filter for export in limited}
        """The filter that a node has below it. Who has none is held to nothing."""
        self.inline = set(self.filters)
        """Filters that go with the node above them."""
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

    def held(self, node: str) -> dict[str, int]:
        """What a node is held to: by the filter that it has below it, and by no other."""
        free = {"iops-total": 0, "bps-total": 0}
        return self.limits[self.filters[self.below[node]]] if node in self.below else free

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
            # Each device is a node as well, with a name that QEMU made up.
            names = [name for node in self.nodes for name in (node, f"#block-{node}")] + list(self.filters)
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
            if given["id"] in self.filters.values():
                return [_refused(f"object '{given['id']}' is in use, can not be deleted")]
            del self.limits[given["id"]]
        if command == "qom-list":
            return [{"return": [{"name": name, "type": "child<throttle-group>"} for name in self.limits]}]
        if command == "blockdev-add" and (refused := self._open(given)):
            return [refused]
        if command == "blockdev-reopen":
            (options,) = given["options"]
            if options["file"] not in self.filters:
                return [_refused(f"Cannot find device='' nor node-name='{options['file']}'")]
            self.below[options["node-name"]] = options["file"]
        if command == "block-export-add":
            self.exports[given["id"]] = given["name"]
        if command == "qom-set" and given["path"] == f"/objects/{storage_daemon.DOOR}":
            self.allowed = tuple(rule["match"] for rule in given["value"])
        if command == "qom-set" and given["property"] == "limits":
            self.limits[given["path"].removeprefix("/objects/")].update(given["value"])
        if command == "blockdev-del" and (refused := self._close(given["node-name"])):
            return [refused]
        if command == "block-export-del":
            if given["mode"] == "safe" and given["id"] in self.connected:
                return [_refused(f"export '{given['id']}' still in use")]
            del self.exports[given["id"]]
            self.connected.discard(given["id"])
            event = {"event": "BLOCK_EXPORT_DELETED", "data": {"id": given["id"]}, "timestamp": {}}
            return [{"return": {}}, event]
        return [{"return": {}}]

    def _open(self, given: Reply, above: str = "") -> Reply | None:
        """Add a node with what is below it; the error."""
        name = given["node-name"]
        if name in self.nodes | set(self.filters):
            return _refused(f"Duplicate nodes with node-name='{name}'")
        if given["driver"] == "throttle":
            if given["throttle-group"] not in self.limits:
                return _refused(f"Throttle group '{given['throttle-group']}' does not exist")
            self.filters[name] = given["throttle-group"]
            if above:
                self.below[above] = name
                self.inline.add(name)
            return None
        if given["file"]["driver"] == "throttle" and (refused := self._open(given["file"], above=name)):
            return refused
        self.nodes.add(name)
        return None

    def _close(self, name: str) -> Reply | None:
        """Remove a node with what is below it alone; the error."""
        if name in self.exports or name in self.below.values():
            return _refused(f"Node {name} is in use")
        if name not in self.nodes | set(self.filters):
            return _refused(f"Failed to find node with node-name='{name}'")
        self.nodes.discard(name)
        self.filters.pop(name, None)
        below = self.below.pop(name, "")
        if below in self.inline:
            self.inline.remove(below)
            del self.filters[below]
        return None


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
