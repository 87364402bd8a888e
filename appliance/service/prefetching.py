"""What keeps boot sets in the cache: by command, when they came to be, at start-up, and when the cache has lost them.

A template that has no boot set is read whole, by command, or after its cache is back on a new drive and clones use it.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.bootset import prefetch
from appliance.bootset.extents import PAGE
from appliance.bootset.prefetch import Fetched, Surroundings
from appliance.catalog import Template
from appliance.errors import HatcheryError, InUse, NotReady, Refused, Unhealthy
from appliance.model import Access, Extent, TemplateRef, TemplateState
from appliance.schema import PrefetchView, StoreView
from appliance.service.bootsets import BootSets
from appliance.service.core import Core
from appliance.service.operations import Job, Operations
from appliance.service.sealed import check_sealed

log = logging.getLogger(__name__)

CHECK_SECONDS = 600.0
"""Time between two looks at whether the cache still has the boot sets."""

HOLD_SECONDS = 900.0
"""A cache that was emptied by command stays as it is for so long: somebody measures."""

SAMPLE = 48
LOST = 0.1
"""A look reads so many pages of a boot set; when more than this share came from the backend, all of it is fetched."""

SHARE = 0.5
"""Of the cache, what boot sets may fill by themselves. What is used most comes first."""


@dataclass(frozen=True, slots=True)
class Ports:
    """What prefetching asks the store: see ``Store.flow`` and ``Store.guest_requests``, and ``Measure.cold_marks``."""

    flow: Callable[[], Callable[[], tuple[int, int]]]
    guests: Callable[[], int]
    cold_marks: Callable[[], int]


class Prefetching:
    """One prefetch at a time; what else is wanted waits for its turn."""

    def __init__(self, core: Core, operations: Operations, boot_sets: BootSets, ports: Ports) -> None:
        self._core = core
        self._operations = operations
        self._boot_sets = boot_sets
        self._ports = ports
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._stops: set[threading.Event] = set()
        self._held_until = 0.0
        self._views: dict[int, PrefetchView] = {}
        self._wanted: set[int] = set()
        self._mark = ports.cold_marks()
        self._attached: bool | None = None
        self._next_check = 0.0
        self._looking: threading.Thread | None = None

    # --- by command, and when a boot set came to be

    def warm(self, text: str) -> Job:
        """Start to fetch a template's boot set, or all of a template without one.

        Raises NotFound, NotReady, InUse, Refused.
        """
        return self.begin(self._core.catalog.template(TemplateRef.parse(text)), "asked for")

    def begin(self, template: Template, why: str) -> Job:
        """The same, for a template that was looked up."""
        with self._core.lock:
            if template.state is not TemplateState.READY:
                raise NotReady(f"template {template.ref} cannot be warmed", why=f"it is {template.state}")
            if template.thin_id in self._wanted:
                raise InUse(f"template {template.ref} is being warmed already", hint="wait for that operation")
            found = self._boot_sets.find(template)
            extents = found.extents if found is not None else (Extent(0, template.size),)
            device = self._activate(template)
            self._wanted.add(template.thin_id)
            stop = threading.Event()
            self._stops.add(stop)
            total = sum(extent.length for extent in extents)
            self._views[template.thin_id] = PrefetchView(state="waiting", why=why, total_bytes=total, began=time.time())
            job = self._operations.begin("warm", template.ref, "waiting for its turn")
        self._operations.run(job, lambda job: self._work(job, template, device, extents, stop))
        return job

    def begin_unasked(self, template: Template, why: str) -> None:
        """As ``begin_quietly``, unless the cache was emptied by command: then a later look fetches it."""
        if self._held():
            log.info("template %s is not prefetched now: the cache was emptied by command", template.ref)
        else:
            self.begin_quietly(template, why)

    def begin_quietly(self, template: Template, why: str) -> None:
        """``begin`` for a boot set that has just come to be; what stands against it is logged."""
        try:
            self.begin(template, why)
        except HatcheryError as error:
            log.warning("template %s is not prefetched: %s", template.ref, error)

    def is_busy_with(self, thin_id: int) -> bool:
        """Whether a template is being read, or will be."""
        return thin_id in self._wanted

    def view(self, thin_id: int) -> PrefetchView | None:
        """How the last prefetch of a template went, or goes; None since this process began."""
        return self._views.get(thin_id)

    def hold(self) -> None:
        """The cache is about to be emptied by command: end what runs, and begin nothing unasked for a while."""
        self._held_until = time.monotonic() + HOLD_SECONDS
        with self._core.lock:
            for stop in self._stops:
                stop.set()
        with self._turn:
            pass

    def close(self) -> None:
        """End what runs."""
        self._closed.set()
        self.hold()

    def _held(self) -> bool:
        return time.monotonic() < self._held_until

    def _around(self, stop: threading.Event) -> Surroundings:
        return Surroundings(self._ports.flow(), self._ports.guests, stop)

    def _activate(self, template: Template) -> Path:
        device = self._core.pool.activate_template(template.thin_id, template.size, Access.READ_ONLY)
        check_sealed(device)
        return device

    def _work(
        self, job: Job, template: Template, device: Path, extents: Sequence[Extent], stop: threading.Event
    ) -> None:
        def tell(number: int, done: int) -> None:
            if number != self._views[template.thin_id].passes:
                job.phase(f"reading the template, pass {number}", sum(extent.length for extent in extents))
            self._tell(template, state="running", passes=number, done_bytes=done)
            job.progress(done)

        try:
            with self._turn:
                done = prefetch.fetch(device, extents, self._around(stop), tell)
            if stop.is_set():
                raise Refused(f"the prefetch of {template.ref} was broken off", why="the cache is emptied by command")
            self._conclude(job, template, done)
        except HatcheryError:
            self._tell(template, state="failed")
            raise
        finally:
            with self._core.lock:
                self._wanted.discard(template.thin_id)
                self._stops.discard(stop)

    def _conclude(self, job: Job, template: Template, done: Fetched) -> None:
        self._tell(
            template,
            state="warm" if done.complete else "incomplete",
            passes=len(done.passes),
            backend_bytes=sum(done.passes),
            left_bytes=done.left,
            seconds=done.seconds,
        )
        passes = ", ".join(str(each) for each in done.passes)
        log.info(
            "template %s: %d bytes asked for, from the backend came %s, %.1f s",
            template.ref, done.total, passes, done.seconds,
        )  # fmt: skip
        if done.complete:
            job.succeed("warm")
        else:
            raise Unhealthy(
                f"template {template.ref} is not in the cache",
                why=f"{done.left} of {done.total} bytes still came from the backend in pass {len(done.passes)}",
                hint="guests' reads count too: try again when they are quiet; or the cache is too small for it",
            )

    def _tell(self, template: Template, **changes: object) -> None:
        self._views[template.thin_id] = self._views[template.thin_id].model_copy(update=changes)

    # --- by itself

    def look(self, store: StoreView) -> None:
        """Be told how the store is, every few seconds. Starts what has to be done in a thread of its own."""
        before, self._mark = self._mark, self._ports.cold_marks()
        if self._mark % 2 or self._mark != before:
            return  # the cache is emptied on purpose, and must be cold afterwards
        attached = store.cache is not None and store.cache.attached
        came_back = attached and self._attached is False
        self._attached = attached
        if (
            store.cache is None
            or not attached
            or self._held()
            or (self._looking is not None and self._looking.is_alive())
        ):
            return
        if came_back or time.monotonic() >= self._next_check:
            self._next_check = time.monotonic() + CHECK_SECONDS
            why = "the cache is back" if came_back else "the cache was found without it"
            words = (store.cache.size, came_back, why)
            self._looking = threading.Thread(target=self._look, args=words, name="boot sets", daemon=True)
            self._looking.start()

    def _look(self, cache: int, came_back: bool, why: str) -> None:
        left = int(cache * SHARE)
        for template in self._by_use():
            try:
                found = self._boot_sets.find(template)
                used = self._core.catalog.clone_counts().get(template.thin_id, 0)
                if self._closed.is_set() or self._held() or (found is None and not (came_back and used)):
                    continue
                if found is not None:
                    left -= found.total
                    if left < 0:
                        log.warning("boot sets from template %s on do not fit into half of the cache", template.ref)
                        return
                    if not came_back and not self._lost(template, found.extents):
                        continue
                log.info("template %s is read through the cache: %s", template.ref, why)
                self.begin(template, why).finished.wait()
            except HatcheryError as error:
                log.warning("template %s is not prefetched: %s", template.ref, error)

    def _by_use(self) -> list[Template]:
        counts = self._core.catalog.clone_counts()
        ready = [found for found in self._core.catalog.templates() if found.state is TemplateState.READY]
        return sorted(ready, key=lambda template: -counts.get(template.thin_id, 0))

    def _lost(self, template: Template, extents: Sequence[Extent]) -> bool:
        """Read a few pages here and there: cheap, and what is missing comes into the cache by it."""
        with self._core.lock:
            device = self._activate(template)
        sample = sampled(extents, SAMPLE, random.Random())  # noqa: S311 - nobody gains by guessing it
        around = self._around(self._closed)
        before, _ = around.flow()
        prefetch.read_once(device, sample, around)
        return around.flow()[0] - before > LOST * sum(extent.length for extent in sample)


def sampled(extents: Sequence[Extent], count: int, dice: random.Random) -> tuple[Extent, ...]:
    """Up to ``count`` pages of the extents, each as likely as any other. Pure but for the dice."""
    pages = sum(extent.length for extent in extents) // PAGE
    chosen = sorted(dice.sample(range(pages), min(count, pages)))
    found = []
    seen, at = 0, 0
    for page in chosen:
        while page >= seen + extents[at].length // PAGE:
            seen += extents[at].length // PAGE
            at += 1
        found.append(Extent(extents[at].offset + (page - seen) * PAGE, PAGE))
    return tuple(found)
