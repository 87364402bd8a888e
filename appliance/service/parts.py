"""What the service is made of: its parts, wired to each other, and what they do by themselves."""

from collections.abc import Sequence
from dataclasses import replace

from appliance.bootset.trace import Read
from appliance.catalog import Catalog, Template
from appliance.config import Paths, StoreConfig
from appliance.errors import NotFound
from appliance.host import trace
from appliance.host.notify import notify
from appliance.host.nvmet_request import NoTarget, Target
from appliance.host.units import Units
from appliance.images.convert import Converter
from appliance.images.resuming import ResumingSource
from appliance.images.sources import Opener, open_url
from appliance.images.unpacking import Unpacker, plain
from appliance.model import PoolName, Problem
from appliance.reconcile.volumes import Plan
from appliance.run import Runner
from appliance.schema import Operation, StoreView
from appliance.service import recovery
from appliance.service.authority import Authorities
from appliance.service.bootsets import BootSets
from appliance.service.certificates import Certificates
from appliance.service.clients import Clients
from appliance.service.clone_life import CloneLife
from appliance.service.clone_views import CloneViews
from appliance.service.clones import Clones
from appliance.service.collector import Collector
from appliance.service.connected import Connections
from appliance.service.core import Core
from appliance.service.creations import Creations
from appliance.service.doctor import Doctor
from appliance.service.exports import Exports
from appliance.service.fast_pool import FastPool, Find
from appliance.service.fetches import Fetches
from appliance.service.imports import Imports
from appliance.service.keeping import Keeping
from appliance.service.learning import Learning
from appliance.service.looks import Looks
from appliance.service.measure import Measure
from appliance.service.measured import Measurements
from appliance.service.monitor import Change, Monitor, Seen, changes, hit_percent, store_words
from appliance.service.moves import Moves
from appliance.service.nvme_doors import NvmeDoors
from appliance.service.offers import Offers
from appliance.service.operations import Operations
from appliance.service.ports import CacheWatch, Pools, Store, Tracer
from appliance.service.prefetching import Prefetching
from appliance.service.recording import Keep
from appliance.service.remotes import NbdRemotes, Remotes
from appliance.service.seeds import Seeds
from appliance.service.sharing import Sharing
from appliance.service.stills import Stills
from appliance.service.templates import Templates
from appliance.service.views import Views


class Parts:
    """The parts over one catalog, one pool, one store and the storage daemons. ``start`` them, then ``watch``."""

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
        self.keeping = Keeping(self.core, self.boot_sets, self.prefetching, ports)
        self._looks = Looks(self.core, self.prefetching, converter)
        self._doctor = Doctor(self.core, store, self._exports, self._looks)
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
            self.core, lambda id_: self.stills.reads(id_) or not self.prefetching.let_go(id_), self.fetches.end
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

    # --- what they tell each other

    def words(self) -> str:
        """How it goes, in one line for the service manager. Raises HatcheryError when the catalog does not answer."""
        return f"{self._catalog.count_attached()} of {self._catalog.count_clones()} clones exported{self._words}"

    def _tell(self, view: StoreView, seen: Seen) -> None:
        self.keeping.look(view)
        before = self._words
        found = replace(seen, problems=(*seen.problems, *self._looks.boot_sets()))
        self._words = store_words(view, hit_percent(self._store), found)
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

    def _judge(self, made: Plan) -> None:
        if made.disagreements:
            self.collector.doubt()

    def check_fast_pool(self) -> None:
        """Stop what depends on a fast pool that died, and take up one that is there again. Raises CannotTell."""
        problems = self._fast_pool.check()
        if problems is not None:
            self._know(problems)

    def _template_ready(self, thin_id: int) -> None:
        try:
            template = self._catalog.template_of_id(thin_id)
        except NotFound:
            return  # removed at once
        self.events.tell("template", template.ref, "ready", f"{template.size} bytes, from {template.source}")
        self.keeping.begin_unasked(template, "the template is new")

    def _learned(self, template: Template, clone: str, reads: Sequence[Read], of: int | None) -> None:
        self.boot_sets.add_run(template, clone, reads, of)
        self.keeping.begin_unasked(template, "a boot was recorded")
