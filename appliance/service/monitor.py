"""The store is looked at every two seconds: what changed is logged once, and what needs no decision is put right.

A look costs some files in sysfs, some ioctls and one block of each drive. On a slow or an emulated processor that is
much, and guests need it more: there the looks come less often. Nothing here stands in a guest's way.
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from appliance import wait
from appliance.errors import HatcheryError
from appliance.host import glance
from appliance.model import Health, Problem
from appliance.schema import StoreView
from appliance.service.ports import Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Pause between two looks."""

SHARE = 0.1
"""Of one processor, which looking may take."""

LONGEST_SECONDS = 20.0
"""The pause does not get longer by more than this."""

HEAL_TRIES = 5
"""How often a drive that came back is tried to be taken back, a look apart."""

_NUMBER = re.compile(r"\d+([.,]\d+)?")


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look saw: the problems, and the drives of the settings, which answer or are silent."""

    problems: tuple[Problem, ...] = ()
    silent: frozenset[str] = frozenset()
    answering: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """One line for the log; ``severity`` is OK for what is over."""

    severity: Health
    words: str


def changes(before: Seen, after: Seen) -> tuple[Change, ...]:
    """What is to be told of the difference between two looks. Pure.

    A problem whose numbers alone changed is the same problem: one that gets worse shows it by its severity.
    """
    old = {_kind(problem): problem for problem in before.problems}
    new = {_kind(problem): problem for problem in after.problems}
    begun = [Change(p.severity, _told(p)) for kind, p in new.items() if kind not in old]
    ended = [Change(Health.OK, f"over: {p.what}") for kind, p in old.items() if kind not in new]
    return (*begun, *ended)


def _kind(problem: Problem) -> tuple[Health, str]:
    return problem.severity, _NUMBER.sub("#", problem.what)


def _told(problem: Problem) -> str:
    return problem.what + (f" ({problem.hint})" if problem.hint else "")


def returned(before: Seen, after: Seen) -> frozenset[str]:
    """The drives that did not answer and do now; not those that another drive has replaced."""
    return before.silent & after.answering


def silence(drives: Iterable[str]) -> tuple[Problem, ...]:
    """Drives that do not answer, as problems."""
    hint = "check its cabling; if it is dead, replace it and run the roles: clones go on meanwhile"
    return tuple(Problem(Health.DEGRADED, f"{drive} does not answer", hint, part="drive") for drive in sorted(drives))


def longer_pause(cost: float) -> float:
    """Seconds beyond the usual pause until the next look, when one took ``cost`` seconds of processor time. Pure."""
    return min(max(0.0, cost / SHARE - cost - LOOK_SECONDS), LONGEST_SECONDS)


def hit_percent(store: Store) -> int | None:
    """How much of what was asked of the cache it had; None before anything was, and while it does not answer."""
    try:
        found = store.counters({}).cache_stats
    except HatcheryError:
        return None
    asked = found.hits + found.misses
    return 100 * found.hits // asked if asked else None


def store_words(store: StoreView, hit_percent: int | None, seen: Seen) -> str:
    """How the store is, to end a line for the service manager. ``hit_percent`` is the cache's, since it began. Pure."""
    said = [""]
    if store.cache is not None and not store.cache.attached:
        said.append("no cache")
    elif hit_percent is not None:
        said.append(f"cache hits {hit_percent} %")
    if store.pool is not None and store.pool.data_total:
        said.append(f"pool {100 * store.pool.data_used // store.pool.data_total} % full")
    if seen.problems:
        worst = max(seen.problems, key=lambda problem: list(Health).index(problem.severity))
        more = f" and {len(seen.problems) - 1} more" if len(seen.problems) > 1 else ""
        said.append(f"{worst.severity}: {worst.what}{more}")
    return ", ".join(said)


class _Healing(threading.Thread):
    """One attempt to take a drive back, which may take a minute, in which the next one may die."""

    def __init__(self, store: Store, left: int) -> None:
        super().__init__(name="heal", daemon=True)
        self.done = False
        self._store = store
        self._left = left

    def run(self) -> None:
        """Try; how it went is in ``done`` when the thread has ended."""
        try:
            self._store.heal()
        except HatcheryError as error:
            log.warning("the drive could not be taken back, %d more tries: %s", self._left, error)
        else:
            self.done = True


class Monitor:
    """The thread that looks. ``after`` is told each look's view, ``changed`` what a look found to be different.

    ``hooks`` are called after each look, and may raise HatcheryError. So may ``urgent``, which is cheap and is called
    every two seconds however slow the looks are.
    """

    def __init__(
        self,
        store: Store,
        hooks: Iterable[Callable[[], None]] = (),
        after: Callable[[StoreView, Seen], None] | None = None,
        changed: Callable[[Change], None] = lambda _: None,
        urgent: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._changed = changed
        self._urgent = urgent
        self._hooks = tuple(hooks)
        self._after = after or (lambda _view, _seen: None)
        self._seen = Seen()
        self._tries = 0
        self._healing: _Healing | None = None
        self._late = False
        """Whether a drive came back after the attempt under way had begun, which may have missed it."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing: set[int] = set()

    @property
    def seen(self) -> Seen:
        """What the last look saw."""
        return self._seen

    def start(self) -> None:
        """Look from now on."""
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more. One that waits for a drive is not waited for."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(LOOK_SECONDS)

    def look(self) -> None:
        """Look once: log what changed, heal what came back, call the hooks."""
        with glance.one():
            self._look()

    def _look(self) -> None:
        before = self._seen
        drives = self._store.drives()
        silent = frozenset(path for path, answers in drives.items() if not answers)
        answering = frozenset(drives) - silent
        # Known at once: to look at the rest may take longer while a drive is dying.
        self._seen = Seen(before.problems, silent, answering)
        view, problems = self._store.look()
        self._seen = Seen((*silence(silent), *problems), silent, answering)
        for change in changes(before, self._seen):
            level = {Health.OK: logging.INFO, Health.DEGRADED: logging.WARNING, Health.FAILED: logging.ERROR}
            log.log(level[change.severity], "%s", change.words)
            self._changed(change)
        self._take_back(returned(before, self._seen))
        for number, hook in enumerate((self._urgent, *self._hooks)):
            self._call(number, hook)
        self._after(view, self._seen)
        log.debug("looked at the store: %d problem(s)", len(self._seen.problems))

    def _take_back(self, back: frozenset[str]) -> None:
        if self._healing is not None and not self._healing.is_alive():
            if self._healing.done and not self._late:
                self._tries = 0
            self._healing, self._late = None, False
        if back:
            log.info("%s: answers again", ", ".join(sorted(back)))
            self._tries = HEAL_TRIES
            self._late = self._healing is not None
        if self._tries and self._healing is None:
            self._tries -= 1
            self._healing = _Healing(self._store, self._tries)
            self._healing.start()

    def settle(self, deadline: float) -> None:
        """Wait until nothing is being taken back. Raises DeadlineExceeded."""
        wait.until(
            lambda: self._healing is None or not self._healing.is_alive(),
            "the drive to be taken back",
            deadline=deadline,
        )

    def _call(self, number: int, hook: Callable[[], None]) -> None:
        try:
            hook()
        except HatcheryError as error:
            if number not in self._failing:
                log.warning("%s", error)
            self._failing.add(number)
        else:
            self._failing.discard(number)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            if time.monotonic() < due:
                self._call(0, self._urgent)
                continue
            begin = time.thread_time()
            try:
                self.look()
            except HatcheryError as error:
                log.warning("the store could not be looked at: %s", error)
            due = time.monotonic() + longer_pause(time.thread_time() - begin)
