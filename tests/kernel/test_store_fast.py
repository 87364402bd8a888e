"""The fast pool: what ephemeral clones promise (the stories are in inside/ephemeral.py), and what becomes of them."""

from pathlib import Path
from typing import Any

import pytest

from tests.kernel.inside import ephemeral, setup, volumes
from tests.kernel.lab import SECOND_NVME, Lab, Options
from tests.kernel.test_store_start import AWAY, replace_disk, up

STORIES = (
    "writes_stay_its_own",
    "larger_than_its_template",
    "trim_shows_the_template",
    "new_blocks_hold_nobody_elses_data",
    "an_origin_must_be_sealed",
    "latencies_are_counted",
    "a_large_one_goes_in_pieces",
)
MIB = 16
TEMPLATE, CLONE, OTHER = 1, 2, 3
NVME = "/dev/disk/by-id/nvme-LAB_0"
FAST = "/dev/ubda3"


def fill(lab: Lab) -> str:
    """A template, an ephemeral clone with a change of its own, and one without; the digest of the first."""
    lab.call(volumes.make_template, TEMPLATE, MIB)
    path: str = lab.call(ephemeral.clone, CLONE, TEMPLATE, MIB)
    lab.call(ephemeral.clone, OTHER, TEMPLATE, MIB)
    lab.run(["dd", "if=/dev/urandom", f"of={path}", "bs=64k", "count=3", "seek=5", "oflag=direct", "conv=fsync"])
    digest: str = lab.call(volumes.digest, path, MIB)
    return digest


def digest(lab: Lab) -> str:
    """The clone's digest, after a start."""
    lab.call(volumes.activate_template, TEMPLATE, MIB)
    found: str = lab.call(volumes.digest, lab.call(ephemeral.again, CLONE, TEMPLATE, MIB), MIB)
    return found


def problems(lab: Lab) -> str:
    health: dict[str, Any] = lab.call(volumes.health)
    return "; ".join(problem["what"] for problem in health["problems"])


def test_ephemeral_clones_keep_their_promises(store: Lab) -> None:
    for story in STORIES:
        store.call(f"tests.kernel.inside.ephemeral:{story}", timeout=120)


def test_what_was_flushed_outlives_a_stop_and_a_power_cut(store: Lab) -> None:
    before = fill(store)
    identity = store.call(ephemeral.identity)
    store.run(["hatchery-store", "down"])
    assert "hatchery" not in store.run(["dmsetup", "ls"]).stdout
    assert "check fast pool" not in up(store)
    assert digest(store) == before
    store.restart()
    assert "check fast pool" in up(store)
    assert digest(store) == before
    assert store.call(ephemeral.identity) == identity
    assert problems(store) == ""


@pytest.mark.heavy
def test_without_its_drive_the_store_comes_up_and_a_new_drive_brings_a_new_pool(store: Lab) -> None:
    before = fill(store)
    identity = store.call(ephemeral.identity)
    store.run(["hatchery-store", "down"])
    store.run(["mv", NVME, AWAY])
    up(store)
    assert store.call(volumes.health)["fast"] is None
    assert store.call(volumes.activate_template, TEMPLATE, MIB)
    assert store.call(volumes.make_clone, 9, TEMPLATE, MIB), "durable clones still work"
    store.run(["mv", AWAY, NVME])
    up(store)
    assert digest(store) == before, "the same drive is back, and so is what it held"

    replace_disk(store, 0)
    up(store)
    assert store.call(volumes.health)["fast"] is None
    for part in ("nvme", "backend", "store"):
        store.call(setup.part, part, timeout=180)
    assert store.call(ephemeral.identity) != identity
    assert store.call(ephemeral.ids) == []
    assert store.call(volumes.activate_clone, 9, MIB)
    assert store.call(ephemeral.clone, 10, TEMPLATE, MIB), "new ephemeral clones can be made"


@pytest.mark.heavy
def test_damaged_metadata_is_not_thrown_away_silently(store: Lab) -> None:
    fill(store)
    identity = store.call(ephemeral.identity)
    store.restart()
    store.run(["dd", "if=/dev/urandom", f"of={FAST}", "bs=4k", "seek=256", "count=64", "oflag=direct"])
    assert "the fast pool's metadata is damaged" in up(store)
    health = store.call(volumes.health)
    assert health["fast"] is None
    assert health["pool"]["health"] == "ok"
    assert "the fast pool is not running" in problems(store)
    assert store.run(["hatchery-store", "recreate-fast"], check=False).returncode != 0
    store.run(["hatchery-store", "recreate-fast", "--lose-ephemeral-clones"])
    assert store.call(ephemeral.identity) not in ("", identity)
    assert problems(store) == ""


@pytest.mark.heavy
def test_a_second_drive_makes_the_pool_larger_while_it_is_used_and_is_missed_then(tree: Path, prepared: Path) -> None:
    with Lab(tree, Options(nvme_count=2), prepared=prepared) as lab:
        up(lab)
        before = fill(lab)
        pool = lab.call(volumes.health)["fast"]
        for part in ("nvme", "backend", "store"):
            lab.call(setup.part, part, timeout=180)
        grown = lab.call(volumes.health)["fast"]
        assert grown["data_total"] > 1.5 * pool["data_total"]
        assert grown["metadata_total"] > 1.5 * pool["metadata_total"]
        assert digest(lab) == before
        path = lab.call(ephemeral.enlarge, OTHER, 900, TEMPLATE, MIB)
        count = pool["data_total"] // (4 << 20) + 8
        lab.run(["dd", "if=/dev/zero", f"of={path}", "bs=4M", f"count={count}", "oflag=direct"], timeout=180)
        assert lab.call(ephemeral.used) > pool["data_total"], "the new space is used"
        lab.restart()
        up(lab)
        assert digest(lab) == before
        assert lab.call(volumes.health)["fast"]["data_total"] == grown["data_total"]

        replace_disk(lab, SECOND_NVME)
        up(lab)
        assert lab.call(volumes.health)["fast"] is None
        assert "not whole" in problems(lab)
        assert lab.call(volumes.make_clone, 9, TEMPLATE, MIB), "durable clones still work"
