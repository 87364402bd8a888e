"""A lab whose power is cut at points that were chosen, and that must come back each time (see inside/crash.py)."""

import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from appliance import wait
from appliance.errors import DeadlineExceeded
from tests.kernel.inside import crash
from tests.kernel.lab import InsideError, Job, Lab

LIFE = 240.0
"""Seconds from a start to the cut, on a very busy machine."""


class Extent(Enum):
    """After which changes of an operation the power is cut."""

    ALL = "all"
    LASTING = "those that last"
    ONE = "one of those that last"


@dataclass(frozen=True)
class Change:
    """One change of an operation; a lasting one is on the disks, others end with the kernel."""

    number: int
    label: str
    lasting: bool


@dataclass
class Power:
    """Cuts the power and counts."""

    lab: Lab
    seed: int = 0
    changes: dict[str, list[Change]] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    start_seconds: float = 10.0

    def learn(self, operations: list[str]) -> None:
        """Find out which changes each operation consists of, by doing it once."""
        found = self.lab.call(crash.points, operations, timeout=LIFE)
        for name, seen in found.items():
            self._note(name, seen)

    def learn_start(self) -> None:
        """Find out which changes the start consists of that puts right what the last cut left."""
        self._note("start", self._result(self.lab.begin_call(crash.start_points, timeout=LIFE)))

    def _note(self, name: str, seen: list[list[Any]]) -> None:
        self.changes[name] = [Change(number, *change) for number, change in enumerate(seen, 1)]
        for change in self.changes[name]:
            print(f"{name} {change.number:3} {'lasting' if change.lasting else '       '} {change.label}")

    def choose(self, operation: str, extent: Extent) -> list[int]:
        """The changes to cut after, by number. Those with equal words but for numbers count as one, unless all do."""
        changes = self.changes[operation]
        if extent is Extent.ALL:
            return [change.number for change in changes]
        kinds: dict[str, list[Change]] = {}
        for change in changes:
            kinds.setdefault(re.sub(r"[0-9]+", "N", change.label), []).append(change)
        dice = random.Random(f"{self.seed} {operation}")
        lasting = sorted(one.number for one in map(dice.choice, kinds.values()) if one.lasting)
        return [dice.choice(lasting)] if extent is Extent.ONE else lasting

    def cut(self, operation: str, number: int) -> None:
        """Recover from the last cut, check, begin an operation and cut the power after its change ``number``."""
        job = self.lab.begin_call(crash.cut, operation, number, timeout=LIFE)
        self._await(job)
        self.restart(f"{operation}, change {number}: {self.lab.text('reached')}")

    def cut_start(self, number: int) -> bool:
        """As ``cut``, of the start itself; false when it has fewer changes."""
        job = self.lab.begin_call(crash.cut_start, number, timeout=LIFE)
        reached = self._await(job)
        self.restart(f"start, change {number}: {self.lab.text('reached')}")
        return reached

    def cut_any_time(self, dice: random.Random) -> None:
        """Recover from the last cut, check, do operations in random order, and cut the power at any moment.

        One cut in four comes before the start is over, as far as one can tell from the last one.
        """
        began = time.monotonic()
        done = self.lab.shared / "done"
        job = self.lab.begin_call(crash.storm, dice.randrange(1 << 30), timeout=LIFE)
        if dice.random() < 0.25:
            end = began + dice.random() * self.start_seconds
        else:
            wait.until(lambda: done.exists() or job.done(), "the operations to begin", deadline=LIFE)
            end = time.monotonic() + dice.random() * self.start_seconds / 2
            self.start_seconds = time.monotonic() - began
        wait.until(lambda: time.monotonic() >= end or job.done(), "the moment", deadline=LIFE)
        if job.done():
            self._result(job)
        words = f"after {self.lab.text('done')} operations" if done.exists() else "while it started"
        self.restart(f"{words}, {time.monotonic() - began:.1f} s")

    def restart(self, words: str) -> None:
        """Cut the power now and switch on again."""
        self.history.append(words)
        self.lab.kill()
        for name in ("reached", "done"):
            (self.lab.shared / name).unlink(missing_ok=True)
        print(f"{len(self.history)}. {words}", flush=True)
        self.lab.start()

    def verify(self) -> None:
        """Recover from the last cut and check."""
        print(self._call(crash.verify))

    def end(self) -> None:
        """Check, stop everything in order, and count."""
        assert self._call(crash.finish) == []
        assert "check" not in self.lab.run(["hatchery-store", "up"]).stderr
        print(f"{len(self.history)} power cuts")

    def _await(self, job: Job) -> bool:
        reached = self.lab.shared / "reached"
        try:
            wait.until(lambda: reached.exists() or job.done(), "the point to cut at", deadline=LIFE)
        except DeadlineExceeded as error:
            error.add_note(self._story(job))
            raise
        if not reached.exists():
            self._result(job)
            return False
        return True

    def _call(self, function: Callable[..., Any]) -> Any:
        return self._result(self.lab.begin_call(function, timeout=LIFE))

    def _result(self, job: Job) -> Any:
        try:
            return job.result()
        except InsideError as error:
            error.add_note(self._story(job))
            raise

    def _story(self, job: Job) -> str:
        return "\n".join(["the last cuts:", *self.history[-5:], "", job.stderr])


def seed(config: pytest.Config) -> int:
    """Where chance begins: ``--seed``, or another number each day; it is printed, for a failure to be repeated."""
    found = int(config.getoption("seed")) or int(time.time() // 86400)
    print(f"--seed {found}")
    return found
