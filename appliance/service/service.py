"""The service: all use cases over one catalog, one pool, one store and the storage daemons."""

import logging

from pydantic import SecretStr

from appliance.catalog import Template
from appliance.errors import InvalidInput
from appliance.model import Protocol, TemplateRef
from appliance.schema import (
    Attachment,
    BootSetView,
    CertificateBundle,
    CertificateRequest,
    ClientList,
    ClientSpec,
    ClientView,
    CloneCreate,
    CloneList,
    CloneView,
    Examination,
    GarbageReport,
    Move,
    NbdSource,
    NvmeKey,
    NvmeKeyRequest,
    NvmeSpec,
    Reconciliation,
    ReserveReleased,
    SeedSpec,
    SeedView,
    Status,
    TemplateCreate,
    TemplateList,
    TemplateView,
)
from appliance.service import given_up, recorded_boots, recovery
from appliance.service.collector import Asked
from appliance.service.monitor import silence
from appliance.service.operations import Job
from appliance.service.parts import Parts
from appliance.service.seeds import wish
from appliance.service.views import Detail, bundle, client_problems, garbage_report, reconciliation

log = logging.getLogger(__name__)


class Service(Parts):
    """What the API calls."""

    def status(self) -> Status:
        """The appliance in one look."""
        view, problems = self._store.look()
        own = (*self._problems, *self.sharing.problems(), *self.fetches.problems(), *given_up.problems(self._given_up))
        known = (*own, *silence(self.monitor.seen.silent), *problems, *self._looks.boot_sets())
        found = self._views.status(view, known)
        return found.model_copy(update={"disks": self.measure.coarse()})

    def examine(self) -> Examination:
        """The appliance held against the rules of its data path. Slow with many clones."""
        view, problems = self._store.look()
        clients = self.list_clients().clients
        own = (*self._problems, *self.fetches.problems())
        known = (*own, *silence(self.monitor.seen.silent), *problems, *client_problems(clients))
        return self._doctor.examine(view, known)

    def plan(self) -> Reconciliation:
        """What ``reconcile`` would do. Raises CannotTell, NotReady."""
        made = recovery.look(self.core)
        return reconciliation(made, recovery.problems(made))

    def reconcile(self) -> Reconciliation:
        """Make the kernel's volumes match the catalog, and the storage daemons serve what is attached."""
        with self.core.lock:
            made, problems = recovery.reconcile(self.core)
            self._know(problems)
            self._judge(made)
            recovery.export_all(self.core, self._exports)
        return reconciliation(made, self._problems)

    def garbage(self) -> GarbageReport:
        """What a collection would give back. Slow. Raises CannotTell, InUse, NotReady."""
        return garbage_report(self.collector.report())

    def collect(self) -> Job:
        """Start a collection for an operator."""
        job = self.operations.begin("gc", "all pools", "waiting for its turn")
        job.cancellable(lambda: None)  # it asks between two pieces

        def work(job: Job) -> None:
            done = self.collector.collect(Asked.BY_OPERATOR, job.at, lambda: job.unwanted)
            self._know(recovery.problems(recovery.look(self.core)))
            job.settle()
            job.succeed(str(done))

        self.operations.run(job, work)
        return job

    def release_reserve(self) -> ReserveReleased:
        """Give the durable pool what is held back from it. Raises NotReady, Unhealthy."""
        with self.core.lock:
            gained = self._store.release_reserve()
            log.warning("the reserve was released: the pool has %d bytes more", gained)
            return ReserveReleased(gained_bytes=gained, data_total=self.core.pool.status().data_total)

    def import_template(self, request: TemplateCreate) -> Job:
        """Begin an import, wherever it comes from. Raises as ``Imports.begin`` and ``Fetches.begin``."""
        return (self.fetches if isinstance(request.source, NbdSource) else self.imports).begin(request)

    def list_templates(self) -> TemplateList:
        """All templates."""
        counts = self._catalog.clone_counts()
        return TemplateList(
            templates=tuple(self._template(t, counts.get(t.thin_id, 0)) for t in self._catalog.templates())
        )

    def show_template(self, text: str) -> TemplateView:
        """One template. Raises InvalidInput, NotFound."""
        template = self._catalog.template(TemplateRef.parse(text))
        return self._template(template, self._catalog.clone_counts().get(template.thin_id, 0))

    def _template(self, template: Template, clones: int) -> TemplateView:
        boot_set, prefetch = self.boot_sets.summary(template), self.prefetching.view(template.thin_id)
        view = self._views.template(template, clones, boot_set, prefetch, self.learning.view(template))
        return view.model_copy(update={"fetch": self.fetches.view(template.thin_id)} if template.state.usable else {})

    def put_boot_set(self, text: str, content: str) -> BootSetView:
        """Give a template the boot set of a file, and prefetch it. Raises as ``BootSets.put``."""
        template = self.boot_sets.put(text, content)
        self.keeping.begin_quietly(template, "a boot set was given")
        return self.boot_sets.show(template.ref)

    def boot_trace(self, text: str, boot: int) -> str:
        """A recorded boot of a template. Raises as ``recorded_boots.trace``."""
        return recorded_boots.trace(self._catalog, text, boot)

    def list_clones(self, detail: Detail = Detail.ALL) -> CloneList:
        """All clones; briefly, without what their guests wrote and how they are attached."""
        clones = self._catalog.clones()
        return self._clone_views.of(clones, self._clone_views.written(clones) if detail is Detail.ALL else {}, detail)

    def show_clone(self, name: str) -> CloneView:
        """One clone. Raises NotFound."""
        clone = self._catalog.clone(name)
        view = self._clone_views.of((clone,), self._clone_views.written((clone,))).clones[0]
        return view.model_copy(update={"latencies": self.measure.latencies_of(clone)})

    def create_clones(self, request: CloneCreate) -> CloneList:
        """Make clones. Raises as ``Clones.create``."""
        made = self.creations.make(request)
        return self._clone_views.of(made, {clone.name: 0 for clone in made if clone.client is not None})

    def show_seed(self, name: str) -> SeedView:
        """A clone's seed. Raises NotFound when it has none."""
        return self._clone_views.seed(self.seeds.show(name))

    def put_seed(self, name: str, spec: SeedSpec, *, force: bool) -> SeedView:
        """Give a clone a seed. Raises as ``Seeds.put``."""
        return self._clone_views.seed(self.seeds.put(name, wish(spec), force=force))

    def attach(self, name: str, request: Attachment) -> CloneView:
        """Export a clone to a client, or to a second one. Raises as ``Clones.attach`` and ``Sharing.share``."""
        if request.shared and request.protocol is Protocol.NVME_TCP:
            raise InvalidInput(
                "a clone cannot be shared over NVMe/TCP",
                why="a clone is there for one host at a time",
                hint="attach it by NBD for a migration",
            )
        if request.shared:
            self.sharing.share(name, request.client, request.seconds)
        else:
            self.clones.attach(name, request.client, request.protocol)
        return self.show_clone(name)

    def detach(self, name: str, client: str | None, *, force: bool) -> CloneView:
        """Stop exporting a clone, or to one of its two clients. Raises as ``Clones.detach`` and ``Sharing.leave``."""
        clone = self._catalog.clone(name)
        if client is None or clone.clients == (client,):
            self.clones.detach(name, force=force)
        else:
            self.sharing.leave(name, client, force=force)
        return self.show_clone(name)

    def move_clones(self, request: Move, *, force: bool) -> CloneList:
        """Give clones to another client. Raises as ``Moves.move``."""
        moved = self.moves.move(request.clones, request.client, force=force)
        return self._clone_views.of(moved, self._clone_views.written(moved))

    def list_clients(self) -> ClientList:
        """All clients."""
        return ClientList(clients=tuple(self._views.client(client) for client in self._catalog.clients()))

    def show_client(self, name: str) -> ClientView:
        """One client. Raises NotFound."""
        return self._views.client(self._catalog.client(name))

    def issue_certificate(self, name: str, request: CertificateRequest) -> CertificateBundle:
        """Make a certificate for a client. Raises as ``Certificates.make``."""
        return bundle(name, self.certificates.make(name, request))

    def put_nvme_door(self, name: str, spec: NvmeSpec) -> ClientView:
        """Reach a client over NVMe/TCP, too. Raises as ``NvmeDoors.put``."""
        self.nvme_doors.put(name, spec)
        return self.show_client(name)

    def issue_nvme_key(self, name: str, request: NvmeKeyRequest) -> NvmeKey:
        """Make the key of a client's host. Raises as ``NvmeDoors.issue``."""
        door = self.nvme_doors.issue(name, request.kind)
        return NvmeKey(client=name, host_nqn=door.host_nqn, made=door.made or 0.0, key=SecretStr(door.key or ""))

    def put_client(self, name: str, spec: ClientSpec) -> tuple[ClientView, bool]:
        """Make or change a client; whether it is new. Raises as ``Clients.put``."""
        new = self.clients.put(name, spec)
        return self._views.client(self._catalog.client(name)), new
