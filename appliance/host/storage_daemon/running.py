"""The verbs on a storage daemon that runs: exports that come and go, by QMP.

Source of the commands: QEMU's qemu-storage-daemon-qmp-ref.
"""

from collections.abc import Iterable

from appliance.errors import InUse, NotFound, Unhealthy
from appliance.host.qmp import Qmp, QmpError
from appliance.host.storage_daemon.config import DOOR, Files, rules
from appliance.host.storage_daemon.exports import Export

_LOG = "see `journalctl -u 'hatchery-nbd@*'` on the appliance; detached and attached again, a clone has all of it anew"


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
                qmp.execute("qom-set", {"path": f"/objects/{DOOR}", "property": "rules", "value": rules(names)})
            except QmpError as error:
                raise Unhealthy(
                    "a storage daemon does not change whom it lets in", why=error.text, hint=_LOG
                ) from error

    def add(self, exports: Iterable[Export]) -> None:
        """Offer devices. Other exports are not disturbed. Raises NotReady, Unhealthy."""
        with Qmp(self._files.qmp) as qmp:
            self._add(qmp, exports)

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

    def _add(self, qmp: Qmp, exports: Iterable[Export]) -> None:
        # The list of all that is exported grows long, and is read only if it matters.
        present: frozenset[str] | None = None
        for export in exports:
            try:
                if _add_group(qmp, export):
                    qmp.execute("blockdev-add", export.blockdev(self._aio))
                else:
                    present = _exports(qmp) if present is None else present
                    if export.node in present:
                        continue
                    _limit(qmp, export)
                    if export.node not in _nodes(qmp):
                        qmp.execute("blockdev-add", export.blockdev(self._aio))
                qmp.execute("block-export-add", export.export())
            except QmpError as error:
                raise Unhealthy(
                    f"{export.name} cannot be exported", why=error.text, hint="see the storage daemon's journal"
                ) from error


def _add_group(qmp: Qmp, export: Export) -> bool:
    """Make the group of an export's filter; false when it is there. What has none has no node and is not exported."""
    try:
        qmp.execute("object-add", export.group())
    except QmpError:
        if _has_group(qmp, export.node):
            return False
        raise
    return True


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
        raise Unhealthy(f"the limits of {node} cannot be read", why=error.text, hint=_LOG) from error
    return True


def _limit(qmp: Qmp, export: Export) -> None:
    try:
        qmp.execute("qom-set", {"path": f"/objects/{export.node}", "property": "limits", "value": export.throttle()})
    except QmpError as error:
        raise Unhealthy(f"the limits of {export.name} cannot be set", why=error.text, hint=_LOG) from error


def _remove(qmp: Qmp, node: str, mode: str) -> None:
    present = {e["id"] for e in qmp.execute("query-block-exports")}
    try:
        if node in present:
            qmp.execute("block-export-del", {"id": node, "mode": mode})
            qmp.wait_event("BLOCK_EXPORT_DELETED", {"id": node})
        # What was exported has a group.
        if node in present or _has_group(qmp, node):
            if node in present or node in _nodes(qmp):
                qmp.execute("blockdev-del", {"node-name": node})
            qmp.execute("object-del", {"id": node})
    except QmpError as error:
        if mode == "safe" and "in use" in error.text:
            raise InUse("the export is in use", why=error.text, hint="shut its guest down, or force it") from error
        raise Unhealthy(f"the export {node} cannot be removed", why=error.text, hint=_LOG) from error
