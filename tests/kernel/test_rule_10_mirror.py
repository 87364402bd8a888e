"""Rule 10: the mirror's slow leg is always current, and the mirror never starts without it."""

from pathlib import Path

import pytest

from tests.kernel.inside import disks, mirror, udev, volumes
from tests.kernel.lab import Disks, Lab, Options


def up(lab: Lab) -> None:
    lab.run(["hatchery-store", "up"], timeout=120)


def test_the_slow_leg_is_write_mostly_but_never_behind_and_a_backlog_is_reported_and_removed(store: Lab) -> None:
    found = store.call(mirror.look)
    fast = Path(store.call(mirror.fast_leg)).name
    slow = Path(store.call(mirror.slow_leg)).name
    assert found["backlog"] == 0
    assert "write_mostly" in found["legs"][slow]
    assert "write_mostly" not in found["legs"][fast]

    store.call(mirror.set_backlog, 256)
    assert any("lag" in problem["what"] for problem in store.call(volumes.health)["problems"])
    up(store)
    assert store.call(mirror.look)["backlog"] == 0
    assert store.call(volumes.health)["problems"] == []


def test_a_stale_nvme_leg_gives_way_to_the_newer_one(store: Lab) -> None:
    store.call(mirror.write_news, "old")
    store.call(mirror.lose_fast_leg)
    assert any("one leg" in problem["what"] for problem in store.call(volumes.health)["problems"])
    store.call(mirror.write_news, "new")
    store.restart()
    up(store)
    assert store.call(mirror.read_news) == "new"
    store.call(mirror.whole)
    assert store.call(volumes.health)["problems"] == []


@pytest.mark.heavy
def test_a_stale_leg_that_was_started_alone_shows_old_data_and_is_not_believed_later(store: Lab) -> None:
    store.call(mirror.write_news, "old")
    leg = store.call(mirror.fast_leg)
    store.call(mirror.lose_fast_leg)
    store.call(mirror.write_news, "new")
    store.restart()
    store.run(["modprobe", "raid1"])
    assert store.call(mirror.start_alone, leg) == "old", "the scenario does not show what the rule prevents"
    up(store)
    assert store.call(mirror.read_news) == "new"
    store.call(mirror.whole)


def test_without_its_backend_leg_the_mirror_does_not_start(tree: Path, prepared: Path) -> None:
    with Lab(tree, Options(disks=Disks.FAULTY), prepared=prepared) as lab:
        for number in (1, 2):
            lab.call(disks.fail, number)
        done = lab.run(["hatchery-store", "up"], check=False, timeout=120)
        assert done.returncode == 2
        assert lab.call(mirror.started) == []
        assert lab.run(["mountpoint", "-q", "/var/lib/hatchery"], check=False).returncode != 0
        for number in (1, 2):
            lab.call(disks.heal, number)
        up(lab)
        assert lab.call(volumes.health)["meta"]["health"] == "ok"


def test_udev_does_not_assemble_arrays_and_the_distributions_rules_would(tree: Path, prepared: Path) -> None:
    with Lab(tree, prepared=prepared) as lab:
        lab.call(udev.start, udev.Rules.OURS)
        assert lab.call(udev.arrays) == []
        up(lab)
        assert lab.call(volumes.health)["problems"] == []
        lab.restart()
        lab.call(udev.start, udev.Rules.DISTRIBUTION)
        assert lab.call(udev.arrays) != [], "the scenario does not show what the rule prevents"
