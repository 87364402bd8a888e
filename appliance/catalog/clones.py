"""Clones in the catalog."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from appliance.catalog.boot_sets import BootSetRows
from appliance.catalog.clients import ClientRows
from appliance.catalog.database import Row, integer, moment, text
from appliance.catalog.fetches import FetchRows
from appliance.catalog.nvme import NvmeRows
from appliance.catalog.offers import OfferRows
from appliance.catalog.pools import agree, condemn
from appliance.catalog.rows import Clone, NewClone, Template
from appliance.catalog.seeds import SeedRows
from appliance.errors import AlreadyExists, NotFound, NotReady
from appliance.model import CloneKind, CloneState, Limits, PoolName, Protocol, TemplateRef, TemplateState

_CLONE = (
    "SELECT c.thin_id, c.name, c.template, t.name, t.version, c.kind, c.state, c.size, c.client, c.created, c.expires,"
    " c.iops, c.bandwidth, s.number, c.shared, c.shared_until, c.overlay, c.protocol"
    " FROM clones c JOIN templates t ON t.thin_id = c.template"
    " LEFT JOIN seeds s ON s.clone = c.name"
)


class CloneRows(BootSetRows, ClientRows, FetchRows, NvmeRows, OfferRows, SeedRows):
    """The clones."""

    def add_clones(self, ref: TemplateRef, new: Sequence[NewClone]) -> tuple[Clone, ...]:
        """Record the intent to make clones of one template: all or none.

        Raises NotFound for the template or the client, NotReady while the template is imported or when it is
        retired, AlreadyExists for a name.
        """
        with self._transaction() as db:
            template = self.template(ref)
            if not template.state.usable:
                raise NotReady(
                    f"template {template.ref} cannot be cloned",
                    why=f"it is {template.state}",
                    hint=f"wait until it is ready: `hatchery template show {template.ref}`",
                )
            if template.retired:
                raise NotReady(
                    f"template {template.ref} cannot be cloned",
                    why="it goes when its last clone has gone",
                    hint="use another version",
                )
            for client in {clone.client for clone in new} - {None}:
                self.client(str(client))
            for clone in new:
                if db.execute("SELECT 1 FROM clones WHERE name = ?", (clone.name,)).fetchone():
                    raise AlreadyExists(f"clone {clone.name} exists already", hint="choose another name")
            ids = self._take_ids(db, len(new))
            db.executemany(
                "INSERT INTO clones"
                " (thin_id, name, template, kind, state, size, client, created, expires, iops, bandwidth,"
                " overlay) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        thin_id,
                        clone.name,
                        template.thin_id,
                        clone.kind,
                        CloneState.CREATING,
                        template.size,
                        clone.client,
                        clone.created,
                        clone.expires,
                        clone.limits.iops,
                        clone.limits.bandwidth,
                        overlay(template, clone.kind),
                    )
                    for thin_id, clone in zip(ids, new, strict=True)
                ],
            )
            for clone in new:
                if clone.seed is not None:
                    self._add_seed(db, clone.name, clone.seed)
            rows = db.execute(f"{_CLONE} WHERE c.thin_id BETWEEN ? AND ? ORDER BY c.thin_id", (ids[0], ids[-1]))
            return tuple(_clone(row) for row in rows.fetchall())

    def finish_clones(self, thin_ids: Collection[int], transaction_id: int, pool: PoolName = PoolName.DURABLE) -> None:
        """The clones are in the pool, at that transaction id: ready."""
        with self._transaction() as db:
            db.executemany(
                "UPDATE clones SET state = ? WHERE thin_id = ?", [(CloneState.READY, thin_id) for thin_id in thin_ids]
            )
            agree(db, pool, transaction_id)

    def remove_clones(self, clones: Iterable[Clone], why: str, now: float) -> tuple[int, ...]:
        """Clones are no more, their volumes are to be deleted; so are those of retired templates that had no others.

        ``why`` is what happened to each: ``was removed``. Returns the ids of the templates that went with them.
        """
        templates = set()
        with self._transaction() as db:
            for clone in clones:
                if db.execute("DELETE FROM clones WHERE thin_id = ?", (clone.thin_id,)).rowcount:
                    condemn(db, clone.thin_id, clone.pool, f"clone {clone.name} {why}", now)
                    templates.add(clone.template)
            return self._sweep(db, templates, now)

    def replace_volume(self, old: Clone, new: Clone, why: str, now: float, transaction_id: int) -> Clone:
        """Give a clone the volume of ``new``, which was garbage until now, with its size; its old one becomes that."""
        with self._transaction() as db:
            db.execute("DELETE FROM garbage WHERE thin_id = ?", (new.thin_id,))
            db.execute(
                "UPDATE clones SET thin_id = ?, size = ?, overlay = ? WHERE thin_id = ?",
                (new.thin_id, new.size, new.overlay, old.thin_id),
            )
            condemn(db, old.thin_id, old.pool, f"clone {old.name} {why}", now)
            agree(db, old.pool, transaction_id)
        return self.clone(old.name)

    def set_clone_client(self, thin_id: int, client: str | None, protocol: Protocol = Protocol.NBD) -> None:
        """Attach a clone to a client alone, or detach it. Raises NotFound for the client."""
        with self._transaction() as db:
            if client is not None:
                self.client(client)
            db.execute(
                "UPDATE clones SET client = ?, protocol = ?, shared = NULL, shared_until = NULL WHERE thin_id = ?",
                (client, protocol, thin_id),
            )

    def share_clone(self, thin_id: int, client: str, until: float) -> None:
        """Let a second client write to an attached clone until then. Raises NotFound for the client."""
        with self._transaction() as db:
            self.client(client)
            db.execute("UPDATE clones SET shared = ?, shared_until = ? WHERE thin_id = ?", (client, until, thin_id))

    def set_clone_clients(self, clients: Mapping[int, str | None]) -> None:
        """Give clones to clients, or to nobody: all of them or none. Raises NotFound for a client."""
        with self._transaction() as db:
            for client in set(clients.values()) - {None}:
                self.client(str(client))
            rows = [(client, thin_id) for thin_id, client in clients.items()]
            db.executemany("UPDATE clones SET client = ? WHERE thin_id = ?", rows)

    def set_clone_size(self, thin_id: int, size: int) -> None:
        """Record a clone's size in bytes."""
        with self._transaction() as db:
            db.execute("UPDATE clones SET size = ? WHERE thin_id = ?", (size, thin_id))

    def set_clone_expiry(self, thin_id: int, expires: float | None) -> None:
        """Record when a clone's lease ends; None for never."""
        with self._transaction() as db:
            db.execute("UPDATE clones SET expires = ? WHERE thin_id = ?", (expires, thin_id))

    def set_clone_limits(self, thin_id: int, limits: Limits) -> None:
        """Record what a clone may do in a second."""
        with self._transaction() as db:
            db.execute(
                "UPDATE clones SET iops = ?, bandwidth = ? WHERE thin_id = ?", (limits.iops, limits.bandwidth, thin_id)
            )

    def clones(self) -> tuple[Clone, ...]:
        """All clones by name."""
        return tuple(_clone(row) for row in self._rows(f"{_CLONE} ORDER BY c.name"))

    def clones_of_client(self, client: str) -> tuple[Clone, ...]:
        """The ready clones that a client may write to, by name."""
        # Two halves, so that each has its index.
        query = (
            f"{_CLONE} WHERE c.client = ? AND c.state = 'ready' UNION ALL"
            f" {_CLONE} WHERE c.shared = ? AND c.state = 'ready' ORDER BY 2"
        )
        return tuple(_clone(row) for row in self._rows(query, client, client))

    def shared_clones(self, before: float) -> tuple[Clone, ...]:
        """The ready clones whose second client should have been the only one, or none, by then; by name."""
        query = f"{_CLONE} WHERE c.shared IS NOT NULL AND c.shared_until <= ? AND c.state = 'ready' ORDER BY c.name"
        return tuple(_clone(row) for row in self._rows(query, before))

    def clone_names_of_client(self, client: str) -> tuple[str, ...]:
        """The names of ``clones_of_client``, at a fraction of the cost."""
        query = (
            "SELECT name FROM clones WHERE client = ? AND state = 'ready' UNION ALL"
            " SELECT name FROM clones WHERE shared = ? AND state = 'ready' ORDER BY 1"
        )
        rows = self._rows(query, client, client)
        return tuple(str(name) for (name,) in rows)

    def clones_by_nvme(self) -> tuple[Clone, ...]:
        """The ready clones that are attached by NVMe/TCP, by name."""
        query = f"{_CLONE} WHERE c.protocol = ? AND c.client IS NOT NULL AND c.state = 'ready' ORDER BY c.name"
        return tuple(_clone(row) for row in self._rows(query, Protocol.NVME_TCP))

    def clones_of_kind(self, kind: CloneKind) -> tuple[Clone, ...]:
        """The ready clones of a kind, by name."""
        query = f"{_CLONE} WHERE c.kind = ? AND c.state = 'ready' ORDER BY c.name"
        return tuple(_clone(row) for row in self._rows(query, kind))

    def expired_clones(self, now: float) -> tuple[Clone, ...]:
        """The ready clones whose lease has ended, the longest ago first."""
        query = f"{_CLONE} WHERE c.expires IS NOT NULL AND c.expires <= ? AND c.state = 'ready' ORDER BY c.expires"
        return tuple(_clone(row) for row in self._rows(query, now))

    def _open_clones(self) -> Iterator[Clone]:
        # Written as in the partial index `clones_open`, so that it is used.
        rows = self._rows(f"{_CLONE} WHERE c.state <> 'ready'")
        yield from sorted((_clone(row) for row in rows), key=lambda clone: clone.thin_id)

    def find_clone(self, name: str) -> Clone | None:
        """The clone of that name; None when absent."""
        row = self._row(f"{_CLONE} WHERE c.name = ?", name)
        return _clone(row) if row else None

    def clone(self, name: str) -> Clone:
        """As ``find_clone``. Raises NotFound."""
        found = self.find_clone(name)
        if found is None:
            raise NotFound(f"clone {name} does not exist", hint="see `hatchery clone list`")
        return found

    def count_clones(self) -> int:
        """How many clones there are."""
        return self._number("SELECT count(*) FROM clones")

    def count_attached(self) -> int:
        """How many clones are attached to a client."""
        return self._number("SELECT count(*) FROM clones WHERE client IS NOT NULL")

    def promised_bytes(self, pool: PoolName) -> int:
        """Virtual bytes of all volumes in a pool that guests may write to."""
        kind = CloneKind.EPHEMERAL if pool is PoolName.FAST else CloneKind.DURABLE
        return self._number("SELECT coalesce(sum(size), 0) FROM clones WHERE kind = ?", kind)

    def clone_counts(self) -> dict[int, int]:
        """How many clones each template has, by the template's thin id; those with none are left out."""
        rows = self._rows("SELECT template, count(*) FROM clones GROUP BY template")
        return {integer(template): integer(count) for template, count in rows}

    def count_clones_of(self, template: int) -> int:
        """How many clones one template has."""
        return self._number("SELECT count(*) FROM clones WHERE template = ?", template)


def overlay(template: Template, kind: CloneKind) -> bool:
    """Whether a clone that is made now is an overlay: a snapshot would never see what comes later."""
    return kind is CloneKind.DURABLE and template.state is TemplateState.FETCHING


@lru_cache(maxsize=8192)
def _clone(row: Row) -> Clone:
    # Kept, because whatever happens to one clone of a client reads all that the client has.
    thin_id, name, template, template_name, version, kind, state, size, client, created, expires, *more = row
    iops, bandwidth, seed, shared, until, over, protocol = more
    return Clone(
        thin_id=integer(thin_id),
        name=str(name),
        template=integer(template),
        template_ref=f"{template_name}@{version}",
        kind=CloneKind(str(kind)),
        state=CloneState(str(state)),
        size=integer(size),
        client=text(client),
        created=moment(created) or 0.0,
        expires=moment(expires),
        limits=Limits(None if iops is None else integer(iops), None if bandwidth is None else integer(bandwidth)),
        seed=None if seed is None else integer(seed),
        shared=text(shared),
        shared_until=moment(until),
        overlay=bool(over),
        protocol=Protocol(str(protocol)),
    )
