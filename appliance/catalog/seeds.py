"""Seeds of clones in the catalog. A clone's row takes its seed along when it goes."""

import json
import sqlite3

from appliance.catalog.database import Database, Row, integer, text
from appliance.catalog.rows import NewSeed, StoredSeed


class SeedRows(Database):
    """The seeds."""

    def put_seed(self, clone: str, seed: NewSeed) -> int:
        """Give a clone a seed, in place of one that it has; returns its number, which is never used again."""
        with self._transaction() as db:
            db.execute("DELETE FROM seeds WHERE clone = ?", (clone,))
            return self._add_seed(db, clone, seed)

    def drop_seed(self, clone: str) -> None:
        """Take a clone's seed away; fine when it has none."""
        with self._transaction() as db:
            db.execute("DELETE FROM seeds WHERE clone = ?", (clone,))

    def seed(self, number: int) -> StoredSeed | None:
        """The seed of that number; None when it is gone."""
        row = self._row("SELECT number, clone, hostname, ssh_keys, user_data FROM seeds WHERE number = ?", number)
        return _seed(row) if row else None

    def _add_seed(self, db: sqlite3.Connection, clone: str, seed: NewSeed) -> int:
        added = db.execute(
            "INSERT INTO seeds (clone, hostname, ssh_keys, user_data) VALUES (?, ?, ?, ?)",
            (clone, seed.hostname, json.dumps(seed.ssh_keys), seed.user_data),
        )
        return integer(added.lastrowid)


def _seed(row: Row) -> StoredSeed:
    number, clone, hostname, keys, user_data = row
    given = NewSeed(str(hostname), tuple(json.loads(str(keys))), text(user_data))
    return StoredSeed(integer(number), str(clone), given)
