"""Learning what clones read while they boot, by recording boots as they happen.

By itself for a template without a boot set of its own: the boots of its first clones are recorded until there are
RUNS. And on request, for the next boots whatever there is. And later one boot a day, which does not change the boot
set but tells how much of it boots still read. A clone is listened to from before it is exported until its
boot is over; one that never boots makes room for others. Only when it is exported for the first time: later it reads
what it wrote, which tells nothing of its template. Nothing here stands in a guest's way, and nothing that fails here
stops a clone from being attached.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Collection

from appliance.catalog import Clone, Template
from appliance.errors import Cancelled, HatcheryError, InvalidInput, NotReady
from appliance.model import CloneState, TemplateRef, TemplateState
from appliance.schema import LearningView
from appliance.service.asked_boots import Asked
from appliance.service.core import Core
from appliance.service.operations import Job, Operations
from appliance.service.ports import Store, Tracer
from appliance.service.recording import LEAST, Keep, Recording

log = logging.getLogger(__name__)

RUNS = 3
"""Boots that a template's boot set is learned from."""

JUDGE_SECONDS = 24 * 3600.0
"""Time between two boots that are recorded to judge a boot set."""

MOST_RUNS = 20
"""Boots that can be asked for at once."""

SLOTS = 16
"""Clones that are listened to at a time."""

LOOK_SECONDS = 1.0
"""Pause between two looks: each takes processor time that guests may need."""

HASTE_SECONDS = 0.1
MANY = 2000
"""After a look that found so many requests the next comes soon. The kernel has room for more than that of each
processor (``appliance.host.trace``), so that a crowd that begins to boot at once is not lost either."""

CLOSE_SECONDS = 60.0
"""After so long without any the kernel's buffers are given back."""

DEAF_SECONDS = 60.0
"""After an error nothing is recorded for so long; then it is tried again."""


class Learning:
    """Listens to clones, and hands on each boot."""

    def __init__(
        self,
        core: Core,
        operations: Operations,
        tracer: Tracer,
        store: Store,
        keep: Keep,
    ) -> None:
        """``keep`` takes each recorded boot."""
        self._core = core
        self._operations = operations
        self._tracer = tracer
        self._store = store
        self._keep = keep
        self._lock = threading.RLock()
        self._recordings: dict[str, Recording] = {}
        self._ended: list[Recording] = []
        self._asked: dict[int, Asked] = {}
        # Thin ids only grow. Of clones that are older than this process nobody knows whether they were exported.
        self._known = max((clone.thin_id for clone in core.catalog.clones()), default=0)
        self._used: set[int] = set()
        self._came = 0
        """Requests that the last look found."""
        self._deaf = ""
        self._deaf_since = 0.0
        self._idle_since: float | None = None
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    # --- by command

    def learn(self, text: str, runs: int = RUNS) -> Job:
        """Record the next ``runs`` boots of a template's clones; asked again, that many from then on.

        Clones that are attached already and have not booted count. Raises InvalidInput, NotFound, NotReady.
        """
        if not 1 <= runs <= MOST_RUNS:
            raise InvalidInput(f"{runs} boots cannot be asked for", why=f"it must be 1 to {MOST_RUNS}")
        template = self._core.catalog.template(TemplateRef.parse(text))
        if template.state is not TemplateState.READY:
            raise NotReady(
                f"template {template.ref} cannot be learned",
                why=f"it is {template.state}",
                hint=f"wait until it is ready: `hatchery template show {template.ref}`",
            )
        self._tracer.check()
        if self._deaf:
            self.begin()
        with self._lock:
            asked = self._asked.get(template.thin_id)
            if asked is None:
                job = self._operations.begin("learn", template.ref, "waiting for a clone to boot")
                asked = self._asked[template.thin_id] = Asked(template, job, runs)
                job.cancellable(lambda: self._unask(template))
            asked.runs, asked.done = runs, 0
            asked.tell(self._of(template.thin_id))
        with self._core.lock:
            self._take_up()
        return asked.job

    def _unask(self, template: Template) -> None:
        """The boots that were asked for are not wanted any more; those that were recorded are kept."""
        with self._lock:
            asked = self._asked.pop(template.thin_id, None)
            if asked is None:
                return  # the last of them has just come
            self._drop_unwanted(template.thin_id)
        asked.job.fail(Cancelled(f"the learn of {template.ref} was cancelled", why="somebody asked for it"))

    def view(self, template: Template) -> LearningView | None:
        """What is being learned of a template; None when nothing is."""
        with self._lock:
            missing = self._missing(template.thin_id)
            here = self._of(template.thin_id)
            if not missing or template.state is not TemplateState.READY:
                return None
            return LearningView(
                missing=missing,
                listening=len(here),
                recording=tuple(each.clone.name for each in here if each.begun),
                cannot=self._deaf,
            )

    # --- as clones come and go; the caller holds the service's lock

    def offered(self, clones: Collection[Clone]) -> None:
        """Clones are about to be exported: listen to those whose boots are wanted. Never raises HatcheryError."""
        self._listen([clone for clone in clones if clone.thin_id > self._known and clone.thin_id not in self._used])

    def withdrawn(self, clone: Clone) -> None:
        """A clone is not exported any more; what was recorded of it by now may be a boot."""
        with self._lock:
            self._used.add(clone.thin_id)
            found = next((each for each in self._recordings.values() if each.clone.thin_id == clone.thin_id), None)
            if found is None:
                return
            try:
                self._drain()
            except HatcheryError as error:
                self._fall_deaf(error)
            # None when the look itself ended it.
            if self._recordings.pop(found.device, None) is not None and found.is_boot:
                self._ended.append(found)
            self._watch()
        self._wake.set()

    # --- in the background

    def start(self) -> None:
        """Begin to listen, and to look every now and then."""
        self.begin()
        self._thread = threading.Thread(target=self._run, name="learning", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Listen to clones that were attached and not booted before."""
        with self._lock:
            try:
                self._tracer.close()
                self._tracer.check()
            except HatcheryError as error:
                if str(error) != self._deaf:
                    log.info("boots are not learned: %s", error)
                self._deaf, self._deaf_since = str(error), time.monotonic()
                return
            self._deaf = ""
        with self._core.lock:
            self._take_up()

    def close(self) -> None:
        """Listen no more."""
        self._stopped.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)
        with self._lock:
            self._recordings.clear()
            try:
                self._tracer.close()
            except HatcheryError as error:
                log.warning("%s", error)

    def look(self) -> None:
        """Look once: take in what was asked of the clones, and hand on the boots that are over."""
        if self._deaf and time.monotonic() - self._deaf_since >= DEAF_SECONDS:
            self.begin()
        with self._lock:
            try:
                self._drain()
                self._end_those_that_are_over()
            except HatcheryError as error:
                self._fall_deaf(error)
            self._watch()
            ended, self._ended = self._ended, []
            for asked in list(self._asked.values()):
                self._check_asked(asked)
        for recording in ended:
            self._hand_on(recording)

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait(self.pause())
            self._wake.clear()
            if not self._stopped.is_set():
                self._look_safely()

    def pause(self) -> float | None:
        """Seconds until the next look; None until something wakes us."""
        with self._lock:
            if self._deaf:
                return DEAF_SECONDS
            if not self._recordings and not self._asked and self._idle_since is None:
                return None
            return HASTE_SECONDS if self._came >= MANY else LOOK_SECONDS

    def _look_safely(self) -> None:
        try:
            self.look()
        except Exception as error:
            # Whatever it is, a catalog without room above all: later boots are to be learned from.
            log.exception("boots could not be looked at")
            why = NotReady("boots cannot be recorded", why=str(error), hint="see `journalctl -u hatcheryd`")
            with self._lock:
                self._fall_deaf(error)
                for asked in self._asked.values():
                    asked.job.fail(why)
                self._asked.clear()

    def _missing(self, thin_id: int) -> int:
        """How many boots of a template are wanted."""
        asked = self._asked.get(thin_id)
        return asked.runs - asked.done if asked is not None else self._core.catalog.boots_to_learn(thin_id, RUNS)

    def _wanted(self, thin_id: int) -> bool:
        """Whether a boot of a template is to be recorded, to learn from it or to judge what was learned."""
        if self._missing(thin_id):
            return True
        judged = self._core.catalog.boot_set_judged(thin_id)
        return judged is not None and self._core.now() - judged >= JUDGE_SECONDS

    def _of(self, thin_id: int) -> list[Recording]:
        return [each for each in self._recordings.values() if each.template.thin_id == thin_id]

    def _take_up(self) -> None:
        """With the service's lock: listen to attached clones whose boots are wanted and that have not booted yet.

        What a clone's device has read tells that, if the clone is not older than the device can be.
        """
        started = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._listen(
            [
                clone
                for clone in self._core.catalog.clones()
                if clone.client is not None
                and clone.state is CloneState.READY
                and clone.created >= started
                and clone.thin_id not in self._used
            ]
        )

    def _listen(self, clones: Collection[Clone]) -> None:
        """To those whose boots are wanted, and may teach something."""
        clones = [clone for clone in clones if clone.thin_id not in self._core.untaught]
        if self._deaf or not clones:
            return
        wanted = {template for template in {clone.template for clone in clones} if self._wanted(template)}
        with self._lock:
            try:
                for clone in clones:
                    if clone.template not in wanted:
                        continue
                    found = self._store.exported(clone.thin_id)
                    if found is None or found[1] >= LEAST or not self._make_room():
                        continue
                    block = self._core.pool_of(clone.pool).status().block_bytes
                    template = self._core.catalog.template_of_id(clone.template)
                    self._recordings[found[0]] = Recording(template, clone, found[0], block)
            except HatcheryError as error:
                log.warning("boots are not learned: %s", error)
            self._watch()
        self._wake.set()

    def _make_room(self) -> bool:
        """Whether there is a slot; the clone that has been silent for longest loses its own."""
        if len(self._recordings) < SLOTS:
            return True
        silent = next((device for device, each in self._recordings.items() if not each.begun), None)
        return silent is not None and self._recordings.pop(silent) is not None

    def _watch(self) -> None:
        try:
            if self._recordings:
                self._idle_since = None
                self._tracer.watch(frozenset(self._recordings))
            elif self._idle_since is None:
                self._idle_since = time.monotonic()
                self._tracer.watch(frozenset())
            elif time.monotonic() - self._idle_since > CLOSE_SECONDS:
                self._idle_since = None
                self._tracer.close()
        except HatcheryError as error:
            self._fall_deaf(error)

    def _fall_deaf(self, error: Exception) -> None:
        log.warning("boots are not learned for now: %s", error)
        self._deaf, self._deaf_since = str(error), time.monotonic()
        self._recordings.clear()
        with contextlib.suppress(HatcheryError):
            self._tracer.close()

    def _drain(self) -> None:
        batch = self._tracer.read()
        self._came = len(batch.requests)
        for request in batch.requests:
            recording = self._recordings.get(request.device)
            if recording is not None:
                recording.add(request)
        if batch.lost:
            log.warning("the kernel lost requests of clones that boot: their boots are not learned from")
            for each in [each for each in self._recordings.values() if each.begun]:
                del self._recordings[each.device]

    def _end_those_that_are_over(self) -> None:
        now = time.monotonic_ns() // 1000
        for device, recording in list(self._recordings.items()):
            if recording.clone.thin_id in self._core.lost:
                del self._recordings[device]
            elif recording.over(now):
                if recording.is_boot:
                    del self._recordings[device]
                    self._ended.append(recording)
                else:
                    recording.forget()

    def _check_asked(self, asked: Asked) -> None:
        try:
            self._core.catalog.template_of_id(asked.template.thin_id)
            if self._deaf:
                raise NotReady("boots cannot be recorded", why=self._deaf, hint="see `journalctl -u hatcheryd`")
        except HatcheryError as error:
            del self._asked[asked.template.thin_id]
            asked.job.fail(error)
        else:
            asked.tell(self._of(asked.template.thin_id))

    def _hand_on(self, recording: Recording) -> None:
        template, name = recording.template, recording.clone.name
        with self._lock:
            if not self._wanted(template.thin_id):
                return  # others were faster
            learned = self._missing(template.thin_id) > 0
            asked = self._asked.get(template.thin_id)
            of = None if asked is None else asked.done + 1
        log.info(
            "a boot of %s was recorded: %d reads of %d bytes", name, len(recording.reads), recording.total,
            extra={"about": {"clone": name, "template": template.ref}},
        )  # fmt: skip
        try:
            if learned:
                self._keep.learn(template, name, recording.reads, of)
            else:
                self._keep.judge(template, recording.reads)
        except HatcheryError as error:
            log.warning("the boot of %s is not learned from: %s", name, error)
            return
        with self._lock:
            asked = self._asked.get(template.thin_id)
            if learned and asked is not None:
                asked.done += 1
                asked.tell(self._of(template.thin_id))
                if asked.done >= asked.runs:
                    del self._asked[template.thin_id]
                    asked.job.succeed(f"{asked.done} boot(s) recorded")
            self._drop_unwanted(template.thin_id)

    def _drop_unwanted(self, thin_id: int) -> None:
        if not self._wanted(thin_id):
            for each in self._of(thin_id):
                del self._recordings[each.device]
            self._watch()
