"""Plan, log, apply: how a wanted state is reached from the one that there is.

A planner is a pure function from what is wanted and what was observed to steps. A step is a frozen value that can be
shown (check mode prints exactly what would be done), compared in a test, and applied.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from appliance.errors import HatcheryError

log = logging.getLogger(__name__)

M = TypeVar("M", contravariant=True)


class Step(Protocol[M]):
    """One change. ``M`` is what it is applied to."""

    def describe(self) -> "Description":
        """What it does, for people."""

    def apply(self, machine: M) -> None:
        """Do it. Raises HatcheryError; then nothing after it is done."""


@dataclass(frozen=True, slots=True)
class Description:
    """A step in words: what is done, to what, and how."""

    action: str
    target: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.action} {self.target}" + (f": {self.detail}" if self.detail else "")


def apply(steps: Iterable[Step[M]], machine: M) -> tuple[Description, ...]:
    """Apply steps in their order, each logged first; returns what was done."""
    done = []
    for step in steps:
        described = step.describe()
        log.info("%s", described)
        step.apply(machine)
        done.append(described)
    return tuple(done)


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that could not be done, and why."""

    step: object
    description: Description
    error: HatcheryError


def apply_each(steps: Iterable[Step[M]], machine: M) -> tuple[Failure, ...]:
    """Apply steps in their order, those after a failed one too; for steps that do not need each other."""
    failures = []
    for step in steps:
        try:
            apply([step], machine)
        except HatcheryError as error:
            log.exception("%s", step.describe())
            failures.append(Failure(step, step.describe(), error))
    return tuple(failures)
