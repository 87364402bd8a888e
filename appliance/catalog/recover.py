"""A catalog that was put back from a backup, made to fit pools that went on without it."""

from collections.abc import Container

from appliance.catalog.catalog import Catalog
from appliance.catalog.rows import Open
from appliance.model import CloneKind, CloneState, ImageFormat, TemplateState

SOURCE = "recovered"
"""What stands as the source of a template that was found in the pool and nowhere else."""


class RestoredCatalog(Catalog):
    """The copy of a backup while it is made to fit."""

    def settle(self, present: Container[int]) -> Open:
        """Forget what had been begun when the backup was made; returns that.

        How it went on is not known: a volume that stands there as half made or as to be deleted may have become
        somebody's disk since. So the intents are dropped and nothing is deleted for them; their volumes, if the
        pools still have them (``present``), are found as unknown ones. Clones keep their names: they were made or not.
        """
        with self._transaction() as db:
            found = self.open_intents()
            for clone in found.clones:
                if clone.thin_id in present:
                    db.execute("UPDATE clones SET state = ? WHERE thin_id = ?", (CloneState.READY, clone.thin_id))
                else:
                    db.execute("DELETE FROM clones WHERE thin_id = ?", (clone.thin_id,))
            db.execute("DELETE FROM stagings")
            db.execute("DELETE FROM garbage")
            for template in found.templates:
                db.execute("DELETE FROM templates WHERE thin_id = ?", (template.thin_id,))
            return found

    def spare_leases(self, until: float) -> int:
        """Let no lease end before ``until``, for it may have been renewed since; returns how many were lengthened."""
        with self._transaction() as db:
            return db.execute("UPDATE clones SET expires = ? WHERE expires < ?", (until, until)).rowcount

    def adopt_template(self, thin_id: int, name: str, size: int, now: float) -> None:
        """Give an unknown volume a name, as a template: nobody writes to it until somebody knows what it is."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO templates (thin_id, name, version, state, size, format, source, created)"
                " VALUES (?, ?, 1, ?, ?, ?, ?, ?)",
                (thin_id, name, TemplateState.READY, size, ImageFormat.RAW, SOURCE, now),
            )
            db.execute("INSERT OR REPLACE INTO versions VALUES (?, 1)", (name,))

    def adopt_clone(self, thin_id: int, name: str, template: int, size: int, now: float) -> None:
        """Give an unknown volume a name, as a durable clone of a template; it is attached to nobody."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO clones (thin_id, name, template, kind, state, size, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (thin_id, name, template, CloneKind.DURABLE, CloneState.READY, size, now),
            )

    def seal(self) -> None:
        """Make the file complete without its log, so that it may be renamed."""
        with self._lock:
            self._db.execute("PRAGMA journal_mode = DELETE")
