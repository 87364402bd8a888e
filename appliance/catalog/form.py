"""Forms of the catalog: how many of the migrations' steps were taken. An older release cannot open a newer form."""

import sqlite3
from contextlib import closing
from pathlib import Path

from appliance.catalog.migrations import STEPS
from appliance.errors import CannotTell

KNOWN = len(STEPS)
"""The form that this release writes."""


def of(path: Path) -> int | None:
    """The form of the catalog in the file ``path``, which may be in use; None when there is none. Raises CannotTell."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            (form,) = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise CannotTell(f"the catalog {path} cannot be looked at", why=str(error)) from error
    return int(form)
