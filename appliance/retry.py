"""hatchery-retry: sends failed requests of clones down their path again (rule 7).

Each exported clone has a retry layer that holds a request when the thin volume below it answers with an error, as
happens hundreds of times while a dying NVMe drive is being taken out of the cache. The kernel tells of it (PATH_FAILED)
and this program reinstates the path, so that the guest never knows. An error that does not go away, such as a bad
sector under one clone, is handed to that guest after a bounded number of tries, and holding goes on for the next one.

In a thread of its own it also stops ephemeral clones when their drive dies (``appliance.fence``).

It stands apart from the daemon and keeps working when that is dead. While a drive dies it must not need one: after the
start it opens no file, starts no process, is locked into memory, and would rather lose a line of its log than wait.
"""

import argparse
import ctypes
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import NoReturn

from appliance import fence
from appliance.errors import HatcheryError, InUse, NotFound
from appliance.host import multipath
from appliance.host.dm import DeviceNumber, Dm
from appliance.host.notify import notify
from appliance.host.uevent import Uevents
from appliance.run import Runner

log = logging.getLogger(__name__)

UUID_PREFIX = "HATCHERY-clone-"
"""Device-mapper uuids of retry layers begin with it."""

HOLD_LIMIT_SECONDS = 60
"""After this long without a path the kernel lets held requests fail: the backstop for a dead hatchery-retry."""

_TIMEOUT_PARAMETER = Path("/sys/module") / multipath.MODULE / "parameters" / "queue_if_no_path_timeout_secs"
_SCAN_SECONDS = 5.0
_SCAN_SECONDS_WHILE_FAILING = 0.5


@dataclass(frozen=True, slots=True)
class Limits:
    """How patient to be. ``pauses``: seconds before each try, one for each try that is allowed within ``window``.

    The cache takes about a second to let go of a dead drive, and more than five were seen where processors had other
    work, so the tries must span several. They begin at once and get rarer: the kernel spins on a core while it holds a
    request, and a bad sector must not keep its guest for long.
    ``grace``: seconds that the error has to come out once it is let go.
    """

    pauses: tuple[float, ...] = (
        *(0.0, 0.01, 0.02, 0.03, 0.05, 0.05, 0.1, 0.1, 0.2, 0.2, 0.3, 0.5, 0.5),
        *(1.0,) * 7,
    )
    window: float = 120.0
    grace: float = 0.25


class Step(Enum):
    """What to do with a clone."""

    REINSTATE = auto()
    """Send what is held down the path again."""
    LET_GO = auto()
    """The same, but a request that fails again is answered with its error."""
    HOLD = auto()
    """Back to holding, with the path in use."""


@dataclass(slots=True)
class _Clone:
    tries: deque[float] = field(default_factory=deque)
    step: Step | None = None
    at: float = 0.0


class Policy:
    """Decides what to do when: pure, told about failures and the time in seconds of any steady clock."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._clones: dict[str, _Clone] = {}

    def failed(self, name: str, now: float) -> None:
        """The clone's path is seen to have failed. Saying so again changes nothing."""
        clone = self._clones.setdefault(name, _Clone())
        if clone.step is Step.HOLD:
            clone.at = now  # the error that was let go is out
        elif clone.step is None:
            while clone.tries and clone.tries[0] <= now - self._limits.window:
                clone.tries.popleft()
            count = len(clone.tries)
            patient = count < len(self._limits.pauses)
            clone.step = Step.REINSTATE if patient else Step.LET_GO
            clone.at = now + (self._limits.pauses[count] if patient else 0.0)

    def due(self, now: float) -> list[tuple[str, Step]]:
        """What is to be done now; counts as done."""
        steps = []
        for name, clone in self._clones.items():
            if clone.step is None or clone.at > now:
                continue
            steps.append((name, clone.step))
            if clone.step is Step.LET_GO:
                clone.tries.clear()
                clone.step, clone.at = Step.HOLD, now + self._limits.grace
            else:
                if clone.step is Step.REINSTATE:
                    clone.tries.append(now)
                clone.step = None
        return steps

    def next_at(self) -> float | None:
        """When ``due`` will have something; None if nothing is planned."""
        return min((clone.at for clone in self._clones.values() if clone.step is not None), default=None)

    def letting_go(self, name: str) -> bool:
        """Whether the clone is meant not to hold at this moment."""
        clone = self._clones.get(name)
        return clone is not None and clone.step is Step.HOLD

    def unsettled(self, now: float) -> bool:
        """Whether a clone failed so lately that more is to be expected."""
        return any(c.step is not None or (c.tries and c.tries[-1] > now - 10.0) for c in self._clones.values())

    def keep_only(self, names: set[str]) -> None:
        """Forget clones that are gone."""
        for name in self._clones.keys() - names:
            del self._clones[name]


class Keeper:
    """The policy, applied to the kernel's devices."""

    def __init__(self, dm: Dm, policy: Policy, clock: Callable[[], float] = time.monotonic) -> None:
        self._dm = dm
        self._policy = policy
        self._clock = clock
        self._paths: dict[str, DeviceNumber] = {}

    def scan(self) -> None:
        """Look at every retry layer: for events that were lost, and for what was as it is before the start."""
        names = {entry.name for entry in self._dm.list() if entry.uuid.startswith(UUID_PREFIX)}
        self._policy.keep_only(names)
        self._paths = {name: path for name, path in self._paths.items() if name in names}
        for name in names:
            self.look(name)
            self._guard(self._hold_if_not, name)

    def look(self, name: str) -> None:
        """Look at one retry layer and plan what it needs."""
        self._guard(self._look, name)

    def act(self) -> None:
        """Do what is due."""
        for name, step in self._policy.due(self._clock()):
            self._guard(self._do, name, step)

    def _look(self, name: str) -> None:
        status = multipath.path_status(self._dm, name)
        self._paths[name] = status.device
        if not status.active:
            self._policy.failed(name, self._clock())

    def _hold_if_not(self, name: str) -> None:
        if not self._policy.letting_go(name) and not multipath.is_queueing(self._dm, name):
            log.warning("%s did not hold failed requests: it does again", name)
            multipath.hold(self._dm, name)

    def _do(self, name: str, step: Step) -> None:
        path = self._paths[name]
        if step is Step.LET_GO:
            # In this order: what is held and would succeed goes down the path before errors are let through.
            log.error("%s: the error stays: its guest gets it", name)
            multipath.reinstate(self._dm, name, path)
            multipath.let_go(self._dm, name)
        else:
            if step is Step.HOLD:
                multipath.hold(self._dm, name)
            else:
                log.warning("%s: a request failed: trying it again", name)
            multipath.reinstate(self._dm, name, path)

    @staticmethod
    def _guard(verb: Callable[..., None], *arguments: object) -> None:
        """One clone's trouble must not end the service of the others; the next scan looks at it again."""
        try:
            verb(*arguments)
        except NotFound:
            pass  # removed meanwhile; the next scan forgets it
        except InUse:
            log.info("%s is suspended", arguments[0])
        except HatcheryError as error:
            log.error("%s: %s", arguments[0], error)  # noqa: TRY400 - a traceback would read source files


def serve(keeper: Keeper, policy: Policy, events: Uevents) -> NoReturn:
    """Work until the process ends. Nothing needs to be undone then."""
    scanned = 0.0
    while True:
        now = time.monotonic()
        pause = _SCAN_SECONDS_WHILE_FAILING if policy.unsettled(now) else _SCAN_SECONDS
        if now >= scanned + pause:
            scanned = now
            keeper.scan()
        keeper.act()
        planned = policy.next_at()
        wake = scanned + pause if planned is None else min(planned, scanned + pause)
        if not events.wait(wake - time.monotonic()):
            continue
        received = events.receive()
        if received is None:
            scanned = 0.0  # some were lost: look at everything
            continue
        for name in failed_clones(received):
            keeper.look(name)


def failed_clones(events: list[dict[str, str]]) -> set[str]:
    """Names of the clones whose path failed."""
    return {
        event["DM_NAME"]
        for event in events
        if event.get("DM_ACTION") == "PATH_FAILED" and event.get("DM_UUID", "").startswith(UUID_PREFIX)
    }


class _Log(logging.Handler):
    """Lines on standard error, dropped when nobody takes them: the log's own disk may be the one that died."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            os.write(2, f"{self.format(record)}\n".encode())
        except OSError:
            return


def _prepare_log() -> None:
    if not stat.S_ISCHR(os.fstat(2).st_mode):
        os.set_blocking(2, False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Log()])


def _lock_memory() -> None:
    lock_all = 1 | 2  # MCL_CURRENT | MCL_FUTURE, sys/mman.h
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(lock_all) != 0:
        log.warning("cannot lock memory: %s", os.strerror(ctypes.get_errno()))


def _set_backstop() -> None:
    try:
        _TIMEOUT_PARAMETER.write_text(f"{HOLD_LIMIT_SECONDS}\n", encoding="ascii")
    except OSError as error:
        log.warning("cannot limit the time that requests are held: %s", error)


def main() -> int:
    """Run ``hatchery-retry``; returns only with an error status."""
    argparse.ArgumentParser(prog="hatchery-retry", description="Retry failed requests of clones.").parse_args()
    _prepare_log()
    try:
        # The path selector too, so that nothing is left for the kernel to load later.
        Runner().run(["modprobe", "--all", "dm-multipath", "dm-round-robin"])
        _set_backstop()
        with Dm() as dm, Uevents() as events:
            policy = Policy()
            keeper = Keeper(dm, policy)
            keeper.scan()
            fence.start()
            _lock_memory()
            notify("READY=1")
            serve(keeper, policy, events)
    except HatcheryError as error:
        log.critical("%s", error)
        return 1
