import threading
from pathlib import Path

import pytest

from appliance import wait
from appliance.errors import Unhealthy
from appliance.model import Health, Problem
from appliance.schema import CacheView, PoolView, StoreView
from appliance.service import monitor
from appliance.service.monitor import Change, Monitor, Seen
from appliance.store.drives import Drives
from tests.unit.model import ModelStore

FULL = Problem(Health.DEGRADED, "the pool's data is 76 % full", "remove clones")
FULLER = Problem(Health.DEGRADED, "the pool's data is 77 % full", "remove clones")
FULLEST = Problem(Health.FAILED, "the pool's data is 86 % full", "remove clones")
COLD = Problem(Health.DEGRADED, "the cache is not attached")


def test_a_problem_is_told_when_it_begins_and_when_it_is_over() -> None:
    assert monitor.changes(Seen(), Seen((FULL,))) == (
        Change(Health.DEGRADED, "the pool's data is 76 % full (remove clones)"),
    )
    assert monitor.changes(Seen((FULL, COLD)), Seen((FULL,))) == (Change(Health.OK, "over: the cache is not attached"),)
    assert monitor.changes(Seen((FULL,)), Seen((FULL,))) == ()


def test_a_number_that_moves_is_not_told_again_until_it_is_worse() -> None:
    assert monitor.changes(Seen((FULL,)), Seen((FULLER,))) == ()
    assert [change.severity for change in monitor.changes(Seen((FULLER,)), Seen((FULLEST,)))] == [
        Health.FAILED,
        Health.OK,
    ]


def test_drives_that_return_are_those_that_were_silent() -> None:
    before, after = Seen((), frozenset("ab"), frozenset("c")), Seen((), frozenset("bc"), frozenset("a"))
    assert monitor.returned(before, after) == {"a"}
    assert monitor.returned(after, after) == frozenset()


def test_a_drive_that_another_one_replaces_does_not_return() -> None:
    store = ModelStore()
    store.dead = frozenset("a")
    looking = Monitor(store)
    looking.look()
    store.named, store.dead = "bc", frozenset()
    looking.look()
    looking.settle(10)
    assert store.healed == 0


def view(*, attached: bool = True) -> StoreView:
    cache = CacheView(
        health=Health.OK,
        attached=attached,
        mode="writethrough",
        size=1,
        settings_ok=True,
        bypassed_bytes=0,
        available_percent=90,
    )
    pool = PoolView(
        health=Health.OK,
        name="durable",
        mode="rw",
        data_used=25,
        data_total=100,
        metadata_used=1,
        metadata_total=100,
        block_bytes=1,
        transaction_id=1,
    )
    return StoreView(backend=None, meta=None, cache=cache, pool=pool)


@pytest.mark.parametrize(
    ("store", "hits", "seen", "words"),
    [
        (view(), 93, Seen(), ", cache hits 93 %, pool 25 % full"),
        (view(), None, Seen(), ", pool 25 % full"),
        (view(attached=False), 93, Seen((COLD,)), ", no cache, pool 25 % full, degraded: the cache is not attached"),
        (view(), None, Seen((COLD, FULLEST)), f", pool 25 % full, failed: {FULLEST.what} and 1 more"),
    ],
)
def test_one_line_says_how_it_goes(store: StoreView, hits: int | None, seen: Seen, words: str) -> None:
    assert monitor.store_words(store, hits, seen) == words


def test_a_drive_that_answers_again_is_taken_back_once() -> None:
    store = ModelStore()
    looking = Monitor(store)
    looking.look()
    store.dead = frozenset("a")
    looking.look()
    assert looking.seen.problems[0].what == "a does not answer"
    assert store.healed == 0
    store.dead = frozenset()
    looking.look()
    looking.settle(10)
    looking.look()
    looking.settle(10)
    assert store.healed == 1
    assert looking.seen == Seen(answering=frozenset("abc"))


def test_taking_back_is_tried_some_times_and_then_given_up() -> None:
    store = ModelStore()
    store.dead = frozenset("a")
    store.heal_error = Unhealthy("it is broken")
    looking = Monitor(store)
    looking.look()
    store.dead = frozenset()
    for _ in range(monitor.HEAL_TRIES + 3):
        looking.look()
        looking.settle(10)
    assert store.healed == monitor.HEAL_TRIES


def test_looks_go_on_while_a_drive_is_taken_back() -> None:
    """It may take a minute, and the next drive may die meanwhile."""
    begun, released = threading.Event(), threading.Event()

    class Slow(ModelStore):
        def heal(self) -> None:
            super().heal()
            begun.set()
            assert released.wait(10)

    store = Slow()
    store.dead = frozenset({"a"})
    looking = Monitor(store)
    looking.look()
    store.dead = frozenset()
    looking.look()
    assert begun.wait(10)
    store.dead = frozenset({"b"})
    looking.look()
    assert looking.seen.silent == {"b"}
    store.dead = frozenset()
    looking.look()
    assert store.healed == 1, "one at a time"
    released.set()
    looking.settle(10)
    looking.look()
    looking.settle(10)
    assert store.healed == 2, "what came back meanwhile is taken back too"


def test_a_hook_that_fails_stops_neither_the_others_nor_the_next_look(caplog: pytest.LogCaptureFixture) -> None:
    called = []

    def bad() -> None:
        called.append("bad")
        raise Unhealthy("no")

    looking = Monitor(ModelStore(), (bad, lambda: called.append("good")))
    looking.look()
    looking.look()
    assert called == ["bad", "good"] * 2
    assert caplog.text.count("no") == 1


def test_the_thread_looks_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LOOK_SECONDS", 0.01)
    looks: list[int] = []
    looking = Monitor(ModelStore(), (lambda: looks.append(1),))
    looking.start()
    wait.until(lambda: len(looks) > 2, "some looks", deadline=10)
    looking.close()
    assert "monitor" not in [thread.name for thread in threading.enumerate()]


def test_looks_that_cost_much_come_less_often() -> None:
    assert monitor.longer_pause(0.015) == 0
    assert monitor.longer_pause(1.0) == pytest.approx(7.0)
    assert monitor.longer_pause(100.0) == monitor.LONGEST_SECONDS


def test_what_is_urgent_does_not_wait_for_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(monitor, "longer_pause", lambda _: 1000.0)
    looks: list[int] = []
    urgent: list[int] = []
    looking = Monitor(ModelStore(), (lambda: looks.append(1),), urgent=lambda: urgent.append(1))
    looking.start()
    wait.until(lambda: len(urgent) > 5, "some urgent calls", deadline=10)
    looking.close()
    assert len(looks) == 1


def test_a_drive_that_hangs_counts_as_silent_and_holds_nobody_up() -> None:
    released = threading.Event()
    asked: list[str] = []

    def ask(path: str) -> bool:
        asked.append(path)
        return path != "dead" and (path != "hung" or released.wait(10))

    drives = Drives(ask)
    assert drives.silent(["good", "dead", "hung"], patience=0.2) == {"dead", "hung"}
    assert drives.silent(["good", "hung"], patience=0.05) == {"hung"}
    assert asked.count("hung") == 1
    released.set()
    wait.until(lambda: drives.silent(["hung"], patience=1) == frozenset(), "the drive", deadline=10)


def test_a_drive_is_asked_by_reading_it(tmp_path: Path) -> None:
    assert Drives().silent([str(tmp_path / "missing")]) == {str(tmp_path / "missing")}
