"""Guests that are held to limits: how fast they get on, and what the storage daemon that serves them says."""

import hashlib
import socket
import time
from collections.abc import Iterator
from typing import Any

from appliance.client import connect
from appliance.config import Paths
from appliance.host.qmp import Qmp
from appliance.host.storage_daemon import Files
from appliance.model import KIB, MIB
from appliance.schema import CloneLimits
from tests.kernel.inside.nbd_client import SOCKET, NbdClient

GREETING = 18
"""Bytes that an NBD server says first."""

QUIET = 1.0
"""Seconds after which a server that has said nothing is taken to be silent."""


def held(clone: str, client: str = "local") -> dict[str, int]:
    """The limits that the running daemon holds a clone to: those of the filters below its export's node."""
    with connect() as api:
        device = api.clone(clone).device
    with Qmp(Files(Paths().nbd(client)).qmp) as qmp:
        (export,) = (
            each for each in qmp.execute("query-block-exports") if each["id"] == f"clone-{device.rpartition('-')[2]}"
        )
        graph = qmp.execute("x-debug-query-block-graph")
        limits: dict[str, int] = {}
        for name in _below(graph, export["node-name"]):
            if name.endswith("-limit"):
                path = f"/objects/{name.removesuffix('-limit')}"
                limits |= qmp.execute("qom-get", {"path": path, "property": "limits"})
    return {name: value for name, value in limits.items() if value and not name.endswith("-length")}


def _below(graph: dict[str, Any], name: str) -> Iterator[str]:
    """A node and all that are below it, by QEMU's drawing of them."""
    (top,) = (each["id"] for each in graph["nodes"] if each["name"] == name and each["type"] == "block-driver")
    names = {each["id"]: each["name"] for each in graph["nodes"]}
    todo = [top]
    while todo:
        node = todo.pop()
        yield names[node]
        todo += [edge["child"] for edge in graph["edges"] if edge["parent"] == node]


def objects(client: str = "local") -> list[str]:
    """The groups of limits that the running daemon has."""
    with Qmp(Files(Paths().nbd(client)).qmp) as qmp:
        found = qmp.execute("qom-list", {"path": "/objects"})
    return sorted(each["name"] for each in found if each["type"] == "child<throttle-group>")


def guest(clone: str, reads: int) -> dict[str, object]:
    """One connection, on which so many small reads are timed: as the clone is, without limits, and limited anew."""
    seconds = []
    with NbdClient(clone) as disk, connect() as api:

        def read_slowly() -> None:
            begun = time.monotonic()
            for number in range(reads):
                disk.read(number * 4 * KIB, 4 * KIB)
            seconds.append(time.monotonic() - begun)

        read_slowly()
        api.limit_clone(clone, CloneLimits())
        content = b"".join(disk.read(offset, MIB) for offset in range(0, disk.size, MIB))
        disk.write(MIB, b"mine" * KIB)
        disk.flush()
        assert disk.read(MIB, 4 * KIB) == b"mine" * KIB
        free = held(clone)
        api.limit_clone(clone, CloneLimits(iops=10, bandwidth=8 * MIB))
        read_slowly()
    return {"seconds": seconds, "free": free, "digest": hashlib.sha256(content).hexdigest()}


def crowd(clone: str) -> dict[str, object]:
    """Two connections to a client that may have two, and what becomes of a third: then, and when one has ended."""
    with NbdClient(clone) as first:
        second = NbdClient(clone)
        with socket.socket(socket.AF_UNIX) as third:
            third.settimeout(QUIET)
            third.connect(str(SOCKET))
            silent = not _hears(third)
            assert first.read(0, 4 * KIB) == second.read(0, 4 * KIB)
            with connect() as api:
                detail = next(each.detail for each in api.clients() if each.name == "local")
            second.close()
            third.settimeout(20)
            return {"silent": silent, "detail": detail, "then": _hears(third), "first": len(first.read(0, 4 * KIB))}


def idle(clone: str) -> dict[str, float]:
    """Connect, hear the greeting and say nothing; seconds until the server hangs up. Another one goes on meanwhile."""
    with NbdClient(clone) as other, socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(60)
        silent.connect(str(SOCKET))
        begun = time.monotonic()
        assert _hears(silent)
        try:
            more = len(silent.recv(1))
        except ConnectionResetError:
            more = 0
        return {"more": more, "seconds": time.monotonic() - begun, "other": len(other.read(0, 4 * KIB))}


def _hears(stream: socket.socket) -> bool:
    try:
        return len(stream.recv(GREETING, socket.MSG_WAITALL)) == GREETING
    except TimeoutError:
        return False
