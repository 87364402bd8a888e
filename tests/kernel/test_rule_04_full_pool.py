"""Rule 4: a full pool says so at once, keeps all that it acknowledged, and goes on when there is space again."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wait
from tests.kernel.inside import full_metadata, full_pool, rules, setup, volumes
from tests.kernel.lab import Lab, Options

MIB = 1024 * 1024
SMALL = Options(disk_bytes=200 * MIB, nvme_bytes=512 * MIB, disk_count=4)
SPARE = "/dev/disk/by-id/ata-LAB_4"
MOST = 500
"""MiB; more than the pool of the small lab has."""


@pytest.fixture
def small(tree: Path) -> Iterator[Lab]:
    """A store whose pool holds about 270 MiB."""
    with Lab(tree, SMALL) as lab:
        lab.call(setup.part, "nvme", meta_bytes=128 * MIB, fast_bytes=64 * MIB)
        lab.call(setup.part, "backend", disks=lab.call(setup.disks)[:3])
        lab.call(setup.part, "store")
        yield lab


def test_a_full_pool_says_so_at_once_and_each_way_of_making_space_lets_writing_go_on(small: Lab) -> None:
    assert "error_if_no_space" in small.call(rules.pool_features)
    reserve = small.call(volumes.health)["pool"]["reserve_bytes"]
    assert reserve > 4 * MIB
    small.call(full_pool.serve, [1, 2, 3])
    for thin_id, count in ((2, 3), (3, 45)):
        target = f"of=/dev/mapper/hatchery-clone-{thin_id}"
        small.run(["dd", "if=/dev/zero", target, "bs=4M", f"count={count}", "oflag=direct"])
    found = small.call(full_pool.drill, 1, 2, SPARE, MOST, timeout=300)
    assert list(found) == ["reserve", "removal", "trim", "growth"]
    for way, seen in found.items():
        assert seen["errno"] == errno.ENOSPC, way
        assert seen["seconds"] < 5, way
        assert seen["mode"] == "out_of_data_space", way
        assert any("full" in words for words in seen["told"]), way
        assert seen["damaged"] == [], way
        assert seen["again"] == [0, 0], way
        assert seen["mode_then"] == "rw", way
    assert any("reserve release" in words for words in found["reserve"]["told"])
    assert not any("reserve release" in words for words in found["removal"]["told"])
    assert found["reserve"]["written"] > 10
    assert found["removal"]["written"] - found["reserve"]["written"] == pytest.approx(reserve / MIB, abs=2)
    assert found["trim"]["written"] - found["removal"]["written"] == pytest.approx(12, abs=2)


@pytest.mark.heavy
def test_what_was_released_stays_with_the_pool_and_is_not_taken_back(small: Lab) -> None:
    before = small.call(volumes.health)["pool"]
    small.call(full_pool.release)
    small.run(["hatchery-store", "down"])
    small.run(["hatchery-store", "up"])
    after = small.call(volumes.health)["pool"]
    assert (after["reserve_bytes"], after["data_total"]) == (0, before["data_total"] + before["reserve_bytes"])


@pytest.mark.heavy
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


def test_full_metadata_makes_the_pool_read_only_at_once_and_admission_refuses_before(lab: Lab) -> None:
    lab.call(full_metadata.make, "/dev/disk/by-id/ata-LAB_1", "/dev/disk/by-id/ata-LAB_2")
    found = lab.call(full_metadata.fill, 120, timeout=240)
    assert found["errno"] in (errno.ENOSPC, errno.EIO, errno.EROFS), found
    assert found["seconds"] < 10
    assert found["mode"] == "ro"
    assert found["damaged"] == []
    assert found["template"]
    assert found["refused_at"] is not None
    assert "metadata" in found["refusal"]
    assert 0 < found["refused_at"] < found["clones"]
