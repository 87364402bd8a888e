"""The catalog's database and the statements on it.

Each public method is one transaction, durable when it returns (WAL with ``synchronous=FULL``). The catalog never
touches the pool: its caller records the intent here, acts on the pool, and records the result here.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.catalog.migrations import migrate
from appliance.catalog.rows import Client, Clone, NewClone, NewTemplate, Open, Staging, Template
from appliance.errors import AlreadyExists, InUse, NotFound, NotReady, Unhealthy
from appliance.model import MAX_THIN_ID, CloneKind, CloneState, ImageFormat, TemplateRef, TemplateState

_TEMPLATE = "SELECT thin_id, name, version, state, size, format, source, sha256, created FROM templates"
_CLONE = (
    "SELECT c.thin_id, c.name, c.template, t.name, t.version, c.kind, c.state, c.size, c.client, c.created"
    " FROM clones c JOIN templates t ON t.thin_id = c.template"
)
_CLIENT = "SELECT name, transport, address, port, plain FROM clients"


class Catalog:
    """An open catalog. May be used from several threads; transactions run one at a time."""

    def __init__(self, path: Path | str) -> None:
        """Open ``path`` (``:memory:`` for a test), make it if absent, and migrate it.

        Raises NotReady when it cannot be opened, Refused when it is of a newer release.
        """
        self._lock = threading.RLock()
        try:
            # isolation_level None: no implicit transactions, `_transaction` is the only way.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            migrate(self._db)
        except sqlite3.Error as error:
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

    # --- the ledger

    def transaction_id(self) -> int | None:
        """The pool's transaction id after the last finished change; None before the first."""
        with self._lock:
            (value,) = self._db.execute("SELECT transaction_id FROM ledger").fetchone()
        return None if value is None else int(value)

    def set_transaction_id(self, value: int) -> None:
        """Record the pool's transaction id as agreed."""
        with self._transaction() as db:
            db.execute("UPDATE ledger SET transaction_id = ?", (value,))

    def skip_thin_ids(self, highest: int) -> None:
        """Never give out ``highest`` or an id below it from now on."""
        with self._transaction() as db:
            db.execute("UPDATE ledger SET next_thin_id = max(next_thin_id, ?)", (highest + 1,))

    @staticmethod
    def _take_ids(db: sqlite3.Connection, count: int) -> range:
        (first,) = db.execute("SELECT next_thin_id FROM ledger").fetchone()
        if first + count - 1 > MAX_THIN_ID:
            raise Unhealthy(
                "the pool's ids are used up",
                why=f"{MAX_THIN_ID} volumes were made in this pool's life",
                hint="set up a new store",
            )
        db.execute("UPDATE ledger SET next_thin_id = ?", (first + count,))
        return range(first, first + count)

    def open_intents(self) -> Open:
        """What was begun and not finished."""
        with self._lock:
            return Open(
                tuple(_template(row) for row in self._db.execute(f"{_TEMPLATE} WHERE state <> 'ready'")),
                tuple(_clone(row) for row in self._db.execute(f"{_CLONE} WHERE c.state <> 'ready'")),
                tuple(Staging(*row) for row in self._db.execute("SELECT thin_id, template FROM stagings")),
            )

    def thin_ids(self) -> frozenset[int]:
        """All ids that the catalog knows."""
        query = "SELECT thin_id FROM templates UNION SELECT thin_id FROM clones UNION SELECT thin_id FROM stagings"
        with self._lock:
            return frozenset(row[0] for row in self._db.execute(query))

    # --- templates

    def add_template(self, new: NewTemplate) -> Template:
        """Record the intent to import a template. Raises AlreadyExists when the name is taken."""
        with self._transaction() as db:
            taken = db.execute("SELECT state FROM templates WHERE name = ?", (new.name,)).fetchone()
            if taken:
                raise AlreadyExists(
                    f"template {new.name} exists already",
                    why=f"it is {taken[0]}",
                    hint="choose another name, or remove the old one first",
                )
            (thin_id,) = self._take_ids(db, 1)
            db.execute(
                "INSERT INTO templates VALUES (?, ?, 1, ?, 0, ?, ?, NULL, ?)",
                (thin_id, new.name, TemplateState.IMPORTING, new.format, new.source, new.created),
            )
            return _template(db.execute(f"{_TEMPLATE} WHERE thin_id = ?", (thin_id,)).fetchone())

    def add_staging(self, template: int) -> Staging:
        """Record the intent to make a staging volume for the template with that thin id."""
        with self._transaction() as db:
            (thin_id,) = self._take_ids(db, 1)
            db.execute("INSERT INTO stagings VALUES (?, ?)", (thin_id, template))
        return Staging(thin_id, template)

    def drop_staging(self, thin_id: int, transaction_id: int) -> None:
        """Forget a staging volume that is gone from the pool, now at that transaction id."""
        with self._transaction() as db:
            db.execute("DELETE FROM stagings WHERE thin_id = ?", (thin_id,))
            db.execute("UPDATE ledger SET transaction_id = ?", (transaction_id,))

    def finish_template(self, thin_id: int, size: int, sha256: str) -> None:
        """An imported template is whole and sealed: ready."""
        with self._transaction() as db:
            db.execute(
                "UPDATE templates SET state = ?, size = ?, sha256 = ? WHERE thin_id = ?",
                (TemplateState.READY, size, sha256, thin_id),
            )

    def begin_template_removal(self, thin_id: int) -> None:
        """Record the intent to remove a template. Raises InUse while clones depend on it."""
        with self._transaction() as db:
            names = [row[0] for row in db.execute("SELECT name FROM clones WHERE template = ?", (thin_id,))]
            if names:
                shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
                raise InUse(
                    "the template is in use",
                    why=f"{len(names)} clone(s) depend on it: {shown}",
                    hint="remove the clones first",
                )
            db.execute("UPDATE templates SET state = ? WHERE thin_id = ?", (TemplateState.REMOVING, thin_id))

    def drop_template(self, thin_id: int, transaction_id: int) -> None:
        """Forget a template that is gone from the pool, now at that transaction id.

        Raises InUse while a staging volume of its import is left.
        """
        with self._transaction() as db:
            if db.execute("SELECT 1 FROM stagings WHERE template = ?", (thin_id,)).fetchone():
                raise InUse("the template's import is not cleaned up", hint="restart hatcheryd, which does it")
            db.execute("DELETE FROM templates WHERE thin_id = ?", (thin_id,))
            db.execute("UPDATE ledger SET transaction_id = ?", (transaction_id,))

    def templates(self) -> tuple[Template, ...]:
        """All template versions, by name and version."""
        with self._lock:
            return tuple(_template(row) for row in self._db.execute(f"{_TEMPLATE} ORDER BY name, version"))

    def find_template(self, ref: TemplateRef) -> Template | None:
        """The version that ``ref`` means: the one named, or the newest ready one, or the newest; None when absent."""
        query = (
            f"{_TEMPLATE} WHERE name = ?1 AND (?2 IS NULL OR version = ?2) ORDER BY state = 'ready' DESC, version DESC"
        )
        with self._lock:
            row = self._db.execute(query, (ref.name, ref.version)).fetchone()
        return _template(row) if row else None

    def template(self, ref: TemplateRef) -> Template:
        """As ``find_template``. Raises NotFound."""
        found = self.find_template(ref)
        if found is None:
            raise NotFound(f"template {ref} does not exist", hint="see `hatchery template list`")
        return found

    def clone_counts(self) -> dict[int, int]:
        """How many clones each template has, by the template's thin id; those with none are left out."""
        with self._lock:
            return dict(self._db.execute("SELECT template, count(*) FROM clones GROUP BY template"))

    # --- clones

    def add_clones(self, ref: TemplateRef, new: Sequence[NewClone]) -> tuple[Clone, ...]:
        """Record the intent to make clones of one template: all or none.

        Raises NotFound for the template or the client, NotReady while the template is imported or removed,
        AlreadyExists for a name.
        """
        with self._transaction() as db:
            template = self.template(ref)
            if template.state is not TemplateState.READY:
                raise NotReady(f"template {template.ref} cannot be cloned", why=f"it is {template.state}")
            for clone in new:
                if db.execute("SELECT 1 FROM clones WHERE name = ?", (clone.name,)).fetchone():
                    raise AlreadyExists(f"clone {clone.name} exists already", hint="choose another name")
                if clone.client is not None:
                    self.client(clone.client)
            ids = self._take_ids(db, len(new))
            db.executemany(
                "INSERT INTO clones VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        thin_id,
                        clone.name,
                        template.thin_id,
                        CloneKind.DURABLE,
                        CloneState.CREATING,
                        template.size,
                        clone.client,
                        clone.created,
                    )
                    for thin_id, clone in zip(ids, new, strict=True)
                ],
            )
            rows = db.execute(f"{_CLONE} WHERE c.thin_id BETWEEN ? AND ? ORDER BY c.thin_id", (ids[0], ids[-1]))
            return tuple(_clone(row) for row in rows.fetchall())

    def finish_clones(self, thin_ids: Sequence[int], transaction_id: int) -> None:
        """The clones are in the pool, at that transaction id: ready."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE clones SET state = ? WHERE thin_id = ?", [(CloneState.READY, thin_id) for thin_id in thin_ids]
            )
            db.execute("UPDATE ledger SET transaction_id = ?", (transaction_id,))

    def begin_clone_removal(self, thin_id: int) -> None:
        """Record the intent to remove a clone; it is exported to nobody from now on."""
        with self._transaction() as db:
            db.execute("UPDATE clones SET state = ?, client = NULL WHERE thin_id = ?", (CloneState.REMOVING, thin_id))

    def drop_clones(self, thin_ids: Sequence[int], transaction_id: int) -> None:
        """Forget clones that are gone from the pool, now at that transaction id."""
        with self._transaction() as db:
            db.executemany("DELETE FROM clones WHERE thin_id = ?", [(thin_id,) for thin_id in thin_ids])
            db.execute("UPDATE ledger SET transaction_id = ?", (transaction_id,))

    def set_clone_client(self, thin_id: int, client: str | None) -> None:
        """Attach a clone to a client, or detach it. Raises NotFound for the client."""
        with self._transaction() as db:
            if client is not None:
                self.client(client)
            db.execute("UPDATE clones SET client = ? WHERE thin_id = ?", (client, thin_id))

    def clones(self) -> tuple[Clone, ...]:
        """All clones by name."""
        with self._lock:
            return tuple(_clone(row) for row in self._db.execute(f"{_CLONE} ORDER BY c.name"))

    def clones_of_client(self, client: str) -> tuple[Clone, ...]:
        """The ready clones that are attached to a client, by name."""
        query = f"{_CLONE} WHERE c.client = ? AND c.state = 'ready' ORDER BY c.name"
        with self._lock:
            return tuple(_clone(row) for row in self._db.execute(query, (client,)))

    def find_clone(self, name: str) -> Clone | None:
        """The clone of that name; None when absent."""
        with self._lock:
            row = self._db.execute(f"{_CLONE} WHERE c.name = ?", (name,)).fetchone()
        return _clone(row) if row else None

    def clone(self, name: str) -> Clone:
        """As ``find_clone``. Raises NotFound."""
        found = self.find_clone(name)
        if found is None:
            raise NotFound(f"clone {name} does not exist", hint="see `hatchery clone list`")
        return found

    # --- clients

    def put_client(self, client: Client) -> None:
        """Add a client, or replace the one of that name."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO clients VALUES (:name, :transport, :address, :port, :plain)"
                " ON CONFLICT (name) DO UPDATE"
                " SET transport = :transport, address = :address, port = :port, plain = :plain",
                {
                    "name": client.name,
                    "transport": client.transport,
                    "address": client.address,
                    "port": client.port,
                    "plain": int(client.plain),
                },
            )

    def drop_client(self, name: str) -> None:
        """Forget a client. Raises InUse while clones are attached to it."""
        with self._transaction() as db:
            names = [row[0] for row in db.execute("SELECT name FROM clones WHERE client = ? ORDER BY name", (name,))]
            if names:
                raise InUse(
                    f"client {name} is in use",
                    why=f"{len(names)} clone(s) are attached to it: {', '.join(names[:5])}",
                    hint="detach or remove them first",
                )
            db.execute("DELETE FROM clients WHERE name = ?", (name,))

    def clients(self) -> tuple[Client, ...]:
        """All clients by name."""
        with self._lock:
            return tuple(_client(row) for row in self._db.execute(f"{_CLIENT} ORDER BY name"))

    def find_client(self, name: str) -> Client | None:
        """The client of that name; None when absent."""
        with self._lock:
            row = self._db.execute(f"{_CLIENT} WHERE name = ?", (name,)).fetchone()
        return _client(row) if row else None

    def client(self, name: str) -> Client:
        """As ``find_client``. Raises NotFound."""
        found = self.find_client(name)
        if found is None:
            raise NotFound(f"client {name} does not exist", hint="see `hatchery client list`")
        return found


Row = tuple[object, ...]


def _template(row: Row) -> Template:
    thin_id, name, version, state, size, kind, source, sha256, created = row
    return Template(
        thin_id=_int(thin_id),
        name=str(name),
        version=_int(version),
        state=TemplateState(str(state)),
        size=_int(size),
        format=ImageFormat(str(kind)),
        source=str(source),
        sha256=None if sha256 is None else str(sha256),
        created=float(str(created)),
    )


def _clone(row: Row) -> Clone:
    thin_id, name, template, template_name, version, kind, state, size, client, created = row
    return Clone(
        thin_id=_int(thin_id),
        name=str(name),
        template=_int(template),
        template_ref=f"{template_name}@{version}",
        kind=CloneKind(str(kind)),
        state=CloneState(str(state)),
        size=_int(size),
        client=None if client is None else str(client),
        created=float(str(created)),
    )


def _client(row: Row) -> Client:
    name, transport, address, port, plain = row
    return Client(
        name=str(name),
        transport=str(transport),
        address=None if address is None else str(address),
        port=None if port is None else _int(port),
        plain=bool(plain),
    )


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise Unhealthy("the catalog is damaged", why=f"{value!r} stands where a number belongs")
    return value
