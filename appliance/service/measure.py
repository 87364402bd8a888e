"""What a measurement needs of the appliance: a cold cache, counters, latency histograms."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from appliance.catalog import Catalog, Clone
from appliance.errors import CannotTell, HatcheryError, InUse, NotFound, NotReady
from appliance.host.biolatency import Biolatency
from appliance.model import CloneState, Histogram
from appliance.run import Runner
from appliance.schema import (
    CloneHistogram,
    CloneLatencies,
    Counters,
    DiskHistogram,
    Histograms,
    HistogramsRequest,
    HistogramsStarted,
    HistogramView,
)
from appliance.service.operations import Job, Operations
from appliance.service.ports import Store

log = logging.getLogger(__name__)


class _Recording:
    """Histograms that run: the disks' tracer, and the clones' counts at the start."""

    def __init__(
        self,
        tracer: Biolatency | None,
        missing: str,
        clones: Mapping[int, Histogram],
        coarse: Mapping[str, Histogram],
        request: HistogramsRequest,
    ) -> None:
        self.tracer = tracer
        self.missing = missing
        self.clones = clones
        self.coarse = coarse
        self.started = time.time()
        self.owner = request.owner
        self.ends = self.started + request.seconds

    def view(self) -> HistogramsStarted:
        """Whose it is, since when, and until when."""
        return HistogramsStarted(started=self.started, ends=self.ends, owner=self.owner)


class Measure:
    """The verbs of measuring."""

    def __init__(self, catalog: Catalog, store: Store, operations: Operations, runner: Runner) -> None:
        self._catalog = catalog
        self._store = store
        self._operations = operations
        self._runner = runner
        self._lock = threading.Lock()
        self._cooling = threading.Lock()
        self._cold_marks = 0
        self._recording: _Recording | None = None
        self._end: threading.Timer | None = None
        self.before_cold: Callable[[], None] = lambda: None

    def counters(self, *, clones: bool = True) -> Counters:
        """All counters now, those of clones if wanted. Raises CannotTell, NotReady."""
        return self._store.counters(self._active() if clones else {})

    @property
    def cold_marks(self) -> int:
        """How often the emptying of the cache began or ended: odd while it is under way."""
        return self._cold_marks

    def cold(self) -> Job:
        """Start emptying the cache. Raises InUse while that is being done."""
        if not self._cooling.acquire(blocking=False):
            raise InUse(
                "the cache is being emptied already", why="another command empties it", hint="wait for that operation"
            )
        job = self._operations.begin("cold", "cache", "emptying the cache")

        def work(job: Job) -> None:
            self._cold_marks += 1
            try:
                self.before_cold()
                self._store.cold(job.at)
            finally:
                self._cold_marks += 1
                self._cooling.release()
            job.succeed("cold")

        self._operations.run(job, work)
        return job

    def histograms(self) -> HistogramsStarted:
        """Who counts now. Raises NotFound when nobody does."""
        with self._lock:
            if self._recording is None:
                raise NotFound(
                    "no histograms are being recorded",
                    why="nobody started them, or their time is over",
                    hint="start them first",
                )
            return self._recording.view()

    def start_histograms(self, request: HistogramsRequest) -> HistogramsStarted:
        """Begin to count, until it is stopped or its time is over. Raises InUse when that runs already."""
        with self._lock:
            if self._recording is not None:
                now = self._recording.view()
                since, end = (time.strftime("%H:%M:%S", time.gmtime(moment)) for moment in (now.started, now.ends))
                raise InUse(
                    "histograms are being recorded already",
                    why=f"by {now.owner or 'somebody'}, since {since} and until {end} UTC at most",
                    hint="wait for that measurement",
                )
            tracer, missing = None, ""
            try:
                tracer = Biolatency.start(self._runner)
            except NotReady as error:
                missing = str(error)
            self._recording = _Recording(
                tracer, missing, self._clone_latencies(self._active()), self._coarse(), request
            )
            self._end = threading.Timer(request.seconds, self._give_up, (self._recording,))
            self._end.daemon = True
            self._end.start()
            return self._recording.view()

    def stop_histograms(self) -> Histograms:
        """Stop and return what was counted since the start. Raises NotFound when nothing runs."""
        with self._lock:
            recording = self._take()
            if recording is None:
                raise NotFound(
                    "no histograms are being recorded",
                    why="nobody started them, or their time is over",
                    hint="start them first",
                )
            names = self._active()
            clones = self._clone_latencies(names)
            disks: tuple[DiskHistogram, ...] = ()
            missing = recording.missing
            if recording.tracer is not None:
                try:
                    disks = self._disks(recording.tracer.stop())
                except CannotTell as error:
                    missing = str(error)
            if missing:
                now = self._coarse()
                disks = self._disks({disk: now[disk] - recording.coarse.get(disk, Histogram()) for disk in now})
                missing = f"means of a few seconds, since requests cannot be traced: {missing}"
            return Histograms(
                seconds=time.time() - recording.started,
                disks=disks,
                disks_missing=missing,
                clones=tuple(
                    CloneHistogram(
                        clone=names[thin_id], histogram=_view(now - recording.clones.get(thin_id, Histogram()))
                    )
                    for thin_id, now in sorted(clones.items())
                    if thin_id in names
                ),
            )

    def close(self) -> None:
        """End what runs."""
        with self._lock:
            _throw_away(self._take())

    def _give_up(self, recording: _Recording) -> None:
        with self._lock:
            if self._recording is recording:
                log.warning(
                    "histograms of %s were not fetched in time, and are thrown away", recording.owner or "nobody"
                )
                _throw_away(self._take())

    def _take(self) -> _Recording | None:
        recording, self._recording = self._recording, None
        if self._end is not None:
            self._end.cancel()
        return recording

    def coarse(self) -> tuple[DiskHistogram, ...]:
        """How long the disks have taken since this process began, from what the monitor saw."""
        return self._disks(self._store.disk_latencies())

    def latencies(self, after: str = "", most: int | None = None) -> CloneLatencies:
        """Of attached clones' requests since they were: of those whose names come after ``after``, of ``most`` of them.

        Those that cannot be read are left out.
        """
        later = sorted((name, thin_id) for thin_id, name in self._active().items() if name > after)
        names = {thin_id: name for name, thin_id in later[:most]}
        last = later[most - 1][0] if most is not None and len(later) > most else None
        return CloneLatencies(
            clones=tuple(
                CloneHistogram(clone=names[thin_id], histogram=_view(found))
                for thin_id, found in self._clone_latencies(names).items()
            ),
            next=last,
        )

    def latencies_of(self, clone: Clone) -> HistogramView | None:
        """The same of one clone; None when it is not attached, or they cannot be read."""
        attached = clone.client is not None and clone.state is CloneState.READY
        found = self._clone_latencies({clone.thin_id: clone.name} if attached else {}).get(clone.thin_id)
        return None if found is None else _view(found)

    def _coarse(self) -> Mapping[str, Histogram]:
        try:
            self._store.count_latencies()
        except CannotTell as error:
            log.warning("%s", error)
        return self._store.disk_latencies()

    def _active(self) -> dict[int, str]:
        clones = self._catalog.clones()
        return {c.thin_id: c.name for c in clones if c.client is not None and c.state is CloneState.READY}

    def _clone_latencies(self, clones: Mapping[int, str]) -> dict[int, Histogram]:
        found = {}
        for thin_id, name in clones.items():
            try:
                found[thin_id] = self._store.clone_latencies(thin_id)
            except HatcheryError as error:
                log.warning("clone %s has no latencies: %s", name, error)
        return found

    def _disks(self, found: Mapping[str, Histogram]) -> tuple[DiskHistogram, ...]:
        roles = self._store.disk_roles()
        # Other disks (the system's, the arrays on top) say nothing about the store's.
        return tuple(
            DiskHistogram(role=roles[disk], disk=disk, histogram=_view(histogram))
            for disk, histogram in sorted(found.items())
            if disk in roles
        )


def _view(histogram: Histogram) -> HistogramView:
    return HistogramView(counts=histogram.counts, seconds=histogram.seconds)


def _throw_away(recording: _Recording | None) -> None:
    if recording is None or recording.tracer is None:
        return
    try:
        recording.tracer.stop()
    except CannotTell as error:
        log.warning("%s", error)
