"""Drives whose sectors have 4 KiB, beside others with 512 bytes."""

from pathlib import Path

import pytest

from tests.kernel.inside import disks, setup, volumes
from tests.kernel.lab import Lab
from tests.kernel.store_lab import health, program, refused, up

MIB = 16
TEMPLATE = 1


def large(lab: Lab, *paths: str) -> None:
    for path in paths:
        lab.call(disks.with_large_sectors, path)


@pytest.mark.heavy
def test_a_store_on_disks_with_large_sectors_does_without_its_nvme_drive(tree: Path) -> None:
    with Lab(tree) as lab:
        [fast], slow = lab.call(setup.drives), lab.call(setup.disks)
        large(lab, *slow)
        lab.call(setup.everything, timeout=240)
        for part in ("nvme", "backend", "store"):
            assert program(lab, part)["changed"] is False
        written = lab.call(volumes.make_template, TEMPLATE, MIB)
        lab.run(["hatchery-store", "down"])
        lab.poweroff()
        lab.start()
        large(lab, *slow)
        lab.run(["mv", fast, "/dev/shm/away"])  # noqa: S108 - inside the lab
        up(lab)
        assert health(lab)["pool"]["mode"] == "rw"
        assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, MIB), MIB) == written


def test_sectors_that_do_not_go_together_are_refused(lab: Lab) -> None:
    [fast], slow = lab.call(setup.drives), lab.call(setup.disks)
    large(lab, fast)
    program(lab, "nvme")
    for options in ((), ("--check",)):
        # A mirror of the two would have sectors that are gone with the NVMe drive, and its partitions with them.
        error = refused(lab, "backend", *options)
        assert (error["code"], error["what"]) == ("refused", "the NVMe drive has larger sectors than the disks")
    large(lab, slow[2])
    error = refused(lab, "backend", "--check")
    assert error["what"] == "the disks have sectors of different sizes"
    assert slow[2] in error["why"]
