"""The rows of `script/bench learn`, made of what was measured."""

import json

import pytest

from appliance.schema import PrefetchView
from bench import learn_rows
from bench.learn_rows import Booted, Found, Replayed

MB = 1_000_000


def booted(seconds: float, missed: int = 0, cpu: float = 0.1) -> Booted:
    return Booted("a", seconds, 100 * MB, missed, cpu, 1 + missed / MB, 40.0)


def prefetch(seconds: float) -> PrefetchView:
    return PrefetchView(
        state="warm", why="", total_bytes=310 * MB, backend_bytes=300 * MB, passes=2, seconds=seconds, began=0.0
    )


FOUND = Found(
    booted(52.0, MB // 2),
    booted(90.0, 120 * MB),
    prefetched=[booted(51.0, MB // 2), booted(60.0, 2 * MB)],
    warm=[booted(50.0), booted(60.0)],
    recorded=[booted(50.5, cpu=0.4)],
    unrecorded=[booted(50.0)],
    replays=[Replayed(4.1, 4.0), Replayed(4.7, 4.2), Replayed(4.0, 6.0)],
    prefetches=[prefetch(1.0), prefetch(2.0)],
    sequential=[300.0 * MB, 300.0 * MB],
)


def test_rows_are_of_pairs_that_took_turns() -> None:
    report = learn_rows.report(FOUND, {"host": "a machine"})
    values = {row.name: row.value for row in report.rows}
    assert values == {
        "first_ever_hit_bytes": pytest.approx(0.995),
        "boot_prefetched_over_warm": pytest.approx(55.5 / 55),
        "boot_prefetched_hit_bytes": pytest.approx(0.98),
        "prefetch_over_sequential": pytest.approx(0.75),
        "learning_cost": pytest.approx(0.1 / 50),
        "learning_cost_boots": pytest.approx(0.01),
        "boot_prefetched_over_warm_pairs": pytest.approx(1.01),
        "boot_prefetched_waits_more": pytest.approx(1.25 / 55),
        "learning_cost_boots_pairs": pytest.approx(0.01),
        "learning_cost_reads": pytest.approx(0.025),
        "learning_cpu_share": pytest.approx(0.3 / 50),
    }
    informs = [row.name for row in report.rows if row.held_to is None]
    assert informs == [
        "boot_prefetched_over_warm_pairs",
        "boot_prefetched_waits_more",
        "learning_cost_reads",
        "learning_cost_boots",
        "learning_cost_boots_pairs",
        "learning_cpu_share",
    ]
    assert [row.name for row in report.missed] == ["boot_prefetched_hit_bytes", "prefetch_over_sequential"]
    assert json.loads(json.dumps(report.as_json()))["figures"]["first"]["seconds"] == 90.0
    assert report.text()
    assert report.page()


def test_what_was_not_run_has_no_rows() -> None:
    assert learn_rows.report(Found(first=booted(1.0)), {}).rows == ()
    assert learn_rows.report(Found(replays=FOUND.replays), {}).rows == (), "there is no boot to compare with"


def test_what_learning_costs_is_of_the_boots_that_there_are() -> None:
    found = Found(warm=[booted(100.0)], replays=FOUND.replays)
    [row] = [row for row in learn_rows.report(found, {}).rows if row.name == "learning_cost"]
    assert row.value == pytest.approx(0.1 / 100)
    assert row.ok
    slow = Found(warm=[booted(100.0)], replays=[Replayed(8.0, 4.0)] * 3)
    assert [row.name for row in learn_rows.report(slow, {}).missed] == ["learning_cost"]


def test_a_prefetch_counts_what_it_took_from_the_backend_and_nothing_twice() -> None:
    twice = prefetch(1.0).model_copy(update={"backend_bytes": 600 * MB})
    found = Found(prefetches=[twice, twice], sequential=[310.0 * MB, 310.0 * MB])
    assert [row.value for row in learn_rows.report(found, {}).rows] == [pytest.approx(1.0)]
