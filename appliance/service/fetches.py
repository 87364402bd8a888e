"""Templates that come from another NBD server, another appliance above all.

Imported, as from anywhere else, or cloned at once while the rest comes in the background (``lazy``). The way of the
bytes is the same: the volume is made empty over the other server's disk (``store.fetching``), and filled from it. What
boots read comes first. A lazy template is in the catalog as one that is being fetched, so that a start goes on with it,
and its clones are overlays. When all is in, one commit says so, and its device becomes that of a sealed template
under all who read it. While the server is away, those who read what is not in yet get errors, and this waits for it.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from appliance.bootset import file
from appliance.bootset.file import BootSetFile
from appliance.catalog import Fetch, Identity, NewTemplate, StoredBootSet, Template
from appliance.errors import BadImage, HatcheryError, InvalidInput, NotFound, NotReady, Refused
from appliance.host.storage_daemon import Server
from appliance.images.filling import Filling, Hooks
from appliance.model import MIB, Access, Extent, Health, ImageFormat, Problem, check_name
from appliance.reconcile.volumes import Birth, Devices
from appliance.schema import FetchView, NbdSource, TemplateCreate
from appliance.service import admission, bootsets, remotes
from appliance.service.core import Core
from appliance.service.operations import Job, Operations
from appliance.service.ports import Store
from appliance.service.remotes import Disk, Remotes
from appliance.service.wanted import of_template

log = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0
"""Until a fetch that broke off goes on."""

AT_START_SECONDS = 6.0
"""How long a start waits for servers, so that guests find all of their disks."""

POLITE_SECONDS = 0.05
POLITE_LOOK = 0.005
"""How long a piece waits at most for guests' requests that are under way, and from one look at them to the next."""

CHECK_SPACE_EVERY = 64 * MIB

_ENDED = "it was broken off"


@dataclass
class _Fetch:
    """A template that is being fetched by a thread here."""

    template: Template
    server: Server
    identity: Identity | None
    stop: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    waiting: str = ""
    filling: Filling | None = None


class Fetches:
    """What is fetched from other servers."""

    def __init__(self, core: Core, operations: Operations, store: Store, sources: Remotes) -> None:
        self._core = core
        self._operations = operations
        self._store = store
        self._sources = sources
        self._fetches: dict[int, _Fetch] = {}
        sources.tell(self._lost)

    def begin(self, request: TemplateCreate) -> Job:
        """Start to import a template, or to have it cloned while it is fetched. Raises InvalidInput, AlreadyExists."""
        check_name(request.name, "template name")
        source = request.source
        if not isinstance(source, NbdSource):
            raise InvalidInput("this template does not come from an NBD server", why=f"it comes by {source.kind}")
        if request.format is not ImageFormat.RAW:
            raise InvalidInput("a disk that is served over NBD is raw", why=f"{request.format} is a file's format")
        if source.lazy and request.sha256 is not None:
            raise InvalidInput(
                "a checksum cannot be held against a template that is cloned at once",
                why="it is known when all of it was fetched, and clones use it before",
                hint="fetch it without --lazy, or compare the checksum that `hatchery template show` gives then",
            )
        given = None if request.boot_set is None else file.load(request.boot_set)
        server = remotes.parse(source.uri)
        identity = None
        if source.identity is not None:
            secret = source.identity.key.get_secret_value()
            identity = Identity(source.identity.authority, source.identity.certificate, secret)
        with self._core.lock:
            new = NewTemplate(request.name, ImageFormat.RAW, str(server), time.time())
            template = self._core.catalog.add_template(new)
            fetch = self._fetches[template.thin_id] = _Fetch(template, server, identity)
        job = self._operations.begin("import", template.ref, f"reaching {server}")
        job.cancellable(fetch.stop.set)
        self._core.events.tell("template", template.ref, "importing", f"from {server}")

        def work(job: Job) -> None:
            try:
                disk, boot_set = self._prepare(job, fetch, given, lazy=source.lazy)
                if not source.lazy:
                    self._import(job, fetch, disk, request.sha256, boot_set)
            except BaseException:
                self._take_back(fetch)
                raise
            if source.lazy:
                job.succeed("it can be cloned; the rest is fetched meanwhile")
                self._follow(fetch)
            else:
                job.succeed()

        self._operations.run(job, work)
        return job

    def start(self) -> None:
        """Go on with what a former process began; let go of what nobody fetches any more. Waits for servers a while."""
        wanted = self._core.catalog.fetches()
        self._sources.clear([each.template for each in wanted])
        for each in wanted:
            template = self._core.catalog.template_of_id(each.template)
            fetch = _Fetch(template, remotes.parse(each.uri), each.identity, done=each.fetched)
            self._fetches[each.template] = fetch
            self._follow(fetch)
        due = time.monotonic() + AT_START_SECONDS
        for fetch in list(self._fetches.values()):
            if not fetch.reached.wait(max(0.0, due - time.monotonic())):
                log.warning("template %s: %s is not reached yet", fetch.template.ref, fetch.server)

    def close(self) -> None:
        """Break off; the next start goes on. Devices stay, for clones read them."""
        fetches = list(self._fetches.values())
        for fetch in fetches:
            fetch.stop.set()
        for fetch in fetches:
            fetch.ended.wait(remotes.PATIENCE + 10)
        self._sources.leave()

    def end(self, thin_id: int) -> bool:
        """End the fetch of a template that was removed: its volume goes when nobody writes to it any more.

        False when nothing is fetched for it.
        """
        fetch = self._fetches.get(thin_id)
        if fetch is not None:
            fetch.stop.set()
        return fetch is not None

    def view(self, thin_id: int) -> FetchView | None:
        """How far a template is; None when it is not being fetched."""
        fetch = self._fetches.get(thin_id)
        if fetch is None:
            return None
        return FetchView(done_bytes=fetch.done, waiting=fetch.waiting or None)

    def problems(self) -> tuple[Problem, ...]:
        """Those that do not get on."""
        return tuple(
            Problem(
                Health.DEGRADED,
                f"template {fetch.template.ref} is not whole, and cannot be fetched: {fetch.waiting}",
                f"bring {fetch.server} back; until then clones get errors where they read what is not here",
                part="fetch",
            )
            for fetch in list(self._fetches.values())
            if fetch.waiting
        )

    # --- inside

    def _prepare(
        self, job: Job, fetch: _Fetch, given: BootSetFile | None, *, lazy: bool
    ) -> tuple[Disk, BootSetFile | None]:
        """Make the volume and its devices; for a lazy one, let it be cloned. Raises HatcheryError."""
        template = fetch.template
        disk = self._sources.open(template.thin_id, fetch.server, fetch.identity)
        if lazy and not disk.fixed:
            raise Refused(
                f"{fetch.server} can be written",
                why="what changes there while it is fetched would change in clones that are used already",
                hint="fetch it without --lazy, or have it served read-only: `hatchery template offer` does",
            )
        boot_set = given or self._travelled(fetch)
        with self._core.lock:
            core, numbers = self._core, self._core.pool.status()
            admission.admit_size(numbers, disk.size)
            admission.admit_data(numbers, numbers.block_bytes)
            sized = replace(template, size=disk.size)
            volume = replace(of_template(sized), devices=Devices.NONE, birth=Birth.EMPTY)
            advanced = core.carry_out([volume])
            core.catalog.set_transaction_id(advanced[volume.pool], volume.pool)
            core.pool.activate_fetching(template.thin_id, disk.size)
            core.pool.show_source(template.thin_id, disk.device)
            fetch.template = sized
            if lazy:
                job.settle()
                stored = bootsets.first(core.catalog, template, disk.size, None, boot_set, core.now())
                begun = Fetch(template.thin_id, str(fetch.server), 0, fetch.identity)
                core.catalog.begin_fetch(begun, disk.size, stored)
                fetch.template = core.catalog.template_of_id(template.thin_id)
        if lazy:
            words = f"{disk.size} bytes, the rest is fetched from {fetch.server}"
            self._core.events.tell("template", template.ref, "fetching", words)
        return disk, boot_set

    def _travelled(self, fetch: _Fetch) -> BootSetFile | None:
        text = self._sources.boot_set(fetch.template.thin_id, fetch.server)
        try:
            return None if text is None else file.load(text)
        except InvalidInput as error:
            log.warning("template %s: the boot set that came with it is left out: %s", fetch.template.ref, error)
            return None

    def _import(self, job: Job, fetch: _Fetch, disk: Disk, announced: str | None, boot_set: BootSetFile | None) -> None:
        """Fetch all of it, then let it be cloned."""
        job.phase("fetching the disk", disk.size)

        def told(done: int) -> None:
            fetch.done = done
            job.progress(done)

        digest = self._filling(fetch, 0, told, lambda _: None).run(())
        if announced is not None and digest != announced:
            why = f"its SHA-256 is {digest}, not {announced}"
            raise BadImage("the disk is not the one that was announced", why=why, hint="ask who serves it")
        job.settle()
        stored = bootsets.first(self._core.catalog, fetch.template, disk.size, digest, boot_set, self._core.now())
        self._seal(fetch, digest, stored)

    def _follow(self, fetch: _Fetch) -> None:
        """Fetch in the background until all is in."""
        job = self._operations.begin("fetch", fetch.template.ref, f"reaching {fetch.server}")

        def work(job: Job) -> None:
            try:
                while not self._try(job, fetch):
                    if fetch.stop.wait(AGAIN_SECONDS) or self._gone(fetch):
                        self._abandon(fetch)
                        raise NotReady(f"template {fetch.template.ref} was not fetched to its end", why=_ENDED)
            finally:
                fetch.ended.set()
            job.succeed()

        self._operations.run(job, work)

    def _try(self, job: Job, fetch: _Fetch) -> bool:
        """Fetch until all is in, or something goes wrong; whether it is."""
        try:
            thin_id = fetch.template.thin_id
            disk = self._sources.open(thin_id, fetch.server, fetch.identity)
            self._check_same(fetch, disk)
            with self._core.lock:
                found = self._core.catalog.fetch(thin_id)
                if found is None:
                    return False  # removed
                self._core.pool.activate_fetching(thin_id, disk.size)
                self._core.pool.show_source(thin_id, disk.device)
            fetch.reached.set()
            job.phase("fetching the disk", disk.size)

            def told(done: int) -> None:
                if fetch.waiting:
                    log.info("template %s is fetched again", fetch.template.ref)
                fetch.done, fetch.waiting = done, ""
                job.progress(done)

            def saved(done: int) -> None:
                self._core.catalog.template_of_id(thin_id)  # it may have gone with its last clone
                self._core.catalog.record_fetched(thin_id, done)

            fetch.filling = fetch.filling or self._filling(fetch, found.fetched, told, saved)
            digest = fetch.filling.run(self._first(fetch))
            self._seal(fetch, digest, self._judged(fetch, digest))
        except HatcheryError as error:
            if not fetch.stop.is_set():
                if not fetch.waiting:
                    log.warning("template %s cannot be fetched for now: %s", fetch.template.ref, error)
                fetch.waiting = str(error)
                job.phase(f"waiting: {error.what}")
            return False
        return True

    @staticmethod
    def _check_same(fetch: _Fetch, disk: Disk) -> None:
        if disk.size != fetch.template.size or not disk.fixed:
            size = fetch.template.size
            why = f"it has {disk.size} bytes, and had {size}" if disk.size != size else "it can be written now"
            raise Refused(f"{fetch.server} is not the disk that it was", why=why, hint="serve the same disk again")

    def _filling(self, fetch: _Fetch, begin: int, told: Callable[[int], None], saved: Callable[[int], None]) -> Filling:
        template, checked = fetch.template, 0
        device = self._core.pool.activate_fetching(template.thin_id, template.size)

        def before() -> None:
            nonlocal checked
            if fetch.stop.is_set():
                raise NotReady(f"template {template.ref} is fetched no further", why=_ENDED)
            if fetch.done - checked >= CHECK_SPACE_EVERY or not checked:
                checked = max(1, fetch.done)
                admission.admit_data(self._core.pool.status(), CHECK_SPACE_EVERY)
            self._be_polite(fetch.stop)

        return Filling(device, template.size, begin, Hooks(before, told, saved))

    def _be_polite(self, stop: threading.Event) -> None:
        """Let guests' requests go first; no longer when the fetch is to end."""
        until = time.monotonic() + POLITE_SECONDS
        while self._store.guest_requests() and time.monotonic() < until and not stop.wait(POLITE_LOOK):
            pass

    def _first(self, fetch: _Fetch) -> tuple[Extent, ...]:
        """What is at a boot."""
        stored = self._core.catalog.boot_set(fetch.template.thin_id)
        try:
            return () if stored is None else file.load(stored.text).boot_set.extents
        except InvalidInput:
            return ()

    def _judged(self, fetch: _Fetch, digest: str) -> StoredBootSet | None:
        """The template's boot set, which is its own if it was learned of the same content."""
        stored = self._core.catalog.boot_set(fetch.template.thin_id)
        if stored is None:
            return None
        guessed = stored.guessed and file.load(stored.text).sha256 != digest
        return replace(stored, guessed=guessed, changed=self._core.now())

    def _seal(self, fetch: _Fetch, digest: str, boot_set: StoredBootSet | None) -> None:
        """All is in, and durable: say so, and show the volume alone. Raises NotFound when it was removed."""
        thin_id, size = fetch.template.thin_id, fetch.template.size
        with self._core.lock:
            self._core.catalog.template_of_id(thin_id)
            self._core.catalog.finish_template(thin_id, size, digest, boot_set=boot_set)
            try:
                self._core.pool.activate_template(thin_id, size, Access.READ_ONLY)
            except HatcheryError:
                # Its devices show the same as before. The next start, or `hatchery store reconcile`, makes them new.
                log.exception("template %s is whole, and still has the devices of one that is not", fetch.template.ref)
            self._fetches.pop(thin_id, None)
        self._let_go(fetch)
        log.info("template %s is whole: nothing of %s is needed any more", fetch.template.ref, fetch.server)
        self._core.template_ready(thin_id)

    def _lost(self, thin_id: int) -> None:
        """Show errors where a disk was that cannot be read any more, so that its device can go."""
        try:
            self._core.pool.show_source(thin_id, None)
        except HatcheryError as error:
            log.warning("template volume %d: %s", thin_id, error)

    def _gone(self, fetch: _Fetch) -> bool:
        """Whether its template was removed, with its last clone for example."""
        try:
            self._core.catalog.template_of_id(fetch.template.thin_id)
        except NotFound:
            return True
        return False

    def _abandon(self, fetch: _Fetch) -> None:
        """Clear up after a fetch whose template is gone; leave it as it is when the service ends."""
        if not self._gone(fetch):
            return
        with self._core.lock:
            self._fetches.pop(fetch.template.thin_id, None)
            self._core.discard_quietly([fetch.template.thin_id])
        self._let_go(fetch)
        self._core.poke()

    def _take_back(self, fetch: _Fetch) -> None:
        """Leave nothing of an import that failed."""
        template = fetch.template
        with self._core.lock:
            self._fetches.pop(template.thin_id, None)
            why = f"the import of {template.ref} was not finished"
            self._core.catalog.remove_template(template.thin_id, why, self._core.now())
            self._core.discard_quietly([template.thin_id])
        self._let_go(fetch)
        self._core.events.tell("template", template.ref, "failed", "nothing is left of its import")
        fetch.ended.set()

    def _let_go(self, fetch: _Fetch) -> None:
        try:
            self._sources.close(fetch.template.thin_id)
        except HatcheryError:
            log.exception("%s is still connected", fetch.server)
