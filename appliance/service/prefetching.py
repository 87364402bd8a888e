"""What keeps boot sets in the cache: by command, when they came to be, at start-up, and when the cache has lost them.

A template that has no boot set is read whole, by command, or after its cache is back on a new drive and clones use it.
"""

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

from appliance.bootset import prefetch
from appliance.bootset.extents import sampled
from appliance.bootset.prefetch import Fetched, Surroundings
from appliance.catalog import Template
from appliance.errors import HatcheryError, InUse, NotReady, Refused, Unhealthy
from appliance.model import Access, Extent, TemplateRef, TemplateState
from appliance.schema import PrefetchView, StoreView
from appliance.service.bootsets import BootSets
from appliance.service.core import Core
from appliance.service.operations import Job, Operations
from appliance.service.places import Places
from appliance.service.ports import CacheWatch
from appliance.service.sealed import check_sealed
from appliance.service.shares import Shares

log = logging.getLogger(__name__)

CHECK_SECONDS = 600.0
"""Time between two looks at whether the cache still has the boot sets."""

HOLD_SECONDS = 900.0
"""A cache that was emptied by command stays as it is for so long: somebody measures."""

TURN_LOOK = 0.2
"""Seconds from one look to the next at whether what waits for its turn is still wanted."""

SAMPLE = 300
"""A look reads so many pages of a boot set, and finds a loss of one page in a hundred 95 times of 100. When any came
from the backend, all of the set is read, which costs it no more than what is missing."""

DOUBTED = 0.1
"""Where guests' requests are always under way, nobody can tell for whom the backend read a page: when it read for
more than this share of a look's pages, all is read too."""

PROOF = 32
"""Pages that are read through the template's volume after a prefetch that went past it."""

PATIENCE = 6
"""After a prefetch that did not get all in, the next comes with the next look; then the pause doubles, so often."""

SHORT = ("incomplete", "failed")
"""Ends of a prefetch after which boots need the backend."""


class Prefetching:
    """One prefetch at a time; what else is wanted waits for its turn."""

    def __init__(self, core: Core, operations: Operations, boot_sets: BootSets, ports: CacheWatch) -> None:
        self._core = core
        self._operations = operations
        self._boot_sets = boot_sets
        self._ports = ports
        self._places = Places(core)
        self._turn = threading.Lock()
        self._closed = threading.Event()
        self._stops: set[threading.Event] = set()
        self._held_until = 0.0
        self._views: dict[int, PrefetchView] = {}
        self._wanted: set[int] = set()
        self._again: dict[int, str] = {}
        self._setbacks: dict[int, int] = {}
        self._not_before: dict[int, float] = {}
        self._mark = ports.cold_marks()
        self._attached: bool | None = None
        self._shares = Shares(core, boot_sets)
        self._back = threading.Event()
        """The cache came back, and what that asks for was not done yet."""
        self._next_check = 0.0
        self._looking: threading.Thread | None = None

    # --- by command, and when a boot set came to be

    def warm(self, text: str) -> Job:
        """Start to fetch a template's boot set, or all of a template without one.

        Raises NotFound, NotReady, InUse, Refused.
        """
        return self.begin(self._core.catalog.template(TemplateRef.parse(text)), "asked for")

    def begin(self, template: Template, why: str, *, unasked: bool = False) -> Job:
        """The same, for a template that was looked up.

        What is ``unasked`` is Refused too for a while after the cache was emptied by command: it is to be cold.
        """
        if self._attached is False:
            raise NotReady(
                f"template {template.ref} cannot be warmed", why="there is no cache now", hint="see `hatchery status`"
            )
        found = self._boot_sets.find(template)
        extents = found.extents if found is not None else (Extent(0, template.size),)
        total = sum(extent.length for extent in extents)
        with self._core.lock:
            if template.state is not TemplateState.READY:
                raise NotReady(
                    f"template {template.ref} cannot be warmed",
                    why=f"it is {template.state}",
                    hint=f"wait until it is ready: `hatchery template show {template.ref}`",
                )
            if template.thin_id in self._wanted:
                raise InUse(
                    f"template {template.ref} is being warmed already",
                    why="its boot set is read at this moment",
                    hint="wait for that operation",
                )
            # Asked with the lock, which ``hold`` takes after it has said so: what began before is ended by it.
            emptied = self._ports.cold_marks() % 2 == 1
            if emptied or (unasked and self._held()):
                raise Refused(
                    f"template {template.ref} is not read into the cache",
                    why="it is being emptied" if emptied else "it was emptied by command",
                    hint="run `hatchery template warm` when that is done",
                )
            device = self._activate(template)
            self._wanted.add(template.thin_id)
            stop = threading.Event()
            self._stops.add(stop)
            self._views[template.thin_id] = PrefetchView(state="waiting", why=why, total_bytes=total, began=time.time())
            job = self._operations.begin("warm", template.ref, "waiting for its turn")
            job.cancellable(stop.set)
        self._operations.run(job, lambda job: self._work(job, template, device, extents, stop))
        return job

    def begin_unasked(self, template: Template, why: str) -> None:
        """As ``begin_quietly``, unless the cache was emptied by command: then a later look fetches it."""
        if self._held():
            log.info("template %s is not prefetched now: the cache was emptied by command", template.ref)
        else:
            self.begin_quietly(template, why, unasked=True)

    def begin_quietly(self, template: Template, why: str, *, unasked: bool = False) -> None:
        """``begin`` for a boot set that has just come to be; what stands against it is logged.

        While an older one is being read, it comes after that. One for which boot sets have no room is left out, loudly.
        """
        with self._core.lock:
            if template.thin_id in self._wanted:
                self._again[template.thin_id] = why
                return
        try:
            if template.thin_id in self._shares.outside():
                self._leave_out(template)
            else:
                self.begin(template, why, unasked=unasked)
        except InUse:
            self.begin_quietly(template, why, unasked=unasked)  # another was faster
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
        self._end_all()
        for thin_id, view in list(self._views.items()):
            if view.state == "warm":
                why = "the cache was emptied by command"
                changes = {"state": "stopped", "why": why, "left_bytes": view.total_bytes}
                self._views[thin_id] = view.model_copy(update=changes)

    def close(self) -> None:
        """End what runs."""
        self._closed.set()
        self._end_all()

    def _end_all(self) -> None:
        self._held_until = monotonic() + HOLD_SECONDS
        with self._core.lock:
            for stop in self._stops:
                stop.set()
        with self._turn:
            pass

    def _held(self) -> bool:
        return monotonic() < self._held_until

    def _around(self, stop: threading.Event) -> Surroundings:
        return Surroundings(self._ports.flow(), self._ports.guests, prefetch.room(self._shares.cache_size or 0), stop)

    def _activate(self, template: Template) -> Path:
        device = self._core.pool.activate_template(template.thin_id, template.size, Access.READ_ONLY)
        check_sealed(device)
        return device

    def _work(
        self, job: Job, template: Template, device: Path, extents: Sequence[Extent], stop: threading.Event
    ) -> None:
        try:
            done = self._fetch(job, template, device, extents, stop)
            if stop.is_set():
                if job.unwanted:
                    self._leave_alone(template)
                self._end(template, "stopped", left_bytes=done.left, seconds=done.seconds)
                job.check()
                why = "hatcheryd ends" if self._closed.is_set() else "the cache is emptied by command"
                raise Refused(
                    f"the prefetch of {template.ref} was broken off",
                    why=why,
                    hint="warm it again: `hatchery template warm`",
                )
            self._conclude(job, template, done)
        finally:
            with self._core.lock:
                self._wanted.discard(template.thin_id)
                self._stops.discard(stop)
                again = self._again.pop(template.thin_id, None)
            if again is not None and not job.unwanted:
                self.begin_unasked(template, again)

    def _fetch(
        self, job: Job, template: Template, device: Path, extents: Sequence[Extent], stop: threading.Event
    ) -> Fetched:
        began, known, total = 0.0, 0, 0

        def tell(number: int, done: int) -> None:
            nonlocal began, known
            if number != self._views[template.thin_id].passes:
                began, known = monotonic(), done
                job.phase(f"reading the template, pass {number}", total)
            rate = round((done - known) / max(monotonic() - began, 0.001))
            self._tell(template, state="running", passes=number, total_bytes=total, done_bytes=done, rate=rate)
            job.progress(done)

        def read(where: Path, places: Sequence[Extent]) -> Fetched:
            nonlocal total
            total = sum(extent.length for extent in places)
            return prefetch.fetch(where, places, around, tell)

        try:
            with self._in_turn(stop):
                around, begin = self._around(stop), monotonic()
                where, places = self._places.of(template, device, extents)
                done = read(where, places)
                if where != device and done.complete and not stop.is_set() and self._misses(device, extents, around):
                    log.warning("template %s is not where it was read: it is read as a volume now", template.ref)
                    self._places.forget(template)
                    done = read(device, extents)
                return replace(done, seconds=monotonic() - begin)
        except HatcheryError:
            self._end(template, "stopped" if stop.is_set() else "failed")
            raise

    def _misses(self, device: Path, extents: Sequence[Extent], around: Surroundings) -> bool:
        """Ask for some pages as a guest does: whether what was read was another thing."""
        sample = sampled(extents, PROOF, random.Random())  # noqa: S311 - nobody gains by guessing it
        return len(prefetch.read_once(device, sample, around)) > DOUBTED * len(sample)

    def _conclude(self, job: Job, template: Template, done: Fetched) -> None:
        self._end(
            template,
            "warm" if done.complete else "incomplete",
            passes=len(done.passes),
            backend_bytes=sum(done.passes),
            left_bytes=done.left,
            seconds=done.seconds,
        )
        passes = ", ".join(str(each) for each in done.passes)
        log.info(
            "template %s: %d bytes asked for, the backend read %s, %.1f s",
            template.ref, done.total, passes, done.seconds,
        )  # fmt: skip
        if done.complete:
            job.succeed("warm")
        else:
            raise Unhealthy(
                f"template {template.ref} is not in the cache",
                why=f"{done.left} of {done.total} bytes still came from the backend in pass {len(done.passes)}",
                hint="it is tried again, after a while; the cache may be too small for it, see `hatchery status`",
            )

    @contextlib.contextmanager
    def _in_turn(self, stop: threading.Event) -> Iterator[None]:
        """Alone; what is stopped while it waits goes on at once, and has to look."""
        while not (got := self._turn.acquire(timeout=TURN_LOOK)) and not stop.is_set():
            pass
        try:
            yield
        finally:
            if got:
                self._turn.release()

    def _leave_alone(self, template: Template) -> None:
        """Somebody does not want a template to be read now: begin nothing by itself for a while."""
        self._tell(template, why="it was cancelled")
        self._not_before[template.thin_id] = monotonic() + HOLD_SECONDS

    def _end(self, template: Template, state: str, **changes: object) -> None:
        if state in SHORT:
            count = self._setbacks[template.thin_id] = self._setbacks.get(template.thin_id, 0) + 1
            pause = CHECK_SECONDS * (2 ** min(count - 1, PATIENCE) - 1)
            self._not_before[template.thin_id] = monotonic() + pause
        elif state == "warm":
            self._setbacks.pop(template.thin_id, None)
        self._tell(template, state=state, rate=0, **changes)

    def _tell(self, template: Template, **changes: object) -> None:
        self._views[template.thin_id] = self._views[template.thin_id].model_copy(update=changes)

    # --- by itself

    def look(self, store: StoreView) -> None:
        """Be told how the store is, every few seconds. Starts what has to be done in a thread of its own."""
        before, self._mark = self._mark, self._ports.cold_marks()
        if self._mark % 2 or self._mark != before:
            return  # the cache is emptied on purpose, and must be cold afterwards
        attached = store.cache is not None and store.cache.attached
        if attached and self._attached is False:
            self._back.set()
        self._attached = attached
        if store.cache is None or not attached:
            return
        self._shares.cache_size = store.cache.size
        if self._held() or (self._looking is not None and self._looking.is_alive()):
            return
        if self._back.is_set() or monotonic() >= self._next_check:
            self._next_check = monotonic() + CHECK_SECONDS
            came_back = self._back.is_set()
            self._back.clear()
            self._looking = threading.Thread(target=self._look, args=(came_back,), name="boot sets", daemon=True)
            self._looking.start()

    def _look(self, came_back: bool) -> None:
        outside = self._shares.outside(whole=came_back)
        for template in self._shares.by_use():
            if self._closed.is_set() or self._held():
                if came_back:
                    self._back.set()  # the rest has to wait
                return
            try:
                if template.thin_id in outside:
                    if self._state(template) not in ("warm", "incomplete") and not self.is_busy_with(template.thin_id):
                        self._leave_out(template)
                    continue
                why = self._why(template, came_back=came_back)
                if why is not None:
                    log.info("template %s is read through the cache: %s", template.ref, why)
                    self.begin(template, why, unasked=True).finished.wait()
            except HatcheryError as error:
                log.warning("template %s is not prefetched: %s", template.ref, error)
                if came_back and self._held():
                    self._back.set()

    def _why(self, template: Template, *, came_back: bool) -> str | None:
        """Why a template is to be read now; None when it is not."""
        found = self._boot_sets.find(template)
        if came_back:
            used = self._core.catalog.clone_counts().get(template.thin_id, 0)
            return "the cache is back" if found is not None or used else None
        view = self._views.get(template.thin_id)
        if view is not None and view.state in SHORT and found is not None:
            due = monotonic() >= self._not_before.get(template.thin_id, 0.0)
            return "it did not get in the last time" if due else None
        if view is not None and view.state == "stopped" and monotonic() < self._not_before.get(template.thin_id, 0.0):
            return None
        lost = found is not None and self._lost(template, found.extents)
        return "the cache was found without it" if lost else None

    def _state(self, template: Template) -> str | None:
        view = self._views.get(template.thin_id)
        return None if view is None else view.state

    def _leave_out(self, template: Template) -> None:
        total = self._boot_sets.size_of(template) or template.size
        why = "half of the cache has no room for it beside others"
        log.warning("template %s is not prefetched: %s, and it has %d bytes", template.ref, why, total)
        self._views[template.thin_id] = PrefetchView(
            state="incomplete", why=why, total_bytes=total, left_bytes=total, began=time.time()
        )

    def _lost(self, template: Template, extents: Sequence[Extent]) -> bool:
        """Read some pages here and there: cheap, and what is missing comes into the cache by it."""
        with self._core.lock:
            device = self._activate(template)
        sample = sampled(extents, SAMPLE, random.Random())  # noqa: S311 - nobody gains by guessing it
        with self._stoppable() as stop, self._turn:
            doubts = prefetch.read_once(device, sample, self._around(stop))
        return any(doubt.alone for doubt in doubts) or len(doubts) > DOUBTED * len(sample)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[threading.Event]:
        stop = threading.Event()
        with self._core.lock:
            self._stops.add(stop)
        try:
            yield stop
        finally:
            with self._core.lock:
                self._stops.discard(stop)
