"""The service: all use cases over one catalog, one pool, one store and the storage daemons."""

import logging

from appliance.catalog import Catalog, Clone
from appliance.config import Paths
from appliance.errors import HatcheryError
from appliance.host.units import Units
from appliance.images.convert import Converter
from appliance.model import Problem, TemplateRef
from appliance.reconcile.volumes import Plan
from appliance.run import Runner
from appliance.schema import (
    ClientList,
    ClientSpec,
    ClientView,
    CloneCreate,
    CloneList,
    CloneView,
    DeviceCounters,
    ProblemView,
    Reconciliation,
    Status,
    StepView,
    TemplateList,
    TemplateView,
)
from appliance.service import recovery
from appliance.service.clients import Clients
from appliance.service.clones import Clones
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.imports import Imports
from appliance.service.measure import Measure
from appliance.service.operations import Operations
from appliance.service.ports import Pools, Store
from appliance.service.templates import Templates
from appliance.service.views import Views

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
    ) -> None:
        self.core = Core(catalog, pools)
        self.operations = Operations()
        self._catalog = catalog
        self._store = store
        self._units = units
        self._converter = converter
        self._exports = Exports(self.core, units, paths)
        self._views = Views(self.core, self._exports)
        self._problems: tuple[Problem, ...] = ()
        self.measure = Measure(catalog, store, self.operations, runner)
        self.imports = Imports(self.core, self.operations, converter)
        self.templates = Templates(self.core, self.operations, self.measure.backend_reads)
        self.clones = Clones(self.core, self._exports)
        self.clients = Clients(self.core, self._exports)

    def start(self) -> None:
        """Bring catalog and pool to agree, activate what is attached, start the storage daemons."""
        self._converter.stop_all()
        _, self._problems = recovery.start(self.core)
        recovery.export_all(self.core, self._exports)

    def close(self) -> None:
        """Stop looking after things. Exports go on."""
        self.imports.close()
        self.measure.close()
        self._units.close()
        self._catalog.close()

    # --- answers

    def status(self) -> Status:
        """The appliance in one look."""
        view, problems = self._store.look()
        return self._views.status(view, (*self._problems, *problems))

    def plan(self) -> Reconciliation:
        """What ``reconcile`` would do. Raises CannotTell, NotReady."""
        return _reconciliation(recovery.look(self.core))

    def reconcile(self) -> Reconciliation:
        """Make the kernel's volumes match the catalog, and the storage daemons serve what is attached."""
        with self.core.lock:
            made, self._problems = recovery.reconcile(self.core)
            recovery.export_all(self.core, self._exports)
        return _reconciliation(made, self._problems)

    def list_templates(self) -> TemplateList:
        """All templates."""
        counts = self._catalog.clone_counts()
        return TemplateList(
            templates=tuple(self._views.template(t, counts.get(t.thin_id, 0)) for t in self._catalog.templates())
        )

    def show_template(self, text: str) -> TemplateView:
        """One template. Raises InvalidInput, NotFound."""
        template = self._catalog.template(TemplateRef.parse(text))
        return self._views.template(template, self._catalog.clone_counts().get(template.thin_id, 0))

    def list_clones(self) -> CloneList:
        """All clones."""
        return self._clone_list(self._catalog.clones())

    def show_clone(self, name: str) -> CloneView:
        """One clone. Raises NotFound."""
        return self._clone_list((self._catalog.clone(name),)).clones[0]

    def create_clones(self, request: CloneCreate) -> CloneList:
        """Make clones. Raises as ``Clones.create``."""
        return self._clone_list(self.clones.create(request.name, request.template, request.count, request.client))

    def list_clients(self) -> ClientList:
        """All clients."""
        return ClientList(clients=tuple(self._views.client(client) for client in self._catalog.clients()))

    def put_client(self, name: str, spec: ClientSpec) -> tuple[ClientView, bool]:
        """Make or change a client; whether it is new. Raises as ``Clients.put``."""
        new = self.clients.put(name, spec)
        return self._views.client(self._catalog.client(name)), new

    def _clone_list(self, clones: tuple[Clone, ...]) -> CloneList:
        clients = {client.name: client for client in self._catalog.clients()}
        counters = self._counters()
        return CloneList(
            clones=tuple(self._views.clone(c, clients.get(c.client) if c.client else None, counters) for c in clones)
        )

    def _counters(self) -> dict[str, DeviceCounters]:
        try:
            return dict(self.measure.counters().clones)
        except HatcheryError as error:
            log.warning("clones are shown without counters: %s", error)
            return {}


def _reconciliation(made: Plan, problems: tuple[Problem, ...] | None = None) -> Reconciliation:
    found = recovery.problems(made) if problems is None else problems
    words = [step.describe() for step in made.steps]
    return Reconciliation(
        steps=tuple(StepView(action=each.action, target=each.target, detail=each.detail) for each in words),
        problems=tuple(ProblemView(severity=each.severity, what=each.what, hint=each.hint) for each in found),
    )
