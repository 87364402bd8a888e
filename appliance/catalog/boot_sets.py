"""Boot sets in the catalog, each with the template version that it belongs to, and the boots they were learned from."""

from appliance.catalog.database import Row, integer
from appliance.catalog.rows import BootRun, StoredBootSet
from appliance.catalog.templates import TemplateRows, put_boot_set

RUNS_KEPT = 5
"""Recorded boots of a template version that are kept, the newest ones; more if its boot set is made of more."""


CHECKS_KEPT = 5
"""Boots of a template version that its boot set is judged by, the newest ones."""


class BootSetRows(TemplateRows):
    """All go when their template goes."""

    def boot_set(self, template: int) -> StoredBootSet | None:
        """The boot set of the template with that thin id."""
        row = self._row("SELECT template, boot_set, guessed, changed FROM boot_sets WHERE template = ?", template)
        return _boot_set(row) if row else None

    def boot_sets(self) -> tuple[StoredBootSet, ...]:
        """All of them."""
        rows = self._rows("SELECT template, boot_set, guessed, changed FROM boot_sets ORDER BY template")
        return tuple(map(_boot_set, rows))

    def boots_to_learn(self, template: int, runs: int) -> int:
        """How many boots are missing until the template's boot set is made of ``runs`` of its own.

        0 when a file brought it one that was learned from the same content.
        """
        row = self._row(
            "SELECT (SELECT count(*) FROM boot_runs WHERE template = ?1),"
            " (SELECT guessed FROM boot_sets WHERE template = ?1)",
            template,
        )
        kept, guessed = (0, None) if row is None else row
        return 0 if guessed == 0 and not kept else max(0, runs - integer(kept))

    def boot_set_judged(self, template: int) -> float | None:
        """When the last boot was recorded that tells how much of a boot set boots read, whether it is made of it or
        not; 0 when there was none, None without a boot set."""
        row = self._row(
            "SELECT max(coalesce((SELECT max(recorded) FROM boot_runs WHERE template = ?1), 0.0),"
            " coalesce((SELECT max(recorded) FROM boot_checks WHERE template = ?1), 0.0))"
            " FROM boot_sets WHERE template = ?1",
            template,
        )
        return None if row is None else float(str(row[0]))

    def add_boot_check(self, judged: StoredBootSet, recorded: float, used: int) -> None:
        """Note that a boot read ``used`` bytes of a boot set; nothing when that has been replaced meanwhile."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO boot_checks (template, recorded, used)"
                " SELECT template, ?2, ?3 FROM boot_sets WHERE template = ?1 AND changed = ?4",
                (judged.template, recorded, used, judged.changed),
            )
            db.execute(
                "DELETE FROM boot_checks WHERE template = ?1 AND number NOT IN"
                " (SELECT number FROM boot_checks WHERE template = ?1 ORDER BY number DESC LIMIT ?2)",
                (judged.template, CHECKS_KEPT),
            )

    def boot_checks(self, template: int) -> tuple[int, ...]:
        """Bytes of a template's boot set that the boots read that were recorded to judge it, the oldest first."""
        rows = self._rows("SELECT used FROM boot_checks WHERE template = ? ORDER BY number", template)
        return tuple(integer(row[0]) for row in rows)

    def put_boot_set(self, new: StoredBootSet) -> None:
        """Give a template a boot set, in the place of the one it may have."""
        with self._transaction() as db:
            put_boot_set(db, new)

    def give_boot_set(self, new: StoredBootSet) -> None:
        """As ``put_boot_set``, for one that was not learned here: the boots recorded so far are forgotten."""
        with self._transaction() as db:
            db.execute("DELETE FROM boot_runs WHERE template = ?", (new.template,))
            put_boot_set(db, new)

    def remove_boot_set(self, template: int) -> bool:
        """Take it away, with the boots that were recorded; whether there was one."""
        with self._transaction() as db:
            db.execute("DELETE FROM boot_runs WHERE template = ?", (template,))
            db.execute("DELETE FROM boot_checks WHERE template = ?", (template,))
            return bool(db.execute("DELETE FROM boot_sets WHERE template = ?", (template,)).rowcount)

    def add_boot_run(self, run: BootRun, kept: int = RUNS_KEPT) -> None:
        """Keep a recorded boot, and forget those before the last ``kept``."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO boot_runs (template, clone, recorded, trace) VALUES (?, ?, ?, ?)",
                (run.template, run.clone, run.recorded, run.trace),
            )
            db.execute(
                "DELETE FROM boot_runs WHERE template = ?1 AND number NOT IN"
                " (SELECT number FROM boot_runs WHERE template = ?1 ORDER BY number DESC LIMIT ?2)",
                (run.template, kept),
            )

    def boot_runs(self, template: int) -> tuple[BootRun, ...]:
        """The boots of a template that are kept, the oldest first."""
        rows = self._rows(
            "SELECT template, clone, recorded, trace FROM boot_runs WHERE template = ? ORDER BY number", template
        )
        return tuple(BootRun(integer(row[0]), str(row[1]), float(str(row[2])), str(row[3])) for row in rows)


def _boot_set(row: Row) -> StoredBootSet:
    return StoredBootSet(integer(row[0]), str(row[1]), bool(row[2]), float(str(row[3])))
