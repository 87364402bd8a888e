"""What counts as having gone past the cache."""

import time
from pathlib import Path

import pytest

from appliance.config import Paths
from appliance.store import bypass


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(run=tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_all_of_it_without_a_return_of_the_cache(paths: Paths) -> None:
    assert bypass.alarming(paths, 0) == 0
    assert bypass.alarming(paths, 4096) == 4096


def test_what_came_while_the_cache_was_away_is_no_alarm_and_what_comes_later_is(
    paths: Paths, clock: list[float]
) -> None:
    bypass.forgive(paths)
    clock[0] += 5
    assert bypass.alarming(paths, 4096) == 0
    clock[0] += 5
    assert bypass.alarming(paths, 8192) == 0
    clock[0] += 5
    assert bypass.alarming(paths, 8192) == 0
    assert bypass.alarming(paths, 8704) == 512
    # The cache goes and comes once more.
    bypass.forgive(paths)
    assert bypass.alarming(paths, 20000) == 0
    clock[0] += bypass.SETTLE
    assert bypass.alarming(paths, 20000) == 0
    assert bypass.alarming(paths, 20001) == 1


def test_a_mark_that_cannot_be_read_hides_nothing(paths: Paths) -> None:
    (paths.run / "cache.returned").write_text("soon")
    assert bypass.alarming(paths, 4096) == 4096
