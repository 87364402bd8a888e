"""Templates that are cloned already while their rest is fetched from another server."""

from appliance.catalog.database import Row, integer, text
from appliance.catalog.rows import Fetch, Identity, StoredBootSet
from appliance.catalog.templates import TemplateRows, put_boot_set, ready

_FETCH = "SELECT template, uri, fetched, authority, certificate, key FROM fetches"


class FetchRows(TemplateRows):
    """The fetches. One ends with ``finish_template``, or goes with its template."""

    def begin_fetch(self, fetch: Fetch, size: int, boot_set: StoredBootSet | None) -> None:
        """A template of ``size`` bytes that was imported until now may be cloned; its rest comes meanwhile."""
        identity = fetch.identity
        secrets = (None, None, None) if identity is None else (identity.authority, identity.certificate, identity.key)
        with self._transaction() as db:
            ready(db, fetch.template, size, None)
            db.execute(
                "INSERT INTO fetches (template, uri, fetched, authority, certificate, key) VALUES (?, ?, ?, ?, ?, ?)",
                (fetch.template, fetch.uri, fetch.fetched, *secrets),
            )
            if boot_set is not None:
                put_boot_set(db, boot_set)

    def record_fetched(self, template: int, fetched: int) -> None:
        """All before that byte is in, and durable."""
        with self._transaction() as db:
            db.execute("UPDATE fetches SET fetched = ? WHERE template = ?", (fetched, template))

    def fetches(self) -> tuple[Fetch, ...]:
        """All that are under way, the oldest first."""
        return tuple(_fetch(row) for row in self._rows(f"{_FETCH} ORDER BY template"))

    def fetch(self, template: int) -> Fetch | None:
        """That of one template; None when it is whole, or gone."""
        row = self._row(f"{_FETCH} WHERE template = ?", template)
        return _fetch(row) if row else None


def _fetch(row: Row) -> Fetch:
    template, uri, fetched, authority, certificate, key = row
    given = text(authority), text(certificate), text(key)
    identity = None if None in given else Identity(*(str(each) for each in given))
    return Fetch(integer(template), str(uri), integer(fetched), identity)
