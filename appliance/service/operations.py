"""Jobs that outlive their request: what they do, how far they are, how they ended.

Who does a job says from when on, and how, it can be cancelled: ``cancellable`` takes what breaks it off. Before the
step that cannot be taken back it calls ``settle``. In between, whatever error the breaking off makes is no failure.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable

from appliance import journal
from appliance.errors import Cancelled, HatcheryError, NotFound, Refused
from appliance.schema import Operation, OperationError, OperationKind, OperationState

log = logging.getLogger(__name__)

KEPT = 200
"""Finished operations that are remembered."""

NEVER = {
    "cold": "the cache is neither whole nor empty until it ends",
    "fetch": "clones use the template already: it goes when they and it are removed",
}
"""Kinds of jobs that cannot be cancelled at any time, and why."""


OF_TEMPLATES = frozenset({"import", "warm", "learn", "promote", "fetch"})
"""Kinds of jobs whose subject is a template."""


class Job:
    """The handle by which a job tells its progress. Thread-safe."""

    def __init__(self, operation: Operation, tell: Callable[[Operation], None]) -> None:
        self._lock = threading.Lock()
        self._operation = operation
        self._tell = tell
        self._break_off: Callable[[], None] | None = None
        self._unwanted = ""
        self.finished = threading.Event()

    @property
    def operation(self) -> Operation:
        """The operation as it is now."""
        with self._lock:
            return self._operation

    @property
    def unwanted(self) -> bool:
        """Whether somebody cancelled it."""
        with self._lock:
            return bool(self._unwanted)

    def phase(self, words: str, total_bytes: int | None = None) -> None:
        """A new phase begins; its progress counts from zero."""
        self._update(phase=words, done_bytes=0, total_bytes=total_bytes, counts="", done_count=0, total_count=None)

    def progress(self, done_bytes: int) -> None:
        """So many bytes of the phase are done."""
        self._update(done_bytes=done_bytes)

    def at(self, words: str, done: int, total: int, things: str = "") -> None:
        """It stands so now: ``done`` bytes, or ``things`` where these are counted."""
        if things:
            self._update(phase=words, counts=things, done_count=done, total_count=total)
        else:
            self._update(phase=words, done_bytes=done, total_bytes=total, counts="", done_count=0, total_count=None)

    def subject(self, words: str) -> None:
        """What it works on, once that is known better."""
        self._update(subject=words)

    def cancellable(self, break_off: Callable[[], None]) -> None:
        """From now on it can be cancelled. ``break_off`` makes it end soon, by an error, and does not wait for that."""
        with self._lock:
            self._break_off = break_off
            self._operation = self._operation.model_copy(update={"cancellable": True})

    def settle(self) -> None:
        """From now on it cannot be cancelled. Raises Cancelled if it was."""
        with self._lock:
            if self._unwanted:
                raise self._cancelled()
            self._break_off = None
            self._operation = self._operation.model_copy(update={"cancellable": False})

    def check(self) -> None:
        """Raise Cancelled if it was cancelled."""
        with self._lock:
            if self._unwanted:
                raise self._cancelled()

    def cancel(self, why: str = "somebody asked for it") -> Operation:
        """Have it break off; it ends soon after. One that has ended, or was cancelled before, stays as it is.

        Raises Refused where it cannot be broken off, or not any more.
        """
        with self._lock:
            if self._operation.state != "running" or self._unwanted:
                return self._operation
            if self._break_off is None:
                name = _name(self._operation)
                raise Refused(
                    f"the {name} cannot be cancelled",
                    why=NEVER.get(self._operation.kind, "it is past the step that can be taken back"),
                    hint="wait for its end: `hatchery operation show`",
                )
            self._unwanted, break_off = why, self._break_off
            self._operation = self._operation.model_copy(update={"cancellable": False, "phase": "being cancelled"})
        log.info("%s: to be cancelled, %s", _name(self.operation), why)
        # Outside of the lock: it may make the job's thread report at once.
        break_off()
        return self.operation

    def succeed(self, words: str = "done") -> None:
        """It ended well."""
        self._end("succeeded", words)

    def fail(self, error: HatcheryError, *, bug: bool = False) -> None:
        """It ended with an error, which is no failure if it was cancelled before and the error is no bug."""
        with self._lock:
            unwanted = bool(self._unwanted) and not bug
            if unwanted:
                error = self._cancelled()
        reason = OperationError(code=error.code, what=error.what, why=error.why, hint=error.hint)
        state: OperationState = "cancelled" if unwanted else "failed"
        self._end(state, state, reason)

    def _end(self, state: OperationState, phase: str, error: OperationError | None = None) -> None:
        with self._lock:
            self._break_off = None
        self._update(state=state, phase=phase, error=error, cancellable=False, finished=time.time())
        self._tell(self.operation)
        self.finished.set()

    def _cancelled(self) -> Cancelled:
        return Cancelled(f"the {_name(self._operation)} was cancelled", why=self._unwanted)

    def _update(self, **changes: object) -> None:
        with self._lock:
            if self._unwanted and "state" not in changes:
                changes.pop("phase", None)
            self._operation = self._operation.model_copy(update=changes)


def _name(operation: Operation) -> str:
    return f"{operation.kind} of {operation.subject}"


def _about(operation: Operation) -> dict[str, str]:
    """What its lines in the log are about."""
    named = {"operation": operation.id}
    return {**named, "template": operation.subject} if operation.kind in OF_TEMPLATES else named


class Operations:
    """All jobs of this process. ``tell`` is told of each that begins, and of each that ends; it does not wait."""

    def __init__(self, tell: Callable[[Operation], None] = lambda _: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._count = 0

    def begin(self, kind: OperationKind, subject: str, phase: str) -> Job:
        """A new operation."""
        with self._lock:
            self._count += 1
            # The start time keeps ids of one process apart from those of the next.
            number = f"{int(time.time()):x}-{self._count}"
            job = Job(
                Operation(id=number, kind=kind, subject=subject, state="running", phase=phase, started=time.time()),
                self._tell,
            )
            self._jobs[number] = job
            done = [key for key, old in self._jobs.items() if old.finished.is_set()]
            for key in done[: max(0, len(done) - KEPT)]:
                del self._jobs[key]
        self._tell(job.operation)
        return job

    def run(self, job: Job, work: Callable[[Job], None]) -> threading.Thread:
        """Do ``work`` in a thread of its own. Its HatcheryError becomes the operation's; any other is a bug, logged."""

        def body() -> None:
            with journal.about(**_about(job.operation)):
                attempt()

        def attempt() -> None:
            name = _name(job.operation)
            log.info("%s: started", name)
            try:
                work(job)
            except HatcheryError as error:
                if job.unwanted:
                    log.info("%s: cancelled, and taken back: %s", name, error)
                else:
                    log.warning("%s: %s", name, error)
                job.fail(error)
            else:
                log.info("%s: %s", name, job.operation.phase)
            finally:
                if not job.finished.is_set():
                    bug = sys.exception()
                    why = (
                        "it did not say how it ended"
                        if bug is None
                        else f"a fault of the program: {type(bug).__name__}"
                    )
                    job.fail(HatcheryError(f"the {name} ended unexpectedly", why=why), bug=True)

        thread = threading.Thread(target=body, name=f"operation {job.operation.id}", daemon=True)
        thread.start()
        return thread

    def list(self) -> tuple[Operation, ...]:
        """Newest first."""
        with self._lock:
            jobs = list(self._jobs.values())
        return tuple(job.operation for job in reversed(jobs))

    def job(self, number: str) -> Job:
        """The job of that id. Raises NotFound."""
        with self._lock:
            found = self._jobs.get(number)
        if found is None:
            raise NotFound(
                f"operation {number} does not exist",
                why="operations are forgotten when hatcheryd restarts",
                hint="see which there are: `hatchery operation list`",
            )
        return found
