"""Damaged metadata: the pool is not activated; ``hatchery-store repair`` brings it back, also when it is cut off."""

import json

import pytest

from tests.kernel.inside import rescue, setup, volumes
from tests.kernel.lab import InsideError, Lab

MIB = 8
TEMPLATE, CLONE, LATE = 1, 2, 3
PATIENCE = 400
"""Seconds for a repair: thin_repair reads every block of the metadata when it has lost its roots."""


def fill(lab: Lab) -> dict[int, str]:
    """A template and a clone with data of its own; digests by id."""
    digests = {TEMPLATE: lab.call(volumes.make_template, TEMPLATE, MIB)}
    device = lab.call(volumes.make_clone, CLONE, TEMPLATE, MIB)
    lab.run(["dd", "if=/dev/urandom", f"of={device}", "bs=64k", "count=3", "seek=5", "oflag=direct", "conv=fsync"])
    digests[CLONE] = lab.call(volumes.digest, device, MIB)
    return digests


def check(lab: Lab, digests: dict[int, str]) -> None:
    assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, MIB), MIB) == digests[TEMPLATE]
    assert lab.call(volumes.digest, lab.call(volumes.activate_clone, CLONE, MIB), MIB) == digests[CLONE]


def refused(lab: Lab) -> str:
    """A start that must not activate the pool; what it says."""
    done = lab.run(["hatchery-store", "up"], check=False, timeout=120)
    assert done.returncode == 2
    assert "hatchery-store repair" in done.stderr
    assert lab.run(["dmsetup", "info", "hatchery-pool-durable"], check=False).returncode != 0
    return done.stderr


def repair(lab: Lab, *options: str) -> str:
    return lab.run(["hatchery-store", "repair", *options], timeout=PATIENCE).stdout


def test_a_destroyed_superblock_is_repaired_on_a_second_word_and_a_copy_is_kept(store: Lab) -> None:
    digests = fill(store)
    store.run(["hatchery-store", "backup"], timeout=120)
    active = store.run(["hatchery-store", "repair"], check=False)
    assert active.returncode == 2
    assert "systemctl stop hatchery-store" in active.stderr
    store.run(["hatchery-store", "down"])
    store.call(rescue.raise_state)
    store.call(rescue.damage, 0, 1)
    store.run(["hatchery-store", "down"])
    store.call(rescue.forget_clean_stop)
    assert "damaged" in refused(store)

    shown = repair(store)
    assert "was not changed" in shown
    assert "The new metadata has 2 volumes" in shown
    refused(store)
    (copy,) = store.call(rescue.copies)
    said = repair(store, "--yes")
    assert "in place" in said
    assert store.call(rescue.copies) == [copy], "the same damage was copied twice"
    store.run(["hatchery-store", "up"], timeout=120)
    check(store, digests)
    assert "sound" in _after_down(store)
    told = json.loads(store.run(["hatchery", "store", "repair", "--json"], timeout=PATIENCE).stdout)
    assert told["sound"] is True
    assert "systemctl start hatchery.target" in told["said"][-1]


def _after_down(lab: Lab) -> str:
    lab.run(["hatchery-store", "down"])
    return repair(lab)


@pytest.mark.heavy
def test_metadata_that_is_all_zeros_is_not_taken_for_a_new_pool(store: Lab) -> None:
    digests = fill(store)
    store.run(["hatchery-store", "backup"], timeout=120)
    store.call(rescue.make_volume, LATE)
    store.run(["hatchery-store", "down"])
    store.call(rescue.raise_state)
    store.call(rescue.blank, 64)
    store.run(["hatchery-store", "down"])
    assert "gone" in refused(store)
    with_repair = store.run(["hatchery-store", "repair", "--yes"], check=False, timeout=PATIENCE)
    assert with_repair.returncode == 2
    assert "--from-dump" in with_repair.stderr
    refused(store)
    shown = repair(store, "--from-dump")
    assert "The new metadata has 2 volumes" in shown
    repair(store, "--from-dump", "--yes")
    store.run(["hatchery-store", "up"], timeout=120)
    check(store, digests)


@pytest.mark.heavy
def test_a_repair_that_is_cut_off_goes_on(store: Lab) -> None:
    digests = fill(store)
    store.run(["hatchery-store", "down"])
    store.call(rescue.raise_state)
    store.call(rescue.damage, 0, 1)
    store.call(rescue.forget_clean_stop)
    with pytest.raises(InsideError, match="cut off here"):
        store.call(rescue.repair_cut_off, timeout=PATIENCE)
    store.restart()
    assert "was cut off" in refused(store)
    assert "going on with that" in repair(store)
    store.run(["hatchery-store", "up"], timeout=120)
    check(store, digests)


@pytest.mark.heavy
def test_a_check_that_takes_too_long_is_reported_until_a_dump_has_read_everything(store: Lab) -> None:
    digests = fill(store)
    store.restart()
    store.call(rescue.up_in_a_hurry, timeout=120)
    check(store, digests)
    found = store.call(volumes.health)["problems"]
    assert any("not finished" in problem["what"] for problem in found), found
    store.run(["hatchery-store", "backup"], timeout=120)
    assert not any("not finished" in problem["what"] for problem in store.call(volumes.health)["problems"])


@pytest.mark.heavy
def test_a_copy_that_does_not_fit_goes_elsewhere(store: Lab) -> None:
    fill(store)
    store.run(["hatchery-store", "down"])
    store.call(rescue.raise_state)
    store.call(rescue.damage, 0, 1)
    store.call(rescue.forget_clean_stop)
    store.call(rescue.fill_state, 4)
    done = store.run(["hatchery-store", "repair", "--yes"], check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert "--copy-to" in done.stderr
    store.run(["mkdir", "-p", "/run/elsewhere"])
    assert "in place" in repair(store, "--copy-to", "/run/elsewhere", "--yes")
    store.run(["hatchery-store", "up"], timeout=120)


@pytest.mark.heavy
def test_setup_does_not_begin_a_new_pool_over_lost_metadata(store: Lab) -> None:
    fill(store)
    store.run(["hatchery-store", "down"])
    store.call(rescue.raise_state)
    store.call(rescue.blank, 64)
    with pytest.raises(InsideError, match="metadata is gone"):
        store.call(setup.part, "store", timeout=180)
