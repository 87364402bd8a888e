"""The catalog as a whole: what is open, and what a start makes of it.

The catalog never touches a pool: its caller records the intent here, acts on the pool, and records the result here.
An intent is a row that is not ready, or one in ``garbage``.
"""

from appliance.catalog.clones import CloneRows
from appliance.catalog.database import integer
from appliance.catalog.pools import condemn
from appliance.catalog.rows import Open
from appliance.model import PoolName, TemplateState


class Catalog(CloneRows):
    """An open catalog."""

    def open_intents(self) -> Open:
        """What was begun and not finished."""
        with self._lock:
            return Open(
                tuple(t for t in self.templates() if t.state is TemplateState.IMPORTING),
                tuple(self._open_clones()),
                self.stagings(),
            )

    def roll_back(self, now: float) -> Open:
        """Give up all that was begun and not finished: its volumes are to be deleted. Returns what that was."""
        with self._transaction() as db:
            found = self.open_intents()
            for clone in found.clones:
                db.execute("DELETE FROM clones WHERE thin_id = ?", (clone.thin_id,))
                condemn(db, clone.thin_id, clone.pool, f"clone {clone.name} was not finished", now)
            templates = {template.thin_id: template.ref for template in found.templates}
            for staging in found.stagings:
                db.execute("DELETE FROM stagings WHERE thin_id = ?", (staging.thin_id,))
                ref = templates.get(staging.template, "a template")
                condemn(db, staging.thin_id, PoolName.DURABLE, f"the import of {ref} was not finished", now)
            for thin_id, ref in templates.items():
                db.execute("DELETE FROM templates WHERE thin_id = ?", (thin_id,))
                condemn(db, thin_id, PoolName.DURABLE, f"the import of {ref} was not finished", now)
            return found

    def thin_ids(self) -> frozenset[int]:
        """All ids that the catalog knows."""
        rows = self._rows(
            "SELECT thin_id FROM templates UNION SELECT thin_id FROM clones"
            " UNION SELECT thin_id FROM stagings UNION SELECT thin_id FROM garbage"
        )
        return frozenset(integer(row[0]) for row in rows)
