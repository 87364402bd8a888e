"""Who is connected to the clients' storage daemons, since when, from where, how much went over the connection.

The kernel tells all of it but since when. So somebody looks now and then, and a connection is as old as the look that
found it first: late by ``LOOK`` at most. What was found is kept in a file that lasts as long as the machine runs, so
that a restart of hatcheryd makes nobody younger; it is told by the number that the kernel gives a socket once.
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from appliance.catalog import Catalog, Client
from appliance.errors import CannotTell
from appliance.host import files
from appliance.host.netlink import Connection
from appliance.model import Protocol
from appliance.service.exports import Exports

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""Another one: the kernel's numbers begin anew (random(4))."""

LOOK = 10.0
"""Seconds between two looks."""


Door: TypeAlias = tuple[str, Protocol]
"""What is connected to: a client, and how."""

Since: TypeAlias = Mapping[Door, Mapping[str, float]]
"""When each connection was first seen, by its identity."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection, and when it was first seen (seconds since the epoch)."""

    connection: Connection
    since: float


class Connections:
    """The connections of all clients."""

    def __init__(self, catalog: Catalog, exports: Exports, kept: Path, clock: Callable[[], float] = time.time) -> None:
        """``kept`` is the file of what was found."""
        self._catalog = catalog
        self._exports = exports
        self._kept = kept
        self._clock = clock
        self._looked = 0.0
        self._writing = threading.Lock()
        self._written: Since = {}
        self._found: Since | None = None

    def of(self, client: Client) -> tuple[Connected, ...]:
        """Who is connected to a client's daemon now. Raises CannotTell."""
        return self._seen((client.name, Protocol.NBD), self._exports.connections(client))

    def by_nvme(self, client: Client) -> tuple[Connected, ...]:
        """Who is connected to a client's port of the kernel's NVMe target now. Raises CannotTell."""
        return self._seen((client.name, Protocol.NVME_TCP), self._exports.nvme.connections(client.name))

    def look(self) -> None:
        """Take notice of who has come and who has gone. Cheap when it was done just now."""
        if self._clock() - self._looked < LOOK:
            return
        self._looked = self._clock()
        clients = self._catalog.clients()
        doors = [(client.name, protocol) for client in clients for protocol in Protocol]
        known = self._since()
        self._found = {door: known.get(door, {}) for door in doors}
        for client in clients:
            with contextlib.suppress(CannotTell):
                self.of(client)
                self.by_nvme(client)
        self._keep()

    def _seen(self, door: Door, found: tuple[Connection, ...]) -> tuple[Connected, ...]:
        every = self._since()
        known = every.get(door, {})
        new = any(each.identity not in known for each in found)
        now = self._clock() if new else 0.0
        since = {each.identity: known.get(each.identity, now) for each in found}
        # Replaced as a whole: requests and the monitor look at the same time.
        self._found = {**every, door: since}
        if new:
            self._keep()
        return tuple(Connected(each, since[each.identity]) for each in found)

    def _since(self) -> Since:
        if self._found is None:
            self._found = self._written = read(self._kept, self._clock)
        return self._found

    def _keep(self) -> None:
        with self._writing:
            found = {door: since for door, since in self._since().items() if since}
            if found == self._written:
                return
            try:
                files.replace(self._kept, render(found), 0o600)
            except OSError as error:
                log.warning("since when clients are connected cannot be kept: %s", error)
                return
            self._written = found


def render(found: Since) -> str:
    """What was found as a file. Pure, but for the number of this run of the machine."""
    rows = [
        {"client": client, "protocol": protocol, "identity": identity, "since": when}
        for (client, protocol), since in found.items()
        for identity, when in since.items()
    ]
    return json.dumps({"boot": BOOT_ID.read_text(encoding="ascii").strip(), "connections": rows})


def read(path: Path, clock: Callable[[], float]) -> Since:
    """What a file says; nothing if it is not of this run of the machine, or not what ``render`` makes."""
    found: dict[Door, dict[str, float]] = {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if said["boot"] == BOOT_ID.read_text(encoding="ascii").strip():
            for door, identity, since in _rows(said["connections"], clock()):
                found.setdefault(door, {})[identity] = since
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("since when clients are connected is not known: %s: %s", path, error)
        return {}
    return found


def _rows(rows: object, now: float) -> Iterator[tuple[Door, str, float]]:
    """Each connection of a file. Raises ValueError, TypeError, KeyError."""
    if not isinstance(rows, list):
        raise TypeError("no list of connections")
    for row in rows:
        client, identity, since = row["client"], row["identity"], float(row["since"])
        if not isinstance(client, str) or not isinstance(identity, str) or not 0 < since <= now:
            raise ValueError("a connection that cannot be")
        yield (client, Protocol(row["protocol"])), identity, since
