"""What the API shows of the catalog's rows, with what the kernel says about them now."""

import platform
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum

from pydantic import SecretStr

from appliance import __version__
from appliance.catalog import Client, Clone, Template
from appliance.errors import CannotTell, HatcheryError, NotReady
from appliance.host.storage_daemon import Listen
from appliance.model import CloneState, Health, PoolName, Problem
from appliance.reconcile.volumes import Plan
from appliance.schema import (
    BootSetSummary,
    CertificateBundle,
    CertificateView,
    ClientView,
    CloneLimits,
    CloneView,
    ConnectionView,
    GarbageReport,
    LearningView,
    NvmeDoorView,
    NvmeView,
    PrefetchView,
    ProblemView,
    Reconciliation,
    SeedView,
    SharedView,
    Status,
    StepView,
    StoreView,
    TemplateView,
    VolumeState,
    VolumeView,
)
from appliance.service import addresses
from appliance.service.certificates import Bundle, is_good
from appliance.service.connected import Connected, Connections
from appliance.service.core import Core
from appliance.service.devices import device_of
from appliance.service.exports import Exports
from appliance.service.gc import Entry, State
from appliance.service.seed_files import instance_of, name_of
from appliance.store import names

_STATES: Mapping[State, VolumeState] = {
    State.SERVING: "serving",
    State.HELD: "held",
    State.PENDING: "pending",
    State.ORPHANED: "orphaned",
    State.MISSING: "missing",
}
EXPIRES_SOON = 30 * 86400.0
"""Seconds before a certificate's end from which an operator is told."""

_ORDER = (Health.OK, Health.DEGRADED, Health.FAILED)


def worst(found: Iterable[Health]) -> Health:
    """The worst of some healths; OK of none."""
    return max(found, key=_ORDER.index, default=Health.OK)


def garbage_report(entries: Iterable[Entry]) -> GarbageReport:
    """An inventory as the API shows it."""
    volumes = tuple(
        VolumeView(
            thin_id=entry.thin_id,
            pool=entry.pool,
            state=_STATES[entry.state],
            why=entry.why,
            reclaimed=entry.reclaimed,
            mapped_bytes=None if entry.use is None else entry.use.mapped,
            exclusive_bytes=None if entry.use is None else entry.use.exclusive,
        )
        for entry in entries
    )
    return GarbageReport(
        volumes=volumes,
        reclaimable_bytes=sum(volume.exclusive_bytes or 0 for volume in volumes if volume.reclaimed),
    )


def client_problems(clients: Iterable[ClientView]) -> tuple[Problem, ...]:
    """What an operator should know of the clients' storage daemons."""
    return tuple(
        Problem(client.state, f"client {client.name}: {client.detail}", "see `hatchery client list`", part="client")
        for client in clients
        if client.state is not Health.OK
    )


def expiring(clients: Iterable[ClientView], now: float) -> Iterator[ProblemView]:
    """What an operator should know of certificates: a client whose last good one ends soon loses its disks then."""
    for client in clients:
        last = max((c.expires for c in client.certificates if c.revoked is None and c.expires > now), default=None)
        if client.transport == "tcp" and not client.plain and last is not None and last < now + EXPIRES_SOON:
            yield ProblemView(
                severity=Health.DEGRADED,
                what=f"client {client.name}: its certificate ends in {(last - now) / 86400:.0f} days",
                hint=f"make another with `hatchery client rotate {client.name}`",
                part="certificate",
            )


def two_writers(clients: Iterable[ClientView], reading: Collection[str]) -> Iterator[ProblemView]:
    """Clones that two hosts use as the same client (rule 6), as far as that can be told.

    A connection does not say which clone it is to, so it is known where a client is connected from more hosts than it
    has clones. Clients that are ``reading`` templates may be many hosts.
    """
    for client in clients:
        if client.transport != "tcp" or client.name in reading or not client.clones:
            continue
        hosts = sorted({each.peer.rpartition(":")[0] for each in client.connections or ()})
        if len(hosts) > len(client.clones):
            has = f"clone {client.clones[0]}" if len(client.clones) == 1 else f"{len(client.clones)} clones"
            yield ProblemView(
                severity=Health.DEGRADED,
                what=f"client {client.name} is connected from {' and '.join(hosts)}, and has {has}:"
                " a clone has more than one host",
                hint="have one of them shut its guest down, and give each host a client of its own;"
                " `hatchery client show` says since when each is connected",
                part="client",
                rule=6,
            )


def bundle(client: str, made: Bundle) -> CertificateBundle:
    """A new certificate of a client, with its key."""
    return CertificateBundle(
        client=client,
        serial=made.issued.serial,
        issued=made.issued.issued,
        expires=made.issued.expires,
        authority=made.authority,
        certificate=made.issued.certificate,
        key=SecretStr(made.issued.key),
    )


def reconciliation(made: Plan, problems: Iterable[Problem]) -> Reconciliation:
    """A plan, and what it leaves."""
    words = [step.describe() for step in made.steps]
    return Reconciliation(
        steps=tuple(StepView(action=each.action, target=each.target, detail=each.detail) for each in words),
        problems=tuple(map(ProblemView.of, problems)),
    )


def _connections(found: Iterable[Connected]) -> tuple[ConnectionView, ...]:
    return tuple(
        ConnectionView(
            peer=each.connection.peer,
            since=each.since,
            received_bytes=each.connection.received,
            sent_bytes=each.connection.sent,
        )
        for each in found
    )


class Detail(Enum):
    """How much of a clone is told: for many of them, what QEMU and libvirt want to hear is most of it."""

    ALL = "all"
    BRIEF = "brief"


class Views:
    """Makes the API's answers."""

    def __init__(self, core: Core, exports: Exports, connections: Connections) -> None:
        self._core = core
        self._exports = exports
        self._connections = connections

    def template(
        self,
        template: Template,
        clones: int,
        boot_set: BootSetSummary | None,
        prefetch: PrefetchView | None,
        learning: LearningView | None,
    ) -> TemplateView:
        """A template that ``clones`` depend on."""
        ready = template.state.usable
        return TemplateView(
            ref=template.ref,
            name=template.name,
            version=template.version,
            state=template.state,
            size=template.size,
            mapped_bytes=self._mapped(PoolName.DURABLE, template.thin_id) if ready else None,
            format=template.format,
            source=template.source,
            sha256=template.sha256,
            created=template.created,
            clones=clones,
            retired=template.retired,
            device=f"/dev/mapper/{names.layer(names.Layer.TEMPLATE, template.thin_id)}",
            boot_set=boot_set,
            prefetch=prefetch,
            learning=learning,
            offered_to=self._core.catalog.offered_to(template.thin_id),
        )

    def clone(
        self,
        clone: Clone,
        client: Client | None,
        written: int | None,
        *,
        second: Client | None = None,
        detail: Detail = Detail.ALL,
    ) -> CloneView:
        """A clone; ``client`` is the one it is attached to, ``written`` what its guest wrote (bytes), if known.

        ``second`` is who may write to it besides, while its guest migrates.
        """
        shown = detail is Detail.ALL
        listens = None if client is None else self._exports.listen(client)
        where = None if clone.by_nvme else listens
        lost = clone.thin_id in self._core.lost
        active = client is not None and clone.state is CloneState.READY and not lost
        return CloneView(
            name=clone.name,
            template=clone.template_ref,
            kind=clone.kind,
            state=CloneState.LOST if lost else clone.state,
            size=clone.size,
            created=clone.created,
            expires=clone.expires,
            client=clone.client,
            protocol=clone.protocol,
            uri=None if where is None else addresses.uri(where, clone.name),
            qemu=() if where is None or not shown else addresses.qemu_words(clone, where),
            libvirt=None if where is None or not shown else addresses.libvirt_disk(clone, where),
            nvme=self._nvme(clone),
            device=str(device_of(clone)),
            mapped_bytes=self._mapped(clone.pool, clone.thin_id) if active else None,
            written_bytes=written,
            limits=CloneLimits(iops=clone.limits.iops, bandwidth=clone.limits.bandwidth),
            seed=self._seed(clone, listens),
            shared=None if second is None else self._shared(clone, second),
        )

    def _shared(self, clone: Clone, second: Client) -> SharedView:
        where = self._exports.listen(second)
        return SharedView(
            client=second.name,
            until=clone.shared_until or 0.0,
            uri=addresses.uri(where, clone.name),
            qemu=addresses.qemu_words(clone, where),
            libvirt=addresses.libvirt_disk(clone, where),
        )

    def _nvme(self, clone: Clone) -> NvmeView | None:
        found = self._exports.nvme.offered(clone)
        if found is None:
            return None
        door = found.door
        return NvmeView(
            nqn=found.nqn,
            address=door.address,
            port=door.port,
            host_nqn=door.host_nqn,
            connect=found.words(),
            device=f"/dev/disk/by-id/nvme-uuid.{found.uuid}",
        )

    def _seed(self, clone: Clone, where: Listen | None) -> SeedView | None:
        found = None if clone.seed is None else self._core.catalog.seed(clone.seed)
        if found is None:
            return None
        given = found.given
        return SeedView(
            instance=instance_of(clone.name, found.number),
            hostname=given.hostname,
            ssh_keys=given.ssh_keys,
            user_data_bytes=None if given.user_data is None else len(given.user_data.encode("utf-8")),
            uri=None if where is None else addresses.uri(where, name_of(clone.name)),
        )

    def client(self, client: Client) -> ClientView:
        """A client and how its storage daemon is."""
        clones = self._core.catalog.clone_names_of_client(client.name)
        state, detail = Health.OK, f"serving {len(clones)} clone(s)"
        try:
            serving = self._exports.serving(client.name)
            if serving != len(clones):
                state, detail = Health.DEGRADED, f"serving {serving} of {len(clones)} clones"
        except NotReady:
            state, detail = Health.FAILED, f"its storage daemon is {self._exports.describe(client.name)}"
        except HatcheryError as error:
            state, detail = Health.FAILED, str(error)
        certificates = self._core.catalog.certificates(client.name)
        if client.plain:
            detail += ", not encrypted"
        elif client.tls and not any(is_good(each, self._core.now()) for each in certificates):
            detail += ", and no certificate lets anybody in"
        connections: tuple[ConnectionView, ...] | None
        try:
            connections = _connections(self._connections.of(client))
            if len(connections) >= client.max_connections:
                detail += f", all of its {client.max_connections} connections taken: others wait"
        except CannotTell:
            connections = None
        door = self._door(client)
        if door is not None:
            detail += ", NVMe/TCP not encrypted"
        return ClientView(
            name=client.name,
            transport="tcp" if client.transport == "tcp" else "unix",
            address=client.address,
            port=client.port,
            plain=client.plain,
            max_connections=client.max_connections,
            state=state,
            detail=detail,
            uri=addresses.uri(self._exports.listen(client)),
            clones=clones,
            connections=connections,
            certificates=tuple(
                CertificateView(serial=c.serial, name=c.name, issued=c.issued, expires=c.expires, revoked=c.revoked)
                for c in certificates
            ),
            nvme=door,
        )

    def _door(self, client: Client) -> NvmeDoorView | None:
        found = self._core.catalog.nvme_door(client.name)
        if found is None:
            return None
        connections: tuple[ConnectionView, ...] | None
        try:
            connections = _connections(self._connections.by_nvme(client))
        except CannotTell:
            connections = None
        return NvmeDoorView(
            address=found.address,
            port=found.port,
            host_nqn=found.host_nqn,
            key_made=found.made,
            connections=connections,
        )

    def status(self, store: StoreView, problems: Iterable[Problem]) -> Status:
        """The appliance in one look."""
        catalog = self._core.catalog
        clients = tuple(self.client(client) for client in catalog.clients())
        every = (*problems, *client_problems(clients))
        shown = [ProblemView.of(problem) for problem in every]
        shown += expiring(clients, self._core.now())
        shown += two_writers(clients, [each.name for each in clients if catalog.offers_to(each.name)])
        found = (store.backend, store.meta, store.cache, store.pool, store.fast)
        parts = [part.health for part in found if part is not None]
        return Status(
            version=__version__,
            kernel=platform.release(),
            health=worst([*parts, *(problem.severity for problem in shown)]),
            problems=tuple(shown),
            store=store,
            clients=clients,
            templates=catalog.count_templates(),
            clones=catalog.count_clones(),
            given_back=self._core.given_back.model_copy(update={"waiting": len(catalog.garbage())}),
        )

    def _mapped(self, pool: PoolName, thin_id: int) -> int | None:
        try:
            return self._core.pool_of(pool).mapped_bytes(thin_id)
        except HatcheryError:
            return None
