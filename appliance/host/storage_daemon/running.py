"""The verbs on a storage daemon that runs: exports that come and go, by QMP.

Source of the commands: QEMU's qemu-storage-daemon-qmp-ref.
"""

from collections.abc import Iterable
from pathlib import Path

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
                _remove(qmp, Export(node, node, Path()), "hard")
            held = _groups(qmp)
            for node in sorted(present & set(by_node)):
                self._limit(qmp, by_node[node], held=node in held)
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
            if export.node in _exports(qmp):
                self._limit(qmp, export, held=_has_group(qmp, export.node))

    def remove(self, export: Export) -> None:
        """Stop offering a device. Raises InUse while somebody is connected to it, NotReady, Unhealthy."""
        with Qmp(self._files.qmp) as qmp:
            _remove(qmp, export, "safe")

    def cut_off(self, export: Export) -> None:
        """Stop offering a device even if somebody is connected to it. Raises NotReady, Unhealthy."""
        with Qmp(self._files.qmp) as qmp:
            _remove(qmp, export, "hard")

    def _add(self, qmp: Qmp, exports: Iterable[Export]) -> None:
        # The lists of all that is there grow long, and are read only if it matters.
        present: frozenset[str] | None = None
        for export in exports:
            try:
                if export.limited:
                    _set_group(qmp, export)
                try:
                    qmp.execute("blockdev-add", export.blockdev(self._aio))
                except QmpError:
                    nodes = _nodes(qmp)
                    if export.node in nodes:
                        present = _exports(qmp) if present is None else present
                        self._limit(qmp, export, held=_has_group(qmp, export.node))
                        if export.node in present:
                            continue
                    elif export.filter in nodes:
                        # Whoever removed the node was killed before its filter went.
                        _remove_node(qmp, export.filter)
                        qmp.execute("blockdev-add", export.blockdev(self._aio))
                    else:
                        if export.limited:
                            qmp.execute("object-del", {"id": export.node})
                        raise
                qmp.execute("block-export-add", export.export())
            except QmpError as error:
                raise Unhealthy(
                    f"{export.name} cannot be exported", why=error.text, hint="see the storage daemon's journal"
                ) from error

    def _limit(self, qmp: Qmp, export: Export, *, held: bool) -> None:
        """Hold a node to its export's limits: a filter that is there changes, one that is not comes below the node.

        ``held``: its group is there. That its filter is as well can only be told from a long list, so that is seen to.
        Without limits a filter stays, and lets all go by.
        """
        try:
            if export.limited:
                _set_group(qmp, export)
                try:
                    qmp.execute("blockdev-add", export.throttled(self._aio))
                except QmpError:
                    if export.filter not in _nodes(qmp):
                        raise
                # What is under way ends first, at the device as it was opened before.
                qmp.execute("blockdev-reopen", {"options": [export.under_filter()]})
            elif held:
                _change_group(qmp, export)
        except QmpError as error:
            raise Unhealthy(f"the limits of {export.name} cannot be set", why=error.text, hint=_LOG) from error


def _exports(qmp: Qmp) -> frozenset[str]:
    # An export that is shutting down still shows up and must not be taken for a living one.
    return frozenset(e["id"] for e in qmp.execute("query-block-exports") if not e["shutting-down"])


def _nodes(qmp: Qmp) -> frozenset[str]:
    return frozenset(node["node-name"] for node in qmp.execute("query-named-block-nodes", {"flat": True}))


def _groups(qmp: Qmp) -> frozenset[str]:
    """The groups of filters that are there."""
    found = qmp.execute("qom-list", {"path": "/objects"})
    return frozenset(each["name"] for each in found if each["type"] == "child<throttle-group>")


def _has_group(qmp: Qmp, node: str) -> bool:
    """Whether a node's group is there. Without it there is no filter, and the long list of nodes need not be read."""
    try:
        qmp.execute("qom-get", {"path": f"/objects/{node}", "property": "limits"})
    except QmpError as error:
        if error.kind == "DeviceNotFound":
            return False
        raise Unhealthy(f"the limits of {node} cannot be read", why=error.text, hint=_LOG) from error
    return True


def _set_group(qmp: Qmp, export: Export) -> None:
    """Make the group of an export's filter, or change the one that is there."""
    try:
        qmp.execute("object-add", export.group())
    except QmpError:
        _change_group(qmp, export)


def _change_group(qmp: Qmp, export: Export) -> None:
    qmp.execute("qom-set", {"path": f"/objects/{export.node}", "property": "limits", "value": export.throttle()})


def _remove(qmp: Qmp, export: Export, mode: str) -> None:
    node = export.node
    present = {e["id"] for e in qmp.execute("query-block-exports")}
    try:
        if node in present:
            _withdraw(qmp, node, mode)
        _remove_node(qmp, node)
        if _has_group(qmp, node):
            # One that was there from the beginning goes with the node above it.
            _remove_node(qmp, export.filter)
            qmp.execute("object-del", {"id": node})
    except QmpError as error:
        raise Unhealthy(f"the export {node} cannot be removed", why=error.text, hint=_LOG) from error


def _withdraw(qmp: Qmp, node: str, mode: str) -> None:
    try:
        qmp.execute("block-export-del", {"id": node, "mode": mode})
    except QmpError as error:
        if mode == "safe" and "in use" in error.text:
            raise InUse("the export is in use", why=error.text, hint="shut its guest down, or force it") from error
        raise
    qmp.wait_event("BLOCK_EXPORT_DELETED", {"id": node})


def _remove_node(qmp: Qmp, name: str) -> None:
    """Fine when it is gone. QEMU has no better sign of that than its words (qmp_blockdev_del in its blockdev.c)."""
    try:
        qmp.execute("blockdev-del", {"node-name": name})
    except QmpError as error:
        if "Failed to find node" not in error.text:
            raise
