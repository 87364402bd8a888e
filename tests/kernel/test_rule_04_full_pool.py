"""Rule 4: a full pool says so at once, keeps all that it acknowledged, and goes on when there is space again."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wait
from tests.kernel.inside import full_pool, rules, setup
from tests.kernel.lab import Lab, Options

MIB = 1024 * 1024
SMALL = Options(disk_bytes=200 * MIB, nvme_bytes=512 * MIB)
MOST = 500
"""MiB; more than the pool of the small lab has."""


@pytest.fixture
def small(tree: Path) -> Iterator[Lab]:
    """A store whose pool holds about 270 MiB."""
    with Lab(tree, SMALL) as lab:
        lab.call(setup.part, "nvme", meta_bytes=128 * MIB, fast_bytes=64 * MIB)
        lab.call(setup.part, "backend")
        lab.call(setup.part, "store")
        yield lab


def test_enospc_comes_at_once_nothing_acknowledged_is_lost_and_writing_goes_on(small: Lab) -> None:
    assert "error_if_no_space" in small.call(rules.pool_features)
    small.call(full_pool.serve, [1, 2])
    small.run(["dd", "if=/dev/zero", "of=/dev/mapper/hatchery-clone-2", "bs=4M", "count=50", "oflag=direct"])
    found = small.call(full_pool.fill_free_go_on, 1, 2, MOST, timeout=180)
    assert found["errno"] == errno.ENOSPC
    assert found["error_seconds"] < 5
    assert found["acknowledged"] > 10
    assert found["damaged"] == []
    assert found["full_mode"] != "rw"
    assert any("full" in problem for problem in found["problems"])
    assert found["again"] == [0, 0]
    assert found["mode_at_the_end"] == "rw"


def test_without_the_feature_a_guest_hangs_instead(small: Lab) -> None:
    small.call(full_pool.serve, [1])
    small.call(rules.reload_pool, without="error_if_no_space")
    writing = small.begin_call(full_pool.fill, 1, MOST, timeout=180)

    def stuck() -> bool:
        return bool(small.call(rules.pool_mode) != "rw")

    wait.until(stuck, "the pool to be full", deadline=60)
    assert not small.answered(writing.name, 5), (
        "the write was answered; the scenario does not show what the rule prevents"
    )
    small.call(rules.reload_pool, adding="error_if_no_space")
    assert 0 < writing.result() < MOST
