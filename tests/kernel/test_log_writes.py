"""Power cuts at every moment, replayed from a log of all writes: nothing that was acknowledged is lost."""

import pytest

from tests.kernel.inside import replay_catalog, replay_clone
from tests.kernel.lab import InsideError, Lab


@pytest.fixture
def most(request: pytest.FixtureRequest) -> int:
    """How many cuts are looked at; 0 for all."""
    return 0 if request.config.getoption("run_all") else 20


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed") or 1)


def test_the_catalog_has_every_acknowledged_transaction(lab: Lab, most: int, seed: int) -> None:
    lab.call(replay_catalog.record, 150, True, timeout=180)
    found = lab.call(replay_catalog.replay, most, seed, timeout=3600)
    print(found)
    assert found["flushes"] > 150
    assert found["cuts"] >= 20


def test_a_catalog_that_does_not_wait_for_the_disk_is_found_out(lab: Lab, seed: int) -> None:
    lab.call(replay_catalog.record, 30, False, timeout=180)
    with pytest.raises(InsideError, match="acknowledged"):
        lab.call(replay_catalog.replay, 20, seed, timeout=600)


@pytest.mark.parametrize("mode", ["writethrough", pytest.param("writeback", marks=pytest.mark.heavy)])
def test_a_durable_clone_has_every_acknowledged_write(lab: Lab, mode: str, most: int, seed: int) -> None:
    lab.call(replay_clone.record, mode, 150, True, timeout=180)
    found = lab.call(replay_clone.replay, mode, most, seed, timeout=3600)
    print(found)
    assert found["flushes"] > 50
    assert found["cuts"] >= 20


def test_writes_that_are_acknowledged_without_a_flush_are_found_out(lab: Lab, seed: int) -> None:
    lab.call(replay_clone.record, "writeback", 30, False, timeout=180)
    with pytest.raises(InsideError, match="acknowledged"):
        lab.call(replay_clone.replay, "writeback", 10, seed, timeout=600)
