"""Who is connected to the clients' storage daemons, since when, from where, how much went over the connection.

The kernel tells all of it but since when. So somebody looks now and then, and a connection is as old as the look that
found it first: on the early side by ``LOOK`` at most, and no older than this process.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from appliance.catalog import Catalog, Client
from appliance.errors import CannotTell
from appliance.host.netlink import Connection
from appliance.service.exports import Exports

LOOK = 10.0
"""Seconds between two looks."""


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
        self._since: Mapping[str, Mapping[str, float]] = {}

    def of(self, client: Client) -> tuple[Connected, ...]:
        """Who is connected to a client's daemon now. Raises CannotTell."""
        now, known = self._clock(), self._since.get(client.name, {})
        found = self._exports.connections(client)
        since = {each.identity: known.get(each.identity, now) for each in found}
        # Replaced as a whole: requests and the monitor look at the same time.
        self._since = {**self._since, client.name: since}
        return tuple(Connected(each, since[each.identity]) for each in found)

    def look(self) -> None:
        """Take notice of who has come and who has gone. Cheap when it was done just now."""
        if self._clock() - self._looked < LOOK:
            return
        self._looked = self._clock()
        clients = self._catalog.clients()
        self._since = {client.name: self._since.get(client.name, {}) for client in clients}
        for client in clients:
            with contextlib.suppress(CannotTell):
                self.of(client)
