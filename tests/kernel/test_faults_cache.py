"""A cache drive that died and answers again: what it still holds is old, and no guest ever reads it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.inside import disks, faults, mirror, volumes
from tests.kernel.lab import Disks, Lab, Options
from tests.kernel.store_lab import health, problems, up

NVME = 0
TEMPLATE, CLONE = 1, 2
MIB = 4


@pytest.fixture
def lost(tree: Path, prepared: Path) -> Iterator[tuple[Lab, str]]:
    """A store whose cache drive died while a clone was warm, and that clone's device."""
    with Lab(tree, Options(nvme=Disks.FAULTY), prepared=prepared) as lab:
        lab.begin(["hatchery-retry"])
        up(lab)
        lab.call(volumes.make_template, TEMPLATE, MIB)
        device = lab.call(volumes.make_clone, CLONE, TEMPLATE, MIB)
        lab.call(faults.warm_up, device, MIB)
        lab.call(faults.remember_loss)
        assert lab.call(faults.marks) == []
        lab.call(faults.lose_cache, NVME, device, MIB)
        yield lab, device


def test_a_drive_that_died_and_is_back_shows_nothing_that_was_written_over(lost: tuple[Lab, str]) -> None:
    lab, device = lost
    new = lab.call(faults.write_anew, device, 11, MIB)
    lab.call(disks.heal, NVME)
    said = up(lab)
    assert lab.call(volumes.digest, device, MIB) == new, f"the old cache was believed\n{said}"
    assert "empty cache" in said
    assert lab.call(faults.cache_state) == {"state": "clean", "attached": True, "wrong": []}
    assert up(lab) == "", "a second start did something"


@pytest.mark.heavy
@pytest.mark.parametrize("witness", ["the service", "the metadata mirror"])
def test_nor_after_a_power_cut(lost: tuple[Lab, str], witness: str) -> None:
    lab, device = lost
    if witness == "the service":
        lab.call(faults.remember_loss)
        assert lab.call(faults.marks) == ["cache.lost"]
    else:
        lab.call(mirror.write_news, "new")
    new = lab.call(faults.write_anew, device, 11, MIB)
    lab.restart()
    lab.begin(["hatchery-retry"])
    said = up(lab)
    device = lab.call(volumes.activate_clone, CLONE, MIB)
    assert lab.call(volumes.digest, device, MIB) == new, f"the old cache was believed\n{said}"
    assert health(lab)["cache"]["attached"]
    assert health(lab)["cache"]["settings_ok"]
    assert problems(lab) == ""
    assert lab.call(faults.marks) == []
