"""Power cuts, from inside: each function does one machine's life from its start to the cut.

What is about to be done stands in a file that the host keeps, with the state before and after it, so that the next
life can tell whether it has the old or the new one.
"""

import json
import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.kernel.inside.agent import write_whole
from tests.kernel.inside.crash_box import LOAD, Box
from tests.kernel.inside.crash_load import Writer
from tests.kernel.inside.crash_operations import OPERATIONS, expected
from tests.kernel.inside.crash_points import Points

log = logging.getLogger(__name__)

_INTENT = Path("/lab/intent.json")
_DONE = Path("/lab/done")


def furnish() -> None:
    """A template and the clone of the guest that writes all the time."""
    box = _box()
    box.begin()
    box.bring("base", 1)
    box.clone(LOAD)


def points(wanted: list[str]) -> dict[str, list[list[Any]]]:
    """Do operations to their end, and return the changes that each consists of: in words, and whether it lasts."""
    box = _recovered()
    found = {}
    with _load(box):
        for name in wanted:
            seen = Points()
            _run(box, name, seen)
            found[name] = [[point.label, point.lasting] for point in seen.seen]
    return found


def cut(name: str, number: int) -> int:
    """Recover, check, and do an operation up to its change ``number``: there the host cuts the power.

    Returns how many changes there were when it came to its end instead.
    """
    box = _recovered()
    seen = Points(number)
    with _load(box):
        _run(box, name, seen)
    return len(seen.seen)


def cut_start(number: int) -> int:
    """As ``cut``, of the start itself: of the store and of the service that finds what the last life left."""
    seen = Points(number)
    with seen.watch():
        _box().begin()
    return len(seen.seen)


def start_points() -> list[list[Any]]:
    """Start what the last life left, and return the changes that this consists of, as ``points`` does."""
    seen = Points()
    with seen.watch():
        _box().begin()
    return [[point.label, point.lasting] for point in seen.seen]


def storm(seed: int) -> None:
    """Recover, check, and do operations in random order until the power goes."""
    box = _recovered()
    dice = random.Random(seed)
    with _load(box):
        _DONE.write_text("0", encoding="ascii")
        for count in range(1, 1_000_000):
            _run(box, dice.choice([name for name, each in OPERATIONS.items() if not each.once]), Points())
            _DONE.write_text(str(count), encoding="ascii")


def verify() -> dict[str, Any]:
    """Recover and check; what was found, for the report."""
    box = _recovered()
    plan = box.service.plan()
    assert not plan.steps, plan.steps
    assert not plan.problems, plan.problems
    return {"metadata": box.check(), "stamps": _writer(box).check(box.template_content("base"))}


def finish() -> list[str]:
    """Take everything down in order, and say what did not go."""
    box = _recovered()
    return box.end()


def _box() -> Box:
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(message)s", stream=sys.stderr)
    log.info("up for %s s", Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    box = Box()
    log.info("the store is up")
    return box


def _recovered() -> Box:
    """The store and the service after a start that had to put right whatever there was. Raises AssertionError."""
    box = _box()
    box.begin()
    intent = json.loads(_INTENT.read_text(encoding="utf-8")) if _INTENT.exists() else None
    if intent:
        OPERATIONS[intent["operation"]].settle(box)
    outcome = box.check()
    log.info("recovered; the check of the metadata: %s", outcome)
    if intent and intent["before"]:
        now = box.state()
        old, new = now == intent["before"], now == intent["after"]
        assert new or (old and not intent["ended"]), (
            f"{intent['operation']} (ended: {intent['ended']}) left neither the old nor the new state:\n"
            f"old {json.dumps(intent['before'], sort_keys=True)}\n"
            f"new {json.dumps(intent['after'], sort_keys=True)}\n"
            f"now {json.dumps(now, sort_keys=True)}"
        )
    _write_intent(None)
    _writer(box).check(box.template_content("base"))
    log.info("everything was compared")
    return box


def _run(box: Box, name: str, seen: Points) -> None:
    operation = OPERATIONS[name]
    # While it is prepared, nothing is known but that all must be in order afterwards.
    _write_intent({"operation": name, "before": None})
    operation.prepare(box)
    before = box.state()
    intent = {"operation": name, "before": before, "after": expected(operation, before), "ended": False}
    _write_intent(intent)
    with seen.watch():
        operation.run(box)
    _write_intent({**intent, "ended": True})
    now = box.state()
    assert now == intent["after"], f"{name} led to {now}, not to {intent['after']}"


@contextmanager
def _load(box: Box) -> Iterator[None]:
    """The guest that writes all the time."""
    writer = _writer(box)
    writer.begin()
    yield
    writer.end()


def _write_intent(intent: dict[str, Any] | None) -> None:
    write_whole(_INTENT, json.dumps(intent))


def _writer(box: Box) -> Writer:
    return Writer(LOAD, box.service.core.catalog.clone(LOAD).size)
