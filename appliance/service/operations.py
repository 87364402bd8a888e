"""Jobs that outlive their request: what they do, how far they are, how they ended."""

import logging
import threading
import time
from collections.abc import Callable

from appliance.errors import HatcheryError, NotFound
from appliance.schema import Operation, OperationError, OperationKind

log = logging.getLogger(__name__)

KEPT = 200
"""Finished operations that are remembered."""


class Job:
    """The handle by which a job tells its progress. Thread-safe."""

    def __init__(self, operation: Operation, tell: Callable[[Operation], None]) -> None:
        self._lock = threading.Lock()
        self._operation = operation
        self._tell = tell
        self.finished = threading.Event()

    @property
    def operation(self) -> Operation:
        """The operation as it is now."""
        with self._lock:
            return self._operation

    def phase(self, words: str, total_bytes: int | None = None) -> None:
        """A new phase begins; its progress counts from zero."""
        self._update(phase=words, done_bytes=0, total_bytes=total_bytes)

    def progress(self, done_bytes: int) -> None:
        """So many bytes of the phase are done."""
        self._update(done_bytes=done_bytes)

    def subject(self, words: str) -> None:
        """What it works on, once that is known better."""
        self._update(subject=words)

    def succeed(self, words: str = "done") -> None:
        """It ended well."""
        self._update(state="succeeded", phase=words, finished=time.time())
        self._tell(self.operation)
        self.finished.set()

    def fail(self, error: HatcheryError) -> None:
        """It ended with an error."""
        reason = OperationError(code=error.code, what=error.what, why=error.why, hint=error.hint)
        self._update(state="failed", phase="failed", error=reason, finished=time.time())
        self._tell(self.operation)
        self.finished.set()

    def _update(self, **changes: object) -> None:
        with self._lock:
            self._operation = self._operation.model_copy(update=changes)


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
            name = f"{job.operation.kind} of {job.operation.subject}"
            log.info("%s: started", name)
            try:
                work(job)
            except HatcheryError as error:
                log.warning("%s: %s", name, error)
                job.fail(error)
            else:
                log.info("%s: %s", name, job.operation.phase)
            finally:
                if not job.finished.is_set():
                    job.fail(HatcheryError(f"{name} ended unexpectedly", hint="see `journalctl -u hatcheryd`"))

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
            raise NotFound(f"operation {number} does not exist", why="operations are forgotten when hatcheryd restarts")
        return found
