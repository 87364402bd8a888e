"""The backend grows while clones are in use; cut off anywhere, the growth goes on."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wait
from appliance.model import MIB
from tests.kernel import folders
from tests.kernel.inside import arrays, drive, setup, volumes
from tests.kernel.lab import Lab, Options
from tests.kernel.store_lab import actions, health, problems, program, refused, up

SIZE = 64
TEMPLATE, CLONE = 1, 2
FOUR = Options(disk_count=4, disk_bytes=400 * MIB)
LAST_STEPS = ("set backend array", "partition backend array", "create backing device", "grow hatchery-pool-durable")


@pytest.fixture(scope="module")
def prepared_small(tree: Path) -> Iterator[Path]:
    """Disks of a store on three small disks of four, with a template in it, shut down cleanly."""
    with folders.scratch() as folder:
        with Lab(tree, FOUR) as lab:
            for part in ("nvme", "backend", "store"):
                program(lab, part, **({"disks": lab.call(setup.disks)[:3]} if part == "backend" else {}))
            lab.call(setup.in_sync, timeout=240)
            lab.call(volumes.make_template, TEMPLATE, SIZE)
            lab.call(volumes.make_clone, CLONE, TEMPLATE, SIZE)
            lab.run(["hatchery-store", "down"])
            lab.poweroff()
            saved = lab.save(folder / "prepared")
        yield saved


@pytest.fixture
def small(tree: Path, prepared_small: Path) -> Iterator[Lab]:
    with Lab(tree, FOUR, prepared=prepared_small) as lab:
        up(lab)
        yield lab


def whole(lab: Lab) -> None:
    """The pool has the new space, nothing is amiss, and the template reads as it was written."""
    state = health(lab)
    assert state["problems"] == []
    assert lab.call(arrays.look)["backend"]["policy"] == "ppl"
    assert "hatchery-meta hatchery-data hatchery-data-2:" in lab.call(arrays.table)
    digest = hashlib.sha256(volumes.content(TEMPLATE, SIZE)).hexdigest()
    assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, SIZE), SIZE) == digest
    for options in ((), ("--check",)):
        assert program(lab, "backend", *options)["changed"] is False
        assert program(lab, "store", *options)["changed"] is False


@pytest.mark.heavy
def test_a_disk_is_added_while_a_clone_is_written(small: Lab) -> None:
    lab = small
    before = health(lab)["pool"]["data_total"]
    device = lab.call(volumes.activate_clone, CLONE, SIZE)
    load = lab.begin_call(drive.load, [device], 25, timeout=240)
    wait.until(lambda: lab.call(drive.requests, device) > 100, "load", deadline=60)
    planned = program(lab, "backend", "--check")
    assert actions(planned) == ["grow backend array"]
    assert actions(program(lab, "backend")) == ["grow backend array"]
    lab.call(arrays.reshaped, timeout=240)
    planned = program(lab, "backend", "--check")
    assert actions(planned)[:2] == ["set backend array", "partition backend array"]
    done = actions(program(lab, "backend"))
    assert [step for step in done if step in LAST_STEPS] == list(LAST_STEPS)
    errors = load.result()
    assert not any(errors.values()), errors
    assert health(lab)["pool"]["data_total"] > before + 300 * MIB
    whole(lab)


@pytest.mark.heavy
def test_a_growth_that_is_cut_off_at_any_step_goes_on_with_the_next_start(small: Lab) -> None:
    lab = small
    before = health(lab)["pool"]["data_total"]
    begin = lab.begin(["hatchery-store", "setup", "backend", "--spec", "-"], stdin=spec(lab))
    wait.until(lambda: "grow backend array" in begin.stderr, "the growth to begin", deadline=60, interval=0.002)
    lab.restart()
    up(lab)  # the settings name the disk; whether it is in the array yet is for the command to say
    program(lab, "backend")
    assert lab.call(arrays.look)["backend"]["places"] == 4
    lab.restart()  # in the middle of it
    assert "backend array" in up(lab)
    lab.call(arrays.reshaped, timeout=240)
    for step in LAST_STEPS:
        cut(lab, step)
    up(lab)
    assert health(lab)["pool"]["data_total"] > before + 300 * MIB
    lab.call(arrays.whole, timeout=120)
    whole(lab)


def cut(lab: Lab, step: str) -> None:
    """Cut the power as soon as a start says that it begins a step; at its end when another start has done it."""
    job = lab.begin(["hatchery-store", "up"])
    wait.until(lambda: f"\n{step}" in f"\n{job.stderr}" or job.done(), step, deadline=60, interval=0.002)
    lab.restart()


def spec(lab: Lab) -> str:
    return json.dumps(lab.call(setup.specs)["backend"])


def test_what_cannot_grow_is_refused_and_stays_as_it_is(small: Lab) -> None:
    lab = small
    lab.run(["mkfs.ext4", "-q", "-L", "photos", "/dev/disk/by-id/ata-LAB_4"])
    assert "photos" in refused(lab, "backend")["why"]
    lab.run(["wipefs", "-a", "/dev/disk/by-id/ata-LAB_4"])
    lab.run(["mdadm", "--manage", "/dev/md127", "--fail", "/dev/ubdb"])
    assert "lacks a disk" in refused(lab, "backend")["what"]
    assert lab.call(arrays.look)["backend"]["places"] == 3
    assert "LAB_4" not in (lab.folder / "etc/conf.d/20-backend.toml").read_text()


@pytest.mark.heavy
def test_the_parity_log_is_switched_under_load(small: Lab) -> None:
    """Without writes being held meanwhile, the kernel dies in ppl_flush_endio."""
    lab = small
    device = lab.call(volumes.activate_clone, CLONE, SIZE)
    load = lab.begin_call(drive.load, [device], 15, timeout=200)
    wait.until(lambda: lab.call(drive.requests, device) > 100, "load", deadline=60)
    lab.call(arrays.switch_log, 3, timeout=200)
    errors = load.result()
    assert not any(errors.values()), errors
    assert problems(lab) == ""


@pytest.mark.heavy
@pytest.mark.parametrize("level", ["raid6", "raid10"])
def test_other_levels_grow_too(tree: Path, level: str) -> None:
    with Lab(tree, Options(disk_count=5, disk_bytes=300 * MIB, nvme_bytes=900 * MIB)) as lab:
        four = lab.call(setup.disks)[:4]
        for part in ("nvme", "backend", "store"):
            program(lab, part, **({"disks": four, "level": level} if part == "backend" else {}))
        before = health(lab)["pool"]["data_total"]
        lab.call(setup.in_sync, timeout=240)
        digest = lab.call(volumes.make_template, TEMPLATE, 16)
        assert actions(program(lab, "backend", level=level)) == ["grow backend array"]
        lab.call(arrays.reshaped, timeout=240)
        lab.call(setup.in_sync, timeout=240)
        up(lab)
        assert health(lab)["pool"]["data_total"] > before + 90 * MIB
        assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, 16), 16) == digest
        assert program(lab, "backend", level=level)["changed"] is False
