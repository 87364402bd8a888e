"""Pools in the catalog: what was agreed with each (rule 9), and the volumes that are to be deleted."""

import sqlite3
from collections.abc import Iterable

from appliance.catalog.database import Database, Row, integer, moment, text
from appliance.catalog.rows import Garbage, PoolRow
from appliance.errors import NotFound
from appliance.model import PoolName

_GARBAGE = "SELECT thin_id, pool, why, since FROM garbage"


class PoolRows(Database):
    """The pools and the garbage."""

    def pool(self, name: PoolName = PoolName.DURABLE) -> PoolRow:
        """What the catalog knows of a pool."""
        row = self._row("SELECT transaction_id, identity FROM pools WHERE name = ?", name)
        if row is None:
            raise NotFound(f"the catalog has no pool {name}", why="the store was set up without it")
        number, identity = row
        return PoolRow(name, None if number is None else integer(number), text(identity))

    def transaction_id(self, pool: PoolName = PoolName.DURABLE) -> int | None:
        """The pool's transaction id after the last finished change; None before the first."""
        return self.pool(pool).transaction_id

    def set_transaction_id(self, value: int, pool: PoolName = PoolName.DURABLE) -> None:
        """Record the pool's transaction id as agreed."""
        with self._transaction() as db:
            agree(db, pool, value)

    def adopt_pool(self, pool: PoolName, transaction_id: int | None, identity: str) -> None:
        """Record which drives a pool is on, and its transaction id there."""
        with self._transaction() as db:
            db.execute(
                "UPDATE pools SET transaction_id = ?, identity = ? WHERE name = ?", (transaction_id, identity, pool)
            )

    # --- garbage

    def garbage(self) -> tuple[Garbage, ...]:
        """The volumes that are to be deleted, the oldest first."""
        return tuple(_garbage(row) for row in self._rows(f"{_GARBAGE} ORDER BY since, thin_id"))

    def find_garbage(self, thin_ids: Iterable[int]) -> tuple[Garbage, ...]:
        """Those of the ids that are to be deleted."""
        found = (self._row(f"{_GARBAGE} WHERE thin_id = ?", thin_id) for thin_id in thin_ids)
        return tuple(_garbage(row) for row in found if row)

    def add_garbage(self, pool: PoolName, why: str, since: float) -> int:
        """A fresh id for a volume that is garbage until a later transaction says what it is for."""
        with self._transaction() as db:
            (thin_id,) = self._take_ids(db, 1)
            db.execute("INSERT INTO garbage VALUES (?, ?, ?, ?)", (thin_id, pool, why, since))
        return thin_id

    def adopt_orphan(self, thin_id: int, pool: PoolName, why: str, since: float) -> None:
        """A volume that was found in a pool, and that nothing in the catalog explains, is to be deleted."""
        with self._transaction() as db:
            condemn(db, thin_id, pool, why, since)

    def drop_garbage(self, thin_ids: Iterable[int], pool: PoolName, transaction_id: int | None) -> None:
        """Forget volumes that are gone from the pool, now at that transaction id (None: as before)."""
        with self._transaction() as db:
            db.executemany("DELETE FROM garbage WHERE thin_id = ?", [(thin_id,) for thin_id in thin_ids])
            if transaction_id is not None:
                agree(db, pool, transaction_id)


def agree(db: sqlite3.Connection, pool: PoolName, transaction_id: int) -> None:
    """Record a pool's transaction id within a transaction."""
    db.execute("UPDATE pools SET transaction_id = ? WHERE name = ?", (transaction_id, pool))


def condemn(db: sqlite3.Connection, thin_id: int, pool: PoolName, why: str, since: float) -> None:
    """Say within a transaction that a volume is to be deleted."""
    db.execute("INSERT INTO garbage VALUES (?, ?, ?, ?)", (thin_id, pool, why, since))


def _garbage(row: Row) -> Garbage:
    thin_id, pool, why, since = row
    return Garbage(integer(thin_id), PoolName(str(pool)), str(why), moment(since) or 0.0)
