"""Who is connected to the clients' storage daemons, since when, from where, how much went over the connection.

The kernel tells all of it but since when. So somebody looks now and then, and a connection is as old as the look that
found it first: on the early side by ``LOOK`` at most, and no older than this process.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from appliance.catalog import Catalog, Client
from appliance.errors import CannotTell
from appliance.host.netlink import Connection
from appliance.model import Protocol
from appliance.service.exports import Exports

LOOK = 10.0
"""Seconds between two looks."""


Door: TypeAlias = tuple[str, Protocol]
"""What is connected to: a client, and how."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection, and when it was first seen (seconds since the epoch)."""

    connection: Connection
    since: float


class Connections:
    """The connections of all clients."""

    def __init__(self, catalog: Catalog, exports: Exports, clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._exports = exports
        self._clock = clock
        self._looked = 0.0
        self._since: Mapping[Door, Mapping[str, float]] = {}

    def of(self, client: Client) -> tuple[Connected, ...]:
        """Who is connected to a client's daemon now. Raises CannotTell."""
        return self._seen((client.name, Protocol.NBD), self._exports.connections(client))

    def by_nvme(self, client: Client) -> tuple[Connected, ...]:
        """Who is connected to a client's port of the kernel's NVMe target now. Raises CannotTell."""
        return self._seen((client.name, Protocol.NVME_TCP), self._exports.nvme.connections(client.name))

    def _seen(self, door: Door, found: tuple[Connection, ...]) -> tuple[Connected, ...]:
        known = self._since.get(door, {})
        now = self._clock() if any(each.identity not in known for each in found) else 0.0
        since = {each.identity: known.get(each.identity, now) for each in found}
        # Replaced as a whole: requests and the monitor look at the same time.
        self._since = {**self._since, door: since}
        return tuple(Connected(each, since[each.identity]) for each in found)

    def look(self) -> None:
        """Take notice of who has come and who has gone. Cheap when it was done just now."""
        if self._clock() - self._looked < LOOK:
            return
        self._looked = self._clock()
        clients = self._catalog.clients()
        doors = [(client.name, protocol) for client in clients for protocol in Protocol]
        self._since = {door: self._since.get(door, {}) for door in doors}
        for client in clients:
            with contextlib.suppress(CannotTell):
                self.of(client)
                self.by_nvme(client)
