"""Clients and their certificates in the catalog."""

from collections.abc import Collection

from appliance.catalog.database import Database, Row, integer, moment, text
from appliance.catalog.rows import AuthorityRow, Certificate, Client
from appliance.errors import InUse, NotFound

_HAS = "SELECT name FROM clones WHERE client = ? OR shared = ? ORDER BY name"
_CERTIFICATE = "SELECT serial, client, issued, expires, revoked, name FROM certificates"
_CLIENT = "SELECT name, transport, address, port, plain, max_connections FROM clients"


class ClientRows(Database):
    """The clients."""

    def put_client(self, client: Client) -> None:
        """Add a client, or replace the one of that name."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO clients (name, transport, address, port, plain, max_connections)"
                " VALUES (:name, :transport, :address, :port, :plain, :max_connections)"
                " ON CONFLICT (name) DO UPDATE"
                " SET transport = :transport, address = :address, port = :port, plain = :plain,"
                " max_connections = :max_connections",
                {
                    "name": client.name,
                    "transport": client.transport,
                    "address": client.address,
                    "port": client.port,
                    "plain": int(client.plain),
                    "max_connections": client.max_connections,
                },
            )

    def drop_client(self, name: str) -> None:
        """Forget a client. Raises InUse while clones are attached to it."""
        with self._transaction() as db:
            names = [row[0] for row in db.execute(_HAS, (name, name))]
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

    # --- certificates

    def authority(self) -> AuthorityRow | None:
        """Who signs certificates; None before there is anybody."""
        row = self._row("SELECT certificate, key, given, chain, server_certificate, server_key FROM authority")
        if row is None:
            return None
        certificate, key, given, chain, shown, shown_key = row
        return AuthorityRow(str(certificate), str(key), bool(given), str(chain), text(shown), text(shown_key))

    def set_authority(self, row: AuthorityRow, now: float) -> None:
        """Keep who signs certificates from now on. Those that another one signed let nobody in any more."""
        with self._transaction() as db:
            db.execute("UPDATE certificates SET revoked = ? WHERE revoked IS NULL", (now,))
            db.execute("DELETE FROM authority")
            db.execute(
                "INSERT INTO authority (one, certificate, key, given, chain, server_certificate, server_key)"
                " VALUES (1, ?, ?, ?, ?, ?, ?)",
                (row.certificate, row.key, int(row.given), row.chain, row.server_certificate, row.server_key),
            )

    def renew_authority(self, row: AuthorityRow) -> None:
        """Keep what changed about who signs certificates, who is the same. Those that were signed go on."""
        with self._transaction() as db:
            db.execute(
                "UPDATE authority SET key = ?, chain = ?, server_certificate = ?, server_key = ?",
                (row.key, row.chain, row.server_certificate, row.server_key),
            )

    def certificates_named(self, name: str) -> tuple[Certificate, ...]:
        """All certificates from outside with that name, whoever's they are."""
        query = f"{_CERTIFICATE} WHERE name = ?"
        return tuple(_certificate(row) for row in self._rows(query, name))

    def add_certificate(self, made: Certificate) -> None:
        """Let a certificate in from now on, and forget those of its client that ended before it was issued."""
        with self._transaction() as db:
            db.execute("DELETE FROM certificates WHERE client = ? AND expires <= ?", (made.client, made.issued))
            db.execute(
                "INSERT INTO certificates (serial, client, issued, expires, revoked, name) VALUES (?, ?, ?, ?, ?, ?)",
                (made.serial, made.client, made.issued, made.expires, made.revoked, made.name),
            )

    def revoke_certificates(self, client: str, serials: Collection[str], now: float) -> None:
        """Never let these in again. Those that were revoked before keep their time."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE certificates SET revoked = ? WHERE client = ? AND serial = ? AND revoked IS NULL",
                [(now, client, serial) for serial in serials],
            )

    def owes_cut(self, client: str) -> bool:
        """Whether connections may be open that a revoked certificate let in."""
        query = "SELECT count(*) FROM certificates WHERE client = ? AND revoked IS NOT NULL AND NOT cut"
        return self._number(query, client) > 0

    def record_cut(self, client: str) -> None:
        """All connections of the client ended after the last revocation."""
        with self._transaction() as db:
            db.execute("UPDATE certificates SET cut = 1 WHERE client = ? AND revoked IS NOT NULL", (client,))

    def certificates(self, client: str) -> tuple[Certificate, ...]:
        """A client's certificates, the newest first."""
        query = f"{_CERTIFICATE} WHERE client = ?"
        return tuple(_certificate(row) for row in self._rows(f"{query} ORDER BY issued DESC, rowid DESC", client))


def _certificate(row: Row) -> Certificate:
    serial, client, issued, expires, revoked, name = row
    return Certificate(
        serial=str(serial),
        client=str(client),
        issued=float(str(issued)),
        expires=float(str(expires)),
        revoked=moment(revoked),
        name=text(name),
    )


def _client(row: Row) -> Client:
    name, transport, address, port, plain, max_connections = row
    return Client(
        name=str(name),
        transport=str(transport),
        address=text(address),
        port=None if port is None else integer(port),
        plain=bool(plain),
        max_connections=integer(max_connections),
    )
