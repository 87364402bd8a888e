"""Template versions in the catalog."""

import sqlite3

from appliance.catalog.database import Row, integer, moment, text
from appliance.catalog.pools import PoolRows, agree, condemn
from appliance.catalog.rows import NewTemplate, Staging, StoredBootSet, Template
from appliance.errors import AlreadyExists, InUse, NotFound
from appliance.model import ImageFormat, PoolName, TemplateRef, TemplateState

_TEMPLATE = (
    "SELECT thin_id, name, version, state, size, format, source, sha256, created, retired,"
    " EXISTS (SELECT 1 FROM fetches WHERE template = thin_id) FROM templates"
)


class TemplateRows(PoolRows):
    """The template versions, and the volumes that hold images while they are converted."""

    def add_template(self, new: NewTemplate) -> Template:
        """Record the intent to make the next version of a name. Raises AlreadyExists while one is being imported.

        A version's number is not used again: neither when it was removed, nor by two imports.
        """
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM templates WHERE name = ? AND state = 'importing'", (new.name,)).fetchone():
                raise AlreadyExists(
                    f"a version of template {new.name} is being imported",
                    why="versions are made one after the other",
                    hint="wait for that import, or choose another name",
                )
            (last,) = db.execute("SELECT max(last) FROM versions WHERE name = ?", (new.name,)).fetchone()
            (thin_id,) = self._take_ids(db, 1)
            db.execute(
                "INSERT INTO templates (thin_id, name, version, state, size, format, source, created)"
                " VALUES (?, ?, ?, ?, 0, ?, ?, ?)",
                (thin_id, new.name, (last or 0) + 1, TemplateState.IMPORTING, new.format, new.source, new.created),
            )
            return _template(db.execute(f"{_TEMPLATE} WHERE thin_id = ?", (thin_id,)).fetchone())

    def finish_template(
        self,
        thin_id: int,
        size: int,
        sha256: str | None,
        transaction_id: int | None = None,
        boot_set: StoredBootSet | None = None,
    ) -> None:
        """A template is whole and sealed: ready, with the pool at that transaction id (None: as before)."""
        with self._transaction() as db:
            ready(db, thin_id, size, sha256)
            db.execute("DELETE FROM fetches WHERE template = ?", (thin_id,))
            if transaction_id is not None:
                agree(db, PoolName.DURABLE, transaction_id)
            if boot_set is not None:
                put_boot_set(db, boot_set)

    def remove_template(self, thin_id: int, why: str, now: float) -> None:
        """A template is no more, its volume is to be deleted; so are the staging volumes of its import.

        Raises InUse while clones depend on it, or it is offered to a client.
        """
        with self._transaction() as db:
            count, names = _dependents(db, thin_id)
            if count:
                raise InUse(
                    "the template is in use",
                    why=f"{count} clone(s) depend on it: {_some(names, count)}",
                    hint="remove the clones first, or say that it goes when they have gone (--when-unused)",
                )
            offered = [row[0] for row in db.execute("SELECT client FROM offers WHERE template = ?", (thin_id,))]
            if offered:
                raise InUse(
                    "the template is in use",
                    why=f"it is offered to {', '.join(sorted(offered))}",
                    hint="withdraw it first: hatchery template withdraw",
                )
            for (staging,) in db.execute("SELECT thin_id FROM stagings WHERE template = ?", (thin_id,)).fetchall():
                condemn(db, staging, PoolName.DURABLE, why, now)
            db.execute("DELETE FROM stagings WHERE template = ?", (thin_id,))
            db.execute("DELETE FROM templates WHERE thin_id = ?", (thin_id,))
            condemn(db, thin_id, PoolName.DURABLE, why, now)

    def retire_template(self, thin_id: int, now: float) -> bool:
        """A template is cloned no more and goes with the last of its clones; true when it is gone already."""
        with self._transaction() as db:
            db.execute("UPDATE templates SET retired = 1 WHERE thin_id = ?", (thin_id,))
            return bool(self._sweep(db, {thin_id}, now))

    @staticmethod
    def _sweep(db: sqlite3.Connection, thin_ids: set[int], now: float) -> tuple[int, ...]:
        """Remove those of the templates that are retired, have no clone and are not offered; return their ids."""
        swept = []
        for thin_id in thin_ids:
            row = db.execute(
                "SELECT name, version FROM templates WHERE thin_id = ? AND retired = 1 AND state = 'ready'"
                " AND NOT EXISTS (SELECT 1 FROM clones WHERE template = templates.thin_id)"
                " AND NOT EXISTS (SELECT 1 FROM offers WHERE template = templates.thin_id)",
                (thin_id,),
            ).fetchone()
            if row:
                db.execute("DELETE FROM templates WHERE thin_id = ?", (thin_id,))
                why = f"template {row[0]}@{row[1]} was removed with its last clone"
                condemn(db, thin_id, PoolName.DURABLE, why, now)
                swept.append(thin_id)
        return tuple(swept)

    def templates(self) -> tuple[Template, ...]:
        """All template versions, by name and version."""
        return tuple(_template(row) for row in self._rows(f"{_TEMPLATE} ORDER BY name, version"))

    def versions(self, name: str) -> tuple[Template, ...]:
        """All versions of a name, the newest first."""
        return tuple(_template(row) for row in self._rows(f"{_TEMPLATE} WHERE name = ? ORDER BY version DESC", name))

    def find_template(self, ref: TemplateRef) -> Template | None:
        """The version that ``ref`` means: the one named, or the newest ready one, or the newest; None when absent."""
        row = self._row(
            f"{_TEMPLATE} WHERE name = ?1 AND (?2 IS NULL OR version = ?2)"
            " ORDER BY state = 'ready' AND NOT retired DESC, state = 'ready' DESC, version DESC",
            ref.name,
            ref.version,
        )
        return _template(row) if row else None

    def template(self, ref: TemplateRef) -> Template:
        """As ``find_template``. Raises NotFound."""
        found = self.find_template(ref)
        if found is None:
            raise NotFound(f"template {ref} does not exist", hint="see `hatchery template list`")
        return found

    def template_of_id(self, thin_id: int) -> Template:
        """The version with that thin id. Raises NotFound."""
        row = self._row(f"{_TEMPLATE} WHERE thin_id = ?", thin_id)
        if row is None:
            raise NotFound(f"no template has the volume {thin_id}", why="it was removed meanwhile")
        return _template(row)

    def count_templates(self) -> int:
        """How many template versions there are."""
        return self._number("SELECT count(*) FROM templates")

    # --- staging volumes

    def add_staging(self, template: int) -> Staging:
        """Record the intent to make a staging volume for the template with that thin id."""
        with self._transaction() as db:
            (thin_id,) = self._take_ids(db, 1)
            db.execute("INSERT INTO stagings VALUES (?, ?)", (thin_id, template))
        return Staging(thin_id, template)

    def stagings(self) -> tuple[Staging, ...]:
        """All staging volumes."""
        rows = self._rows("SELECT thin_id, template FROM stagings ORDER BY thin_id")
        return tuple(Staging(integer(thin_id), integer(template)) for thin_id, template in rows)

    def remove_staging(self, thin_id: int, why: str, now: float) -> None:
        """A staging volume is not needed any more: it is to be deleted. Fine when there is none."""
        with self._transaction() as db:
            if db.execute("DELETE FROM stagings WHERE thin_id = ?", (thin_id,)).rowcount:
                condemn(db, thin_id, PoolName.DURABLE, why, now)


def ready(db: sqlite3.Connection, thin_id: int, size: int, sha256: str | None) -> None:
    """Say within a transaction that a template may be cloned."""
    db.execute(
        "UPDATE templates SET state = ?, size = ?, sha256 = ? WHERE thin_id = ?",
        (TemplateState.READY, size, sha256, thin_id),
    )
    db.execute(
        "INSERT INTO versions SELECT name, version FROM templates WHERE thin_id = ?"
        " ON CONFLICT (name) DO UPDATE SET last = max(last, excluded.last)",
        (thin_id,),
    )


def put_boot_set(db: sqlite3.Connection, new: StoredBootSet) -> None:
    """In a transaction of the caller's. What boots used of the one before tells nothing of this."""
    db.execute("DELETE FROM boot_checks WHERE template = ?", (new.template,))
    db.execute(
        "INSERT INTO boot_sets VALUES (?, ?, ?, ?) ON CONFLICT (template) DO UPDATE SET"
        " boot_set = excluded.boot_set, guessed = excluded.guessed, changed = excluded.changed",
        (new.template, new.text, int(new.guessed), new.changed),
    )


def _dependents(db: sqlite3.Connection, thin_id: int) -> tuple[int, list[str]]:
    """How many clones a template has, and a few of their names."""
    (count,) = db.execute("SELECT count(*) FROM clones WHERE template = ?", (thin_id,)).fetchone()
    query = "SELECT name FROM clones WHERE template = ? ORDER BY thin_id LIMIT 5"
    return count, [row[0] for row in db.execute(query, (thin_id,))]


def _some(names: list[str], count: int) -> str:
    more = count - len(names)
    return ", ".join(sorted(names)) + (f" and {more} more" if more else "")


def _template(row: Row) -> Template:
    thin_id, name, version, state, size, kind, source, sha256, created, retired, fetching = row
    return Template(
        thin_id=integer(thin_id),
        name=str(name),
        version=integer(version),
        state=TemplateState.FETCHING if fetching else TemplateState(str(state)),
        size=integer(size),
        format=ImageFormat(str(kind)),
        source=str(source),
        sha256=text(sha256),
        created=moment(created) or 0.0,
        retired=bool(retired),
    )
