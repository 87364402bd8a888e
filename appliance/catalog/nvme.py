"""What the catalog knows of NVMe/TCP: the clients' doors, and what tells this store's clones from another's."""

import uuid

from appliance.catalog.database import Database, Row, integer, moment, text
from appliance.catalog.rows import NvmeDoor
from appliance.errors import Unhealthy

_DOOR = "SELECT number, client, address, port, host_nqn, key, made FROM nvme_doors"


class NvmeRows(Database):
    """The doors."""

    def store_identity(self) -> uuid.UUID:
        """Never the same for two stores. Raises Unhealthy."""
        row = self._row("SELECT store FROM identity")
        try:
            return uuid.UUID(hex=str(row[0] if row else None))
        except ValueError as error:
            raise Unhealthy("the catalog is damaged", why="its identity is not there") from error

    def put_nvme_door(self, client: str, address: str, port: int, host_nqn: str) -> None:
        """Give a client a door, or change the one that it has; the key belongs to the host, and goes with its name."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO nvme_doors (client, address, port, host_nqn) VALUES (:client, :address, :port, :host)"
                " ON CONFLICT (client) DO UPDATE SET address = :address, port = :port, host_nqn = :host,"
                " key = CASE host_nqn WHEN :host THEN key END, made = CASE host_nqn WHEN :host THEN made END",
                {"client": client, "address": address, "port": port, "host": host_nqn},
            )

    def set_nvme_key(self, client: str, key: str, now: float) -> None:
        """The key of a client's host from now on."""
        with self._transaction() as db:
            db.execute("UPDATE nvme_doors SET key = ?, made = ? WHERE client = ?", (key, now, client))

    def restore_nvme_door(self, door: NvmeDoor) -> None:
        """A door as it was before."""
        with self._transaction() as db:
            db.execute(
                "UPDATE nvme_doors SET address = ?, port = ?, host_nqn = ?, key = ?, made = ? WHERE client = ?",
                (door.address, door.port, door.host_nqn, door.key, door.made, door.client),
            )

    def drop_nvme_door(self, client: str) -> None:
        """A client is reached over NVMe/TCP no more."""
        with self._transaction() as db:
            db.execute("DELETE FROM nvme_doors WHERE client = ?", (client,))

    def nvme_doors(self) -> tuple[NvmeDoor, ...]:
        """All doors, by their clients."""
        return tuple(_door(row) for row in self._rows(f"{_DOOR} ORDER BY client"))

    def nvme_door(self, client: str) -> NvmeDoor | None:
        """A client's door; None when it has none."""
        row = self._row(f"{_DOOR} WHERE client = ?", client)
        return _door(row) if row else None


def _door(row: Row) -> NvmeDoor:
    number, client, address, port, host_nqn, key, made = row
    return NvmeDoor(integer(number), str(client), str(address), integer(port), str(host_nqn), text(key), moment(made))
