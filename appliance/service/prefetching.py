"""Prefetches: what of a template is read into the cache, by whom it was wanted, how far it is and how it ended.

A template's boot set is read, or all of one that has none. What nobody asked for and reads a template whole lets all
others go first, and ends when the template's boot set is to be read, or the template is removed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from appliance.bootset.prefetch import Fetched
from appliance.catalog import Template
from appliance.errors import HatcheryError, InUse, NotReady, Refused, Unhealthy
from appliance.model import Access, Extent, TemplateRef, TemplateState
from appliance.schema import PrefetchView
from appliance.service.bootsets import BootSets
from appliance.service.core import Core
from appliance.service.operations import Job, Operations
from appliance.service.ports import CacheWatch
from appliance.service.reading import Reading
from appliance.service.sealed import check_sealed
from appliance.service.setbacks import HOLD_SECONDS, Part, Setbacks

log = logging.getLogger(__name__)

LET_GO_SECONDS = 5.0
"""Who removes a template waits at most so long for the end of its last request."""

SHORT = ("incomplete", "failed")
"""Ends of a prefetch after which boots need the backend."""


@dataclass
class _Run:
    """A prefetch. ``yields``: to whatever else is to be read. ``gave_way``: to what it did. ``over``: it reads nothing
    any more. ``done``: nobody has to do with it any more."""

    template: Template
    device: Path
    extents: Sequence[Extent]
    part: Part
    job: Job
    yields: bool
    gave_way: str = ""
    stop: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def thin_id(self) -> int:
        return self.template.thin_id

    def give_way(self, to: str) -> None:
        self.gave_way = to
        self.stop.set()


class Prefetching:
    """The prefetches, those that wait for their turn included. ``attached``: whether there is a cache, if known."""

    def __init__(self, core: Core, operations: Operations, boot_sets: BootSets, ports: CacheWatch) -> None:
        self._core = core
        self._operations = operations
        self._boot_sets = boot_sets
        self._ports = ports
        self.reading = Reading(core, ports)
        self.setbacks = Setbacks()
        self.attached: bool | None = None
        self._closed = threading.Event()
        self._looks: set[threading.Event] = set()
        self._held_until = 0.0
        self._views: dict[int, PrefetchView] = {}
        self._runs: dict[int, _Run] = {}
        self._next: dict[int, Callable[[], None]] = {}

    def warm(self, text: str) -> Job:
        """Start to fetch a template's boot set, or all of a template without one.

        What reads all of it already, unasked, becomes what was asked for. Raises NotFound, NotReady, InUse, Refused.
        """
        template = self._core.catalog.template(TemplateRef.parse(text))
        with self._core.lock:
            run = self._runs.get(template.thin_id)
            if run is not None and run.yields and not run.stop.is_set():
                run.yields = False
                self._tell(run, why="asked for")
                return run.job
        return self.begin(template, "asked for")

    def begin(self, template: Template, why: str, *, unasked: bool = False, whole: bool = False) -> Job:
        """The same, for a template that was looked up; ``whole``: all of it, even if it has a boot set.

        What is ``unasked`` is Refused too for a while after the cache was emptied by command: it is to be cold.
        """
        if self.attached is False:
            raise NotReady(
                f"template {template.ref} cannot be warmed", why="there is no cache now", hint="see `hatchery status`"
            )
        found = None if whole else self._boot_sets.find(template)
        part = Part.WHOLE if found is None else Part.BOOT_SET
        extents = found.extents if found is not None else (Extent(0, template.size),)
        with self._core.lock:
            template = self._core.catalog.template_of_id(template.thin_id)  # it may be gone by now
            self._check(template, unasked=unasked)
            device = self._activate(template)
            job = self._operations.begin("warm", template.ref, "waiting for its turn")
            run = _Run(template, device, extents, part, job, yields=unasked and part is Part.WHOLE)
            self._runs[template.thin_id] = run
            total = sum(extent.length for extent in extents)
            self.show(template, PrefetchView(state="waiting", why=why, total_bytes=total, began=time.time()))
            job.cancellable(run.stop.set)
        self._operations.run(job, lambda job: self._work(job, run))
        return job

    def _check(self, template: Template, *, unasked: bool) -> None:
        """With the lock. Raises NotReady, InUse, Refused."""
        if template.state is not TemplateState.READY:
            raise NotReady(
                f"template {template.ref} cannot be warmed",
                why=f"it is {template.state}",
                hint=f"wait until it is ready: `hatchery template show {template.ref}`",
            )
        if template.thin_id in self._runs:
            raise InUse(
                f"template {template.ref} is being warmed already",
                why="it is read at this moment",
                hint="wait for that operation",
            )
        # Asked with the lock, which ``hold`` takes after it has said so: what began before is ended by it.
        emptied = self._ports.cold_marks() % 2 == 1
        if emptied or (unasked and self.held()):
            raise Refused(
                f"template {template.ref} is not read into the cache",
                why="it is being emptied" if emptied else "it was emptied by command",
                hint="run `hatchery template warm` when that is done",
            )

    def after(self, thin_id: int, begin: Callable[[], None]) -> bool:
        """Have ``begin`` called when the present prefetch of a template is over; one that yields ends for it.

        Returns whether there is one. What was to come after it is forgotten.
        """
        with self._core.lock:
            run = self._runs.get(thin_id)
            if run is None:
                return False
            if run.yields:
                run.give_way("its boot set is read")
            self._next[thin_id] = begin
            return True

    def let_go(self, thin_id: int) -> bool:
        """With the lock: end what yields, for the template is to be removed. Whether nothing reads it then."""
        run = self._runs.get(thin_id)
        if run is None:
            return True
        if not run.yields:
            return False
        run.give_way("the template is to be removed")
        self._next.pop(thin_id, None)
        return run.over.wait(LET_GO_SECONDS)

    def wait(self, thin_id: int) -> None:
        """Wait for the end of a template's present prefetch."""
        with self._core.lock:
            run = self._runs.get(thin_id)
        if run is not None:
            run.done.wait()

    def lost(self, template: Template, extents: Sequence[Extent], part: Part) -> bool:
        """Whether the cache has lost that part of a template, by reading some pages of it. Raises HatcheryError."""
        stop = threading.Event()
        with self._core.lock:
            device = self._activate(template)
            self._looks.add(stop)
        try:
            return self.reading.lost(template, device, extents, stop, holes=part is Part.WHOLE)
        finally:
            with self._core.lock:
                self._looks.discard(stop)

    def is_busy_with(self, thin_id: int) -> bool:
        """Whether a template is being read, or will be."""
        return thin_id in self._runs or thin_id in self._next

    def view(self, thin_id: int) -> PrefetchView | None:
        """How the last prefetch of a template went, or goes; None since this process began."""
        return self._views.get(thin_id)

    def short(self) -> Iterator[tuple[int, PrefetchView]]:
        """The templates, by thin id, whose last prefetch ended SHORT: none that is read anew, or will be."""
        for thin_id, view in list(self._views.items()):
            if view.state in SHORT and not self.is_busy_with(thin_id):
                yield thin_id, view

    def show(self, template: Template, view: PrefetchView) -> None:
        """Have that told of a template from now on."""
        self._views[template.thin_id] = view

    def held(self) -> bool:
        """Whether the cache was emptied by command, lately."""
        return monotonic() < self._held_until

    @property
    def closed(self) -> bool:
        """Whether all has ended."""
        return self._closed.is_set()

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
            runs = tuple(self._runs.values())
            for stop in (*self._looks, *(run.stop for run in runs)):
                stop.set()
        self.reading.wait()
        for run in runs:
            run.done.wait()

    def _activate(self, template: Template) -> Path:
        device = self._core.pool.activate_template(template.thin_id, template.size, Access.READ_ONLY)
        check_sealed(device)
        return device

    def _work(self, job: Job, run: _Run) -> None:
        try:
            done = self._fetch(job, run)
            if run.stop.is_set():
                self._break_off(job, run, done)
            else:
                self._conclude(job, run, done)
        finally:
            with self._core.lock:
                del self._runs[run.thin_id]
                begin = self._next.get(run.thin_id)
            run.done.set()
            if begin is not None:
                self._go_on(run.thin_id, begin, wanted=not job.unwanted)

    def _go_on(self, thin_id: int, begin: Callable[[], None], *, wanted: bool) -> None:
        try:
            if wanted:
                begin()
        finally:
            with self._core.lock:
                # Until here the template was busy; what was begun may have something come after it in its turn.
                if self._next.get(thin_id) is begin:
                    del self._next[thin_id]

    def _break_off(self, job: Job, run: _Run, done: Fetched) -> None:
        if job.unwanted:
            self._tell(run, why="it was cancelled")
            self.setbacks.let_alone(run.thin_id)
        elif run.gave_way:
            self._tell(run, why=run.gave_way)
        self._end(run, "stopped", left_bytes=done.left, seconds=done.seconds)
        job.check()
        if run.gave_way:
            job.succeed(f"ended early: {run.gave_way}")
            return
        why = "hatcheryd ends" if self.closed else "the cache is emptied by command"
        hint = "warm it again: `hatchery template warm`"
        raise Refused(f"the prefetch of {run.template.ref} was broken off", why=why, hint=hint)

    def _fetch(self, job: Job, run: _Run) -> Fetched:
        began, known = 0.0, 0

        def tell(number: int, done: int, total: int) -> None:
            nonlocal began, known
            if number != self._views[run.thin_id].passes:
                began, known = monotonic(), done
                job.phase(f"reading the template, pass {number}", total)
            rate = round((done - known) / max(monotonic() - began, 0.001))
            self._tell(run, state="running", passes=number, total_bytes=total, done_bytes=done, rate=rate)
            job.progress(done)

        try:
            return self.reading.fetch(run.template, run.device, run.extents, run.stop, tell, behind=lambda: run.yields)
        except HatcheryError:
            self._end(run, "stopped" if run.stop.is_set() else "failed")
            raise
        finally:
            run.over.set()

    def _conclude(self, job: Job, run: _Run, done: Fetched) -> None:
        self._end(
            run,
            "warm" if done.complete else "incomplete",
            passes=len(done.passes),
            backend_bytes=sum(done.passes),
            held_bytes=done.held,
            left_bytes=done.left,
            seconds=done.seconds,
        )
        passes = ", ".join(str(each) for each in done.passes)
        log.info(
            "template %s: %d bytes asked for, the backend read %s, %.1f s",
            run.template.ref, done.total, passes, done.seconds,
        )  # fmt: skip
        if done.complete:
            job.succeed("warm")
        else:
            raise Unhealthy(
                f"template {run.template.ref} is not in the cache",
                why=f"{done.left} of {done.total} bytes still came from the backend in pass {len(done.passes)}",
                hint="it is tried again, after a while; the cache may be too small for it, see `hatchery status`",
            )

    def _end(self, run: _Run, state: str, **changes: object) -> None:
        key = run.thin_id, run.part
        if state in SHORT:
            self.setbacks.add(key)
        elif state == "warm":
            self.setbacks.forget(key)
        self._tell(run, state=state, rate=0, **changes)

    def _tell(self, run: _Run, **changes: object) -> None:
        self._views[run.thin_id] = self._views[run.thin_id].model_copy(update=changes)
