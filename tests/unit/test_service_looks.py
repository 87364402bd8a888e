"""Boot sets that are not in the cache: what the status, the service manager and the doctor say of them, and when."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from appliance import wait
from appliance.bootset.extents import PAGE
from appliance.model import Extent, Health
from appliance.schema import ProblemView
from appliance.service import parts, shares
from appliance.update import trial
from tests.unit import boot_set_box
from tests.unit.boot_set_box import CACHE, OWN, as_file, missing, settled, store
from tests.unit.service_harness import IMAGE, Box

SET = 66 * PAGE
WORDS = "the boot set of debian@1 is not wholly in the cache"


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A service that has seen its cache, which has room for one boot set, and a template that was read whole."""
    monkeypatch.setattr(shares, "SHARE", SET / CACHE)
    with boot_set_box.box(tmp_path, monkeypatch) as made:
        made.service.keeping.look(store())
        at_rest(made)
        made.add_template("debian")
        settled(made)
        yield made


def at_rest(box: Box) -> None:
    wait.until(lambda: all(thread.name != "boot sets" for thread in threading.enumerate()), "the look", deadline=10)
    settled(box)


def give(box: Box, ref: str = "debian", *extents: Extent, sha256: str | None = OWN) -> None:
    """Give a template a boot set, and wait until it was read."""
    box.service.put_boot_set(ref, as_file(extents or boot_set_box.EXTENTS, sha256))
    settled(box)


def told(box: Box) -> list[str]:
    """What the status says is wrong."""
    status = box.service.status()
    assert status.health is (Health.DEGRADED if status.problems else Health.OK)
    return [problem.what for problem in status.problems]


def examined(box: Box) -> list[str]:
    """What the doctor says of rule 14."""
    [check] = [check for check in box.service.examine().checks if check.rule == 14]
    assert check.state != "unknown"
    return [problem.what for problem in check.problems]


def test_a_boot_set_that_did_not_get_in_is_told_until_it_is_in(box: Box) -> None:
    give(box)
    assert told(box) == []
    box.store.flows = missing()
    give(box)
    [problem] = box.service.status().problems
    assert problem == ProblemView(severity=Health.DEGRADED, what=WORDS, hint=problem.hint, rule=14, part="cache")
    assert "`hatchery template warm debian@1`" in problem.hint
    assert (told(box), examined(box)) == ([WORDS], [WORDS])
    assert box.service.prefetching.warm("debian").finished.wait(10)
    settled(box)
    assert told(box) == [WORDS], "it did not get in this time either"
    box.store.flows = lambda: (0, 0)
    assert box.service.prefetching.warm("debian").finished.wait(10)
    settled(box)
    assert (told(box), examined(box)) == ([], [])


def test_a_boot_set_that_has_no_room_is_told_until_it_has_or_is_read_by_command(box: Box) -> None:
    give(box, "debian", Extent(0, SET + PAGE))
    for _ in range(2):
        box.service.keeping._next_check = 0.0
        box.service.keeping.look(store())
        at_rest(box)
        assert told(box) == [WORDS]
    assert box.service.prefetching.warm("debian").finished.wait(10)
    settled(box)
    assert told(box) == []


def test_a_degraded_cache_stands_in_no_updates_way(box: Box) -> None:
    box.store.flows = missing()
    give(box)
    boot_sets = [problem for problem in box.service.status().problems if problem.rule == 14]
    assert len(boot_sets) == 1
    status = box.service.status()
    healthy = status.model_copy(update={"problems": (), "health": Health.OK})
    assert trial.judge(status) == trial.judge(healthy)


def test_one_that_is_read_anew_or_will_be_is_not_told(box: Box) -> None:
    box.store.flows = missing()
    give(box)
    assert told(box) == [WORDS]
    released = threading.Event()
    box.store.guests = lambda: 0 if released.wait(10) else 1
    box.service.prefetching.warm("debian")
    assert told(box) == []
    meanwhile: list[list[str]] = []
    assert box.service.prefetching.after(1, lambda: meanwhile.append(told(box)))
    released.set()
    settled(box)
    assert meanwhile == [[]], "the next one begins, though the last one fell short"
    assert told(box) == [WORDS]


def test_all_of_a_template_is_the_doctors_to_tell(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no boot set before it was booted, and whoever warmed it was told."""
    monkeypatch.setattr(shares, "SHARE", 0.0)
    box.add_template("large")
    view = box.service.show_template("large").prefetch
    assert view is not None
    assert (view.state, view.passes) == ("incomplete", 0)
    assert (told(box), examined(box)) == ([], []), "it has no room"
    box.store.flows = missing()
    job = box.service.prefetching.warm("large")
    assert job.finished.wait(10)
    settled(box)
    assert job.operation.state == "failed"
    assert (told(box), examined(box)) == ([], ["template large@1 is not wholly in the cache"])


def test_of_a_template_that_began_with_a_guess_the_guess_is_told(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SHARE", 1.0)
    flow = missing()
    box.store.flows = lambda: (0, 0) if box.service.prefetching._views[1].total_bytes == SET else flow()
    give(box, sha256=None)
    assert told(box) == [], "it is in"
    assert examined(box) == ["template debian@1 is not wholly in the cache"], "and the rest is not"


def test_one_that_is_removed_is_told_no_more(box: Box) -> None:
    box.store.flows = missing()
    give(box)
    box.service.boot_sets.remove("debian")
    assert told(box) == []
    give(box)
    assert told(box) == [WORDS]
    assert box.service.templates.remove("debian").removed
    assert (told(box), examined(box)) == ([], [])


def test_they_are_told_by_name(box: Box) -> None:
    box.store.flows = missing()
    for name in ("b", "a"):
        box.add_template(name, b"else" + IMAGE[4:])
        give(box, name, Extent(0, 2 * SET))
    assert [what.split()[4] for what in told(box)] == ["a@1", "b@1"]


def test_the_catalog_is_asked_about_those_that_fell_short_alone(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, the status is quick."""
    give(box)
    monkeypatch.setattr(shares, "SHARE", 0.0)
    box.add_template("large")  # it has no room

    def asked(*_: object) -> NoReturn:
        raise AssertionError

    for verb in ("templates", "template_of_id", "boot_set"):
        monkeypatch.setattr(box.service.core.catalog, verb, asked)
    assert told(box) == []
    monkeypatch.undo()


def test_the_service_manager_is_told_when_it_begins_and_when_it_is_over(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(parts, "notify", said.append)
    # The model's, for this test alone.
    box.store.look = lambda: (store(), box.store.problems)  # type: ignore[method-assign]

    def look() -> None:
        box.service.monitor.look()
        at_rest(box)

    look()
    box.store.flows = missing()
    give(box)
    look()
    look()
    assert said[-1].endswith(f", degraded: {WORDS}")
    assert sum(WORDS in each for each in said) == 1, "once"
    box.store.flows = lambda: (0, 0)
    give(box)
    look()
    assert WORDS not in said[-1]
    assert said[-1].startswith("STATUS=0 of 0 clones exported")
