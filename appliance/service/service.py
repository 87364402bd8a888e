"""The service: all use cases over one catalog, one pool, one store and the storage daemons."""

import logging
from collections.abc import Sequence

from pydantic import SecretStr

from appliance.bootset.trace import Read
from appliance.catalog import Catalog, Template
from appliance.config import Paths, StoreConfig
from appliance.errors import InvalidInput, NotFound
from appliance.host import trace
from appliance.host.notify import notify
from appliance.host.nvmet_request import NoTarget, Target
from appliance.host.units import Units
from appliance.images.convert import Converter
from appliance.images.resuming import ResumingSource
from appliance.images.sources import Opener, open_url
from appliance.images.unpacking import Unpacker, plain
from appliance.model import PoolName, Problem, Protocol, TemplateRef
from appliance.reconcile.volumes import Plan
from appliance.run import Runner
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
    Operation,
    Reconciliation,
    ReserveReleased,
    SeedSpec,
    SeedView,
    Status,
    StoreView,
    TemplateCreate,
    TemplateList,
    TemplateView,
)
from appliance.service import given_up, recorded_boots, recovery
from appliance.service.authority import Authorities
from appliance.service.bootsets import BootSets
from appliance.service.certificates import Certificates
from appliance.service.clients import Clients
from appliance.service.clone_life import CloneLife
from appliance.service.clone_views import CloneViews
from appliance.service.clones import Clones
from appliance.service.collector import Asked, Collector
from appliance.service.connected import Connections
from appliance.service.core import Core
from appliance.service.creations import Creations
from appliance.service.doctor import Doctor
from appliance.service.exports import Exports
from appliance.service.fast_pool import FastPool, Find
from appliance.service.fetches import Fetches
from appliance.service.imports import Imports
from appliance.service.learning import Learning
from appliance.service.looks import Looks
from appliance.service.measure import Measure
from appliance.service.measured import Measurements
from appliance.service.monitor import Change, Monitor, Seen, changes, hit_percent, silence, store_words
from appliance.service.moves import Moves
from appliance.service.nvme_doors import NvmeDoors
from appliance.service.offers import Offers
from appliance.service.operations import Job, Operations
from appliance.service.ports import CacheWatch, Pools, Store, Tracer
from appliance.service.prefetching import Prefetching
from appliance.service.recording import Keep
from appliance.service.remotes import NbdRemotes, Remotes
from appliance.service.seeds import Seeds, wish
from appliance.service.sharing import Sharing
from appliance.service.stills import Stills
from appliance.service.templates import Templates
from appliance.service.views import Detail, Views, bundle, client_problems, garbage_report, reconciliation

log = logging.getLogger(__name__)


class Service:
    """What the API calls."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        pools: Pools,
        store: Store,
        units: Units,
        converter: Converter,
        runner: Runner,
        paths: Paths,
        settings: StoreConfig | None = None,
        find_fast: Find | None = None,
        tracer: Tracer | None = None,
        open_url: Opener = open_url,
        unpack: Unpacker | None = None,
        sources: Remotes | None = None,
        nvme: Target | None = None,
    ) -> None:
        settings = settings or StoreConfig()
        self.core = Core(catalog, pools, settings.overcommit_percent)
        self.events = self.core.events
        self.operations = Operations(self._tell_operation)
        self._catalog = catalog
        self._store = store
        self._units = units
        self._converter = converter
        self._exports = Exports(self.core, units, paths, nvme or NoTarget())
        self._connections = Connections(catalog, self._exports, paths.connected)
        self._views = Views(self.core, self._exports, self._connections)
        self._clone_views = CloneViews(catalog, store, self._views)
        self._fast_pool = FastPool(self.core, self._exports, find_fast or (lambda: self.core.pools.get(PoolName.FAST)))
        self._problems: tuple[Problem, ...] = ()
        self._given_up = paths.given_up
        self.measure = Measure(catalog, store, self.operations, runner)
        self.measurements = Measurements(catalog, paths.measurements)
        self.imports = Imports(
            self.core, self.operations, converter, lambda url: ResumingSource(url, open_url), unpack or plain(runner)
        )
        self.boot_sets = BootSets(self.core)
        ports = CacheWatch(store.flow, store.guest_requests, lambda: self.measure.cold_marks)
        self.prefetching = Prefetching(self.core, self.operations, self.boot_sets, ports)
        looks = Looks(self.core, self.prefetching, converter)
        self._doctor = Doctor(self.core, store, self._exports, looks)
        self.core.template_ready = self._template_ready
        self.measure.before_cold = self.prefetching.hold
        keep = Keep(self._learned, self.boot_sets.judge)
        self.learning = Learning(self.core, self.operations, tracer or trace.Tracer(), store, keep)
        self._exports.before_offer = self.learning.offered
        self._exports.after_withdrawal = self.learning.withdrawn
        self.clones = Clones(self.core, self._exports)
        self.creations = Creations(self.clones, self.operations)
        self.stills = Stills(self.core, self.clones, units, paths)
        self.fetches = Fetches(self.core, self.operations, store, sources or NbdRemotes(units, paths))
        self.templates = Templates(
            self.core, lambda id_: self.prefetching.is_busy_with(id_) or self.stills.reads(id_), self.fetches.end
        )
        self.life = CloneLife(self.core, self.clones, self._exports, self.imports, self.operations)
        self.sharing = Sharing(self.core, self.clones, self._exports)
        self.moves = Moves(self.core, self.clones, self._exports, self.sharing)
        self.offers = Offers(self.core, self._exports)
        self.seeds = Seeds(self.core, self.clones, self._exports)
        self.clients = Clients(self.core, self._exports)
        self.certificates = Certificates(self.core, self._exports)
        self.nvme_doors = NvmeDoors(self.core, self._exports)
        self.authorities = Authorities(self.core, self._exports)
        self.collector = Collector(self.core, self.life.end_leases, paths.orphans_doubted)
        self.core.poke = self.collector.poke
        hooks = (
            self.check_fast_pool,
            store.finish_growth,
            store.count_latencies,
            self.stills.sweep,
            self.sharing.sweep,
            self._connections.look,
        )
        self.monitor = Monitor(store, hooks, self._tell, self._tell_problem, urgent=store.remember_loss)
        self._words = ""

    def start(self) -> None:
        """Bring catalog and pool to agree, activate what is attached, start the storage daemons."""
        self._converter.stop_all()
        self.stills.clear()
        made, problems = recovery.start(self.core)
        self._know(problems)
        self._judge(made)
        self.fetches.start()
        recovery.export_all(self.core, self._exports)

    def watch(self) -> None:
        """Look after the store from now on."""
        self.monitor.start()
        self.collector.start()
        self.learning.start()

    def close(self) -> None:
        """Stop looking after things. Exports go on."""
        self.events.close()
        self.monitor.close()
        self.learning.close()
        self.collector.close()
        self.prefetching.close()
        self.imports.close()
        self.fetches.close()
        self.measure.close()
        self._units.close()
        self._catalog.close()

    # --- answers

    def status(self) -> Status:
        """The appliance in one look."""
        view, problems = self._store.look()
        own = (*self._problems, *self.sharing.problems(), *self.fetches.problems(), *given_up.problems(self._given_up))
        known = (*own, *silence(self.monitor.seen.silent), *problems)
        found = self._views.status(view, known)
        return found.model_copy(update={"disks": self.measure.coarse()})

    def examine(self) -> Examination:
        """The appliance held against the rules of its data path. Slow with many clones."""
        view, problems = self._store.look()
        clients = self.list_clients().clients
        own = (*self._problems, *self.fetches.problems())
        known = (*own, *silence(self.monitor.seen.silent), *problems, *client_problems(clients))
        return self._doctor.examine(view, known)

    def words(self) -> str:
        """How it goes, in one line for the service manager. Raises HatcheryError when the catalog does not answer."""
        return f"{self._catalog.count_attached()} of {self._catalog.count_clones()} clones exported{self._words}"

    def _tell(self, view: StoreView, seen: Seen) -> None:
        self.prefetching.look(view)
        before = self._words
        self._words = store_words(view, hit_percent(self._store), seen)
        if self._words != before:
            notify("STATUS=" + self.words())

    def _tell_operation(self, operation: Operation) -> None:
        words = f"{operation.kind} of {operation.subject}: {operation.phase}"
        if operation.error is not None:
            words = f"{operation.kind} of {operation.subject}: {operation.error.what}"
        self.events.tell("operation", operation.id, operation.state, words)

    def _tell_problem(self, change: Change) -> None:
        self.events.tell("problem", "store", change.severity.value, change.words)

    def _know(self, problems: tuple[Problem, ...]) -> None:
        """What catalog and pools disagree on from now on."""
        for change in changes(Seen(self._problems), Seen(problems)):
            self._tell_problem(change)
        self._problems = problems

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

    def check_fast_pool(self) -> None:
        """Stop what depends on a fast pool that died, and take up one that is there again. Raises CannotTell."""
        problems = self._fast_pool.check()
        if problems is not None:
            self._know(problems)

    def _judge(self, made: Plan) -> None:
        if made.disagreements:
            self.collector.doubt()

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

    def _template_ready(self, thin_id: int) -> None:
        try:
            template = self._catalog.template_of_id(thin_id)
        except NotFound:
            return  # removed at once
        self.events.tell("template", template.ref, "ready", f"{template.size} bytes, from {template.source}")
        if self._catalog.boot_set(thin_id) is not None:
            self.prefetching.begin_unasked(template, "the template is new")

    def _learned(self, template: Template, clone: str, reads: Sequence[Read], of: int | None) -> None:
        self.boot_sets.add_run(template, clone, reads, of)
        self.prefetching.begin_unasked(template, "a boot was recorded")

    def put_boot_set(self, text: str, content: str) -> BootSetView:
        """Give a template the boot set of a file, and prefetch it. Raises as ``BootSets.put``."""
        template = self.boot_sets.put(text, content)
        self.prefetching.begin_quietly(template, "a boot set was given")
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
