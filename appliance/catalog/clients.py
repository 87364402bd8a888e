"""Clients in the catalog."""

from appliance.catalog.database import Database, Row, integer, text
from appliance.catalog.rows import Client
from appliance.errors import InUse, NotFound

_CLIENT = "SELECT name, transport, address, port, plain FROM clients"


class ClientRows(Database):
    """The clients."""

    def put_client(self, client: Client) -> None:
        """Add a client, or replace the one of that name."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO clients VALUES (:name, :transport, :address, :port, :plain)"
                " ON CONFLICT (name) DO UPDATE"
                " SET transport = :transport, address = :address, port = :port, plain = :plain",
                {
                    "name": client.name,
                    "transport": client.transport,
                    "address": client.address,
                    "port": client.port,
                    "plain": int(client.plain),
                },
            )

    def drop_client(self, name: str) -> None:
        """Forget a client. Raises InUse while clones are attached to it."""
        with self._transaction() as db:
            names = [row[0] for row in db.execute("SELECT name FROM clones WHERE client = ? ORDER BY name", (name,))]
            if names:
                raise InUse(
                    f"client {name} is in use",
                    why=f"{len(names)} clone(s) are attached to it: {', '.join(names[:5])}",
                    hint="detach or remove them first",
                )
            db.execute("DELETE FROM clients WHERE name = ?", (name,))

    def clients(self) -> tuple[Client, ...]:
        """All clients by name."""
        return tuple(_client(row) for row in self._rows(f"{_CLIENT} ORDER BY name"))

    def find_client(self, name: str) -> Client | None:
        """The client of that name; None when absent."""
        row = self._row(f"{_CLIENT} WHERE name = ?", name)
        return _client(row) if row else None

    def client(self, name: str) -> Client:
        """As ``find_client``. Raises NotFound."""
        found = self.find_client(name)
        if found is None:
            raise NotFound(f"client {name} does not exist", hint="see `hatchery client list`")
        return found


def _client(row: Row) -> Client:
    name, transport, address, port, plain = row
    return Client(
        name=str(name),
        transport=str(transport),
        address=text(address),
        port=None if port is None else integer(port),
        plain=bool(plain),
    )
