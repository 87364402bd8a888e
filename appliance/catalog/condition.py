"""What state a catalog's file is in, without making one; and a copy of it that is whole."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from appliance.errors import Unhealthy


class Condition(StrEnum):
    """What a look at the file says."""

    ABSENT = "absent"
    """There is no file, or one that nothing was ever written to."""
    DAMAGED = "damaged"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Look:
    """A file's condition; ``why`` says what is damaged."""

    condition: Condition
    why: str = ""


def look(path: Path) -> Look:
    """Open the catalog and let SQLite check its structure. What its log still holds is taken in, as by any opening."""
    if not path.exists():
        return Look(Condition.ABSENT)
    try:
        with closing(_open(path)) as db:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if not version and not tables:
                return Look(Condition.ABSENT)
            found = [str(row[0]) for row in db.execute("PRAGMA quick_check(3)")]
            if found != ["ok"]:
                return Look(Condition.DAMAGED, "; ".join(found))
            if db.execute("SELECT count(*) FROM ledger").fetchone() != (1,):
                return Look(Condition.DAMAGED, "its ledger is empty")
    except sqlite3.Error as error:
        return Look(Condition.DAMAGED, str(error))
    return Look(Condition.GOOD)


def copy(source: Path, target: Path) -> int:
    """Copy a catalog as it is at one moment, also while a service writes it; returns the version of its schema.

    ``target`` is a single file afterwards, which needs no log beside it. Raises Unhealthy when the source is damaged
    or absent.
    """
    found = look(source)
    if found.condition is not Condition.GOOD:
        raise Unhealthy(
            f"the catalog {source} is {found.condition}", why=found.why, hint="see `hatchery-store restore --help`"
        )
    try:
        with closing(_open(source)) as db, closing(sqlite3.connect(target)) as new:
            db.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
            return int(new.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error as error:
        raise Unhealthy(f"the catalog {source} cannot be copied", why=str(error)) from error


def _open(path: Path) -> sqlite3.Connection:
    # mode=rw: never make a file, but take in the log that a crash left.
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=10)


def transaction_id(path: Path) -> int | None:
    """The durable pool's transaction id in a catalog that ``copy`` made; None before the first change."""
    queries = ("SELECT transaction_id FROM pools WHERE name = 'durable'", "SELECT transaction_id FROM ledger")
    with closing(_open(path)) as db:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        row = db.execute(queries[version < 2]).fetchone()
    return None if row is None or row[0] is None else int(row[0])
