"""Starting the store: after an orderly stop, after a power cut, without a disk, without the NVMe drive."""

import json
from typing import Any

import pytest

from tests.kernel.inside import setup, volumes
from tests.kernel.lab import Lab
from tests.kernel.store_lab import set_up_again

MIB = 16
TEMPLATE, CLONE = 1, 2
AWAY = "/dev/shm/away"  # noqa: S108 - inside the lab


def up(lab: Lab) -> str:
    return lab.run(["hatchery-store", "up"], timeout=120).stderr


def fill(lab: Lab) -> tuple[str, str]:
    """A template, and a clone with a change of its own; their digests."""
    template = lab.call(volumes.make_template, TEMPLATE, MIB)
    device = lab.call(volumes.make_clone, CLONE, TEMPLATE, MIB)
    lab.run(["dd", "if=/dev/urandom", f"of={device}", "bs=64k", "count=3", "seek=5", "oflag=direct", "conv=fsync"])
    return template, lab.call(volumes.digest, device, MIB)


def check(lab: Lab, digests: tuple[str, str]) -> None:
    template, clone = digests
    assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, MIB), MIB) == template
    assert lab.call(volumes.digest, lab.call(volumes.activate_clone, CLONE, MIB), MIB) == clone


def health(lab: Lab) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lab.run(["hatchery-store", "status", "--json"]).stdout)
    return found


def problems(lab: Lab) -> str:
    return "; ".join(problem["what"] for problem in health(lab)["problems"])


def reads(lab: Lab, digests: tuple[str, str]) -> int:
    """Bytes that the backend had to read while everything was read and compared once."""
    before: int = lab.call(volumes.backend_reads)
    check(lab, digests)
    now: int = lab.call(volumes.backend_reads)
    return now - before


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_setup_takes_a_store_that_does_not_run_as_it_is(store: Lab, *, forgotten: bool) -> None:
    digests = fill(store)
    set_up_again(store, forgotten=forgotten)
    check(store, digests)


def test_an_orderly_stop_leaves_nothing_and_a_start_needs_no_check(store: Lab) -> None:
    digests = fill(store)
    store.run(["hatchery-store", "down"])
    left = store.run(["sh", "-c", "dmsetup ls; ls /sys/block; ls /sys/fs/bcache; cat /proc/mounts"]).stdout
    for word in ("hatchery", "md127", "bcache0"):
        assert word not in left
    said = up(store)
    assert "check pool metadata" not in said
    assert up(store) == "", "a second start did something"
    check(store, digests)
    assert problems(store) == ""


def test_looking_at_the_store_does_not_read_from_the_backend(store: Lab) -> None:
    assert store.call(volumes.reads_by_looking) == 0


def test_a_power_cut_loses_nothing_and_the_cache_stays_warm(store: Lab) -> None:
    digests = fill(store)
    store.call(volumes.cold)
    cold = reads(store, digests)
    assert cold > MIB * 1024 * 1024 // 2, "the cache was not cold"
    # A miss is kept only if a bucket is free at that moment, so it may take more than one pass.
    warm = [reads(store, digests) for _ in range(4)]
    assert warm[-1] == 0, f"the cache does not become warm: {warm}"
    store.call(volumes.await_index_written, timeout=250)
    store.restart()
    said = up(store)
    assert "check pool metadata" in said
    after = reads(store, digests)
    assert after <= cold // 50, f"{after} bytes came from the backend"
    assert problems(store) == ""


def test_a_missing_backend_disk_is_reported_and_taken_back(store: Lab) -> None:
    digests = fill(store)
    store.run(["hatchery-store", "down"])
    store.run(["mv", "/dev/disk/by-id/ata-LAB_3", AWAY])
    up(store)
    check(store, digests)
    assert "lacks 1 of 3 disks" in problems(store)
    assert health(store)["backend"]["health"] == "degraded"
    store.run(["mv", AWAY, "/dev/disk/by-id/ata-LAB_3"])
    assert "rejoin backend array" in up(store)
    assert len(health(store)["backend"]["members"]) == 3
    check(store, digests)


@pytest.mark.heavy
def test_a_missing_nvme_drive_is_reported_and_taken_back(store: Lab) -> None:
    digests = fill(store)
    store.run(["hatchery-store", "down"])
    store.run(["mv", "/dev/disk/by-id/nvme-LAB_0", AWAY])
    up(store)
    check(store, digests)
    found = problems(store)
    assert "the cache is not attached" in found
    assert "one leg only" in found
    device = store.call(volumes.activate_clone, CLONE, MIB)
    # What is written now must not be hidden later by what the returning cache still holds.
    store.run(["dd", "if=/dev/urandom", f"of={device}", "bs=64k", "count=4", "oflag=direct", "conv=fsync"])
    digests = digests[0], store.call(volumes.digest, device, MIB)
    store.run(["hatchery-store", "down"])
    store.run(["mv", AWAY, "/dev/disk/by-id/nvme-LAB_0"])
    up(store)
    check(store, digests)
    state = health(store)
    assert state["cache"]["attached"]
    assert state["cache"]["settings_ok"]
    assert {member["state"].split(",")[0] for member in state["meta"]["members"]} <= {"in-sync", "spare"}
    assert len(state["meta"]["members"]) == 2


@pytest.mark.heavy
def test_a_returned_nvme_drive_is_taken_back_while_the_store_runs(store: Lab) -> None:
    digests = fill(store)
    store.run(["hatchery-store", "down"])
    store.run(["mv", "/dev/disk/by-id/nvme-LAB_0", AWAY])
    up(store)
    store.run(["mv", AWAY, "/dev/disk/by-id/nvme-LAB_0"])
    up(store)
    check(store, digests)
    assert health(store)["cache"]["attached"]
    assert problems(store) == ""


def replace_disk(lab: Lab, number: int) -> None:
    """Take a disk out and put an empty one in its place, while the machine is off."""
    lab.run(["hatchery-store", "down"])
    lab.poweroff()
    disk = lab.folder / "disks" / str(number)
    size = disk.stat().st_size
    disk.unlink()
    with disk.open("wb") as file:
        file.truncate(size)
    lab.start()


@pytest.mark.heavy
def test_a_new_nvme_drive_takes_the_place_of_a_dead_one(store: Lab) -> None:
    digests = fill(store)
    replace_disk(store, 0)
    up(store)
    check(store, digests)
    assert "the cache is not attached" in problems(store)
    for part in ("nvme", "backend", "store"):
        store.call(setup.part, part, timeout=180)
    check(store, digests)
    store.call(setup.in_sync, timeout=240)
    assert problems(store) == ""
    assert health(store)["cache"]["attached"]
    for part in ("nvme", "backend", "store"):
        assert not store.call(setup.part, part)["changed"]


@pytest.mark.heavy
def test_a_new_disk_takes_the_place_of_a_dead_one(store: Lab) -> None:
    digests = fill(store)
    replace_disk(store, 2)
    up(store)
    check(store, digests)
    assert "lacks 1 of 3 disks" in problems(store)
    assert store.call(setup.part, "backend", timeout=180)["changed"]
    check(store, digests)
    assert len(health(store)["backend"]["members"]) == 3


@pytest.mark.heavy
def test_a_disk_and_the_nvme_drive_are_replaced_at_once(store: Lab) -> None:
    digests = fill(store)
    for number in (0, 2):
        replace_disk(store, number)
    up(store)
    check(store, digests)
    found = problems(store)
    assert "lacks 1 of 3 disks" in found
    assert "the cache is not attached" in found
    for part in ("nvme", "backend", "store"):
        assert store.call(setup.part, part, timeout=180)["changed"]
    check(store, digests)
    store.call(setup.in_sync, timeout=240)
    assert problems(store) == ""
    state = health(store)
    assert state["cache"]["attached"]
    assert state["cache"]["settings_ok"]
    for part in ("nvme", "backend", "store"):
        assert not store.call(setup.part, part)["changed"]
    check(store, digests)
