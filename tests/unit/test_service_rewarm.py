"""A cache that comes back is filled again; one that was emptied on purpose is not."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import wait
from appliance.model import Health
from appliance.schema import CacheView, StoreView
from appliance.service.operations import Job, Operations
from appliance.service.rewarm import Rewarm, wanted
from tests.unit import service_harness
from tests.unit.service_harness import Box


def store(*, attached: bool) -> StoreView:
    cache = CacheView(
        health=Health.OK,
        attached=attached,
        mode="writethrough",
        size=1,
        settings_ok=True,
        bypassed_bytes=0,
        available_percent=None,
    )
    return StoreView(backend=None, meta=None, cache=cache, pool=None)


class Warmer:
    """Counts what is to be warmed; each is done at once."""

    def __init__(self, box: Box) -> None:
        self.asked: list[str] = []
        self.marks = 0
        self._operations = Operations()
        self.rewarm = Rewarm(box.service.core.catalog, self.warm, lambda: self.marks)

    def warm(self, ref: str) -> Job:
        self.asked.append(ref)
        job = self._operations.begin("warm", ref, "")
        job.succeed()
        return job

    def settle(self) -> None:
        def over() -> bool:
            return all(thread.name != "rewarm" for thread in threading.enumerate())

        wait.until(over, "the warming", deadline=10)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with service_harness.box(tmp_path) as made:
        yield made


@pytest.fixture
def warmer(box: Box) -> Warmer:
    box.add_template("few")
    box.add_template("many")
    box.add_template("none")
    box.service.clones.create("a", "few", None, None)
    box.service.clones.create("b", "many", 2, None)
    return Warmer(box)


def test_the_templates_of_clones_are_read_when_the_cache_is_back(warmer: Warmer) -> None:
    for attached in (True, False, False, True, True):
        warmer.rewarm.look(store(attached=attached))
    warmer.settle()
    assert warmer.asked == ["many@1", "few@1"]


def test_a_cache_that_was_there_from_the_beginning_is_left_alone(warmer: Warmer) -> None:
    warmer.rewarm.look(store(attached=True))
    warmer.rewarm.look(store(attached=True))
    warmer.settle()
    assert warmer.asked == []


def under_way(warmer: Warmer) -> None:
    warmer.marks = 1
    warmer.rewarm.look(store(attached=False))
    warmer.marks = 2


def over_since_the_look(warmer: Warmer) -> None:
    warmer.marks = 2
    warmer.rewarm.look(store(attached=False))


@pytest.mark.parametrize("case", [under_way, over_since_the_look])
def test_a_cache_that_was_emptied_by_command_stays_cold(warmer: Warmer, case: Callable[[Warmer], None]) -> None:
    warmer.rewarm.look(store(attached=True))
    case(warmer)
    for _ in range(3):
        warmer.rewarm.look(store(attached=True))
    warmer.settle()
    assert warmer.asked == []


def test_only_templates_with_clones_are_wanted(box: Box) -> None:
    box.add_template("alone")
    assert wanted(box.service.core.catalog) == ()
