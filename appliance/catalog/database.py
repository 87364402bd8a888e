"""The database below the catalog: opening, transactions, and the ledger of ids.

Each public method of the catalog is one transaction, durable when it returns (WAL with ``synchronous=FULL``).
"""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.catalog.migrations import migrate
from appliance.errors import NotReady, Unhealthy
from appliance.model import MAX_THIN_ID

Row = tuple[object, ...]


class Database:
    """An open database. May be used from several threads; transactions run one at a time."""

    def __init__(self, path: Path) -> None:
        """Open ``path``, make it if absent, and migrate it.

        Raises NotReady when it cannot be opened, Refused when it is of a newer release.
        """
        self._lock = threading.RLock()
        try:
            _keep_secret(path)
            # isolation_level None: no implicit transactions, `_transaction` is the only way.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            migrate(self._db)
        except (sqlite3.Error, OSError) as error:
            raise NotReady(
                f"the catalog {path} cannot be opened", why=str(error), hint="is the state file system mounted?"
            ) from error

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, *values: object) -> list[Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def _row(self, query: str, *values: object) -> Row | None:
        with self._lock:
            found: Row | None = self._db.execute(query, values).fetchone()
            return found

    def _number(self, query: str, *values: object) -> int:
        """The one number that a query gives."""
        row = self._row(query, *values)
        return integer(row[0] if row else None)

    # --- ids

    def skip_thin_ids(self, highest: int) -> None:
        """Never give out ``highest`` or an id below it from now on."""
        with self._transaction() as db:
            db.execute("UPDATE ledger SET next_thin_id = max(next_thin_id, ?)", (highest + 1,))

    def _take_ids(self, db: sqlite3.Connection, count: int) -> range:
        (first,) = db.execute("SELECT next_thin_id FROM ledger").fetchone()
        if first + count - 1 > MAX_THIN_ID:
            raise Unhealthy(
                "the pool's ids are used up",
                why=f"{MAX_THIN_ID} volumes were made in this store's life",
                hint="set up a new store",
            )
        db.execute("UPDATE ledger SET next_thin_id = ?", (first + count,))
        return range(first, first + count)


def _keep_secret(path: Path) -> None:
    """Make the file if it is absent, and let only its owner read it: it holds the authority's key.

    SQLite gives the files beside it the same mode.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    path.chmod(0o600)


def integer(value: object) -> int:
    """A column's number. Raises Unhealthy when it is none."""
    if not isinstance(value, int):
        raise Unhealthy("the catalog is damaged", why=f"{value!r} stands where a number belongs")
    return value


def text(value: object) -> str | None:
    """A column's text, or None for NULL."""
    return None if value is None else str(value)


def moment(value: object) -> float | None:
    """A column's time, or None for NULL."""
    return None if value is None else float(str(value))
