"""Two NVMe drives: metadata and cache survive either of them, and an old leg never wins (rules 1 and 10)."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wait
from tests.kernel import folders
from tests.kernel.inside import arrays, disks, drive, mirror, setup, volumes
from tests.kernel.lab import SECOND_NVME, Disks, Lab, Options
from tests.kernel.store_lab import actions, blank_disk, health, problems, program, refused, set_up_again, up

MIB = 64
TEMPLATE, CLONE = 1, 2
FIRST, SECOND = "/dev/disk/by-id/nvme-LAB_0", "/dev/disk/by-id/nvme-LAB_9"
AWAY = "/dev/shm/away"  # noqa: S108 - inside the lab
TWO = Options(nvme_count=2, nvme=Disks.FAULTY)


@pytest.fixture(scope="module")
def prepared_two(tree: Path) -> Iterator[Path]:
    """Disks of a store on two NVMe drives, in sync and shut down cleanly."""
    with folders.scratch() as folder:
        with Lab(tree, TWO) as lab:
            lab.call(setup.everything, timeout=240)
            lab.call(setup.in_sync, timeout=240)
            lab.run(["hatchery-store", "down"])
            lab.poweroff()
            saved = lab.save(folder / "prepared")
        yield saved


@pytest.fixture
def two(tree: Path, prepared_two: Path) -> Iterator[Lab]:
    with Lab(tree, TWO, prepared=prepared_two) as lab:
        lab.begin(["hatchery-retry"])
        up(lab)
        yield lab


def fill(lab: Lab) -> tuple[str, str]:
    """A template's digest and a clone's device."""
    return lab.call(volumes.make_template, TEMPLATE, MIB), lab.call(volumes.make_clone, CLONE, TEMPLATE, MIB)


def read(lab: Lab, mib: int) -> str:
    found: str = lab.call(volumes.digest, lab.call(volumes.activate_clone, CLONE, MIB), mib)
    return found


def change(lab: Lab, device: str) -> str:
    """Something new at the beginning of the clone, read once before and once after."""
    lab.call(volumes.digest, device, 1)
    lab.run(["dd", "if=/dev/urandom", f"of={device}", "bs=64k", "count=16", "oflag=direct", "conv=fsync"])
    found: str = lab.call(volumes.digest, device, 1)
    return found


@pytest.mark.heavy
def test_two_drives_are_set_up_once(two: Lab) -> None:
    found = two.call(arrays.look)
    assert {name: (array["places"], array["degraded"]) for name, array in found.items()} == {
        "backend": (3, 0),
        "meta": (3, 0),
        "cache": (2, 0),
    }
    slow = [name for name, state in found["meta"]["members"].items() if "write_mostly" in state]
    assert slow == [Path(two.call(mirror.slow_leg)).name]
    for part in ("nvme", "backend", "store"):
        for options in ((), ("--check",)):
            assert program(two, part, *options)["changed"] is False
    assert refused(two, "store", cache_mode="writearound")["code"] == "invalid-input"


@pytest.mark.parametrize(
    ("mode", "number"), [("writethrough", 0), pytest.param("writeback", SECOND_NVME, marks=pytest.mark.heavy)]
)
def test_one_of_two_dies_under_load_and_comes_back(two: Lab, mode: str, number: int) -> None:
    lab = two
    assert program(lab, "store", cache_mode=mode)["changed"] is (mode == "writeback")
    assert lab.call(arrays.mode) == mode
    template, device = fill(lab)
    load = lab.begin_call(drive.load, [device], 10, timeout=120)
    wait.until(lambda: lab.call(drive.requests, device) > 300, "load", deadline=60)
    lab.call(disks.fail, number)
    errors = load.result()
    assert not any(errors.values()), errors
    assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, MIB), MIB) == template
    before = read(lab, MIB)
    said = problems(lab)
    assert "one of its two NVMe drives" in said
    assert "lacks 1 of 3 legs" in said
    assert health(lab)["cache"]["attached"]
    lab.call(disks.heal, number)
    said = up(lab)
    assert "rejoin cache mirror" in said
    assert "rejoin metadata mirror" in said
    lab.call(arrays.whole, timeout=120)
    assert read(lab, MIB) == before
    assert health(lab)["cache"]["health"] == "ok"


@pytest.mark.heavy
def test_an_old_leg_alone_never_shows_old_data(two: Lab) -> None:
    lab = two
    _, device = fill(lab)
    change(lab, device)
    lab.call(arrays.lose, FIRST)
    lab.call(mirror.write_news, "new")
    new = change(lab, device)
    lab.restart()
    lab.run(["mv", SECOND, AWAY])
    said = up(lab)
    assert "its cache counts as empty" in said
    assert lab.call(mirror.read_news) == "new"
    assert read(lab, 1) == new
    # Both there again: the same, and whole without a command.
    newer = change(lab, lab.call(volumes.activate_clone, CLONE, MIB))
    lab.restart()
    up(lab)
    assert read(lab, 1) == newer
    lab.call(arrays.whole, timeout=120)


@pytest.mark.heavy
def test_what_was_not_written_back_is_on_either_leg_or_the_store_does_not_start(two: Lab) -> None:
    lab = two
    program(lab, "store", cache_mode="writeback")
    lab.call(arrays.keep_dirty)
    _, device = fill(lab)
    new = change(lab, device)
    assert lab.call(arrays.dirty)
    lab.call(arrays.lose, FIRST)
    new = change(lab, device)
    lab.restart()
    lab.run(["mv", SECOND, AWAY])
    done = lab.run(["hatchery-store", "up"], check=False, timeout=120)
    assert done.returncode == 2, "the old leg alone was started"
    assert "never written to the backend" in done.stderr
    lab.run(["mv", AWAY, SECOND])
    lab.run(["mv", FIRST, AWAY])
    up(lab)
    assert read(lab, 1) == new, "the current leg alone has all that was written"


@pytest.mark.heavy
def test_a_system_that_begins_anew_finds_what_was_not_written_back(two: Lab) -> None:
    program(two, "store", cache_mode="writeback")
    template, device = fill(two)
    changed = change(two, device)
    set_up_again(two, forgotten=True, cache_mode="writeback")
    assert read(two, 1) == changed
    assert two.call(volumes.digest, two.call(volumes.activate_template, TEMPLATE, MIB), MIB) == template
    assert problems(two) == ""


@pytest.mark.heavy
def test_a_leg_alone_keeps_the_cache_after_an_orderly_stop(two: Lab) -> None:
    lab = two
    _, device = fill(lab)
    new = change(lab, device)
    lab.run(["hatchery-store", "down"])
    lab.run(["mv", SECOND, AWAY])
    assert "its cache counts as empty" not in up(lab)
    assert health(lab)["cache"]["attached"]
    assert read(lab, 1) == new


@pytest.mark.heavy
def test_a_new_drive_takes_the_place_of_a_dead_one(two: Lab) -> None:
    lab = two
    template, device = fill(lab)
    new = change(lab, device)
    lab.run(["hatchery-store", "down"])
    lab.poweroff()
    blank_disk(lab, 0)
    lab.start()
    up(lab)
    assert read(lab, 1) == new
    assert "one of its two NVMe drives" in problems(lab)
    planned = program(lab, "nvme", "--check")
    assert actions(planned) == [f"partition {FIRST}"]
    assert actions(program(lab, "nvme")) == actions(planned)
    planned = program(lab, "store", "--check")
    assert {"rejoin metadata mirror", "rejoin cache mirror"} <= set(actions(planned))
    assert actions(program(lab, "store")) == actions(planned)
    lab.call(arrays.whole, timeout=120)
    assert program(lab, "store")["changed"] is False
    assert read(lab, 1) == new
    assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, MIB), MIB) == template
    assert health(lab)["cache"]["settings_ok"]


@pytest.mark.heavy
def test_a_second_drive_is_added_while_a_clone_is_written(tree: Path) -> None:
    with Lab(tree, Options(nvme_count=2)) as lab:
        for part in ("nvme", "backend", "store"):
            program(lab, part, **({"devices": [FIRST]} if part == "nvme" else {}))
        assert refused(lab, "store", cache_mode="writeback")["code"] == "refused"
        template, device = fill(lab)
        load = lab.begin_call(drive.load, [device], 15, timeout=160)
        wait.until(lambda: lab.call(drive.requests, device) > 100, "load", deadline=60)
        assert actions(program(lab, "nvme")) == [f"partition {SECOND}"]
        planned = actions(program(lab, "store", "--check"))
        assert {"create cache mirror", "move cache", "rejoin cache mirror", "rejoin metadata mirror"} <= set(planned)
        assert program(lab, "store")["changed"]
        errors = load.result()
        assert not any(errors.values()), errors
        lab.call(arrays.whole, timeout=120)
        found = lab.call(arrays.look)
        assert (found["meta"]["places"], found["cache"]["places"]) == (3, 2)
        assert program(lab, "store")["changed"] is False
        assert actions(program(lab, "store", cache_mode="writeback")) == ["set cache settings"]
        assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, MIB), MIB) == template
        assert problems(lab) == ""


@pytest.mark.heavy
def test_a_second_drive_that_is_cut_off_at_any_step_is_taken_in(tree: Path) -> None:
    with Lab(tree, Options(nvme_count=2)) as lab:
        for part in ("nvme", "backend", "store"):
            program(lab, part, **({"devices": [FIRST]} if part == "nvme" else {}))
        fill(lab)
        lab.call(setup.in_sync, timeout=240)
        program(lab, "nvme")
        spec = json.dumps(lab.call(setup.specs)["store"])
        reached = []
        for step in (
            "rejoin metadata mirror",
            "create cache mirror",
            "create cache:",
            "move cache",
            "retire cache",
            "rejoin cache mirror",
        ):
            if cut(lab, spec, step):
                reached.append(step)
            up(lab)
            assert read(lab, MIB) == hashlib.sha256(volumes.content(TEMPLATE, MIB)).hexdigest()
            assert health(lab)["cache"]["attached"], step
        print("cut at:", reached)
        program(lab, "store")
        lab.call(arrays.whole, timeout=120)
        assert program(lab, "store")["changed"] is False
        assert problems(lab) == ""


def cut(lab: Lab, spec: str, step: str) -> bool:
    """Cut the power as soon as setup says that it begins a step, or at its end when it was done before.

    Returns whether it was begun.
    """
    job = lab.begin(["hatchery-store", "setup", "store", "--spec", "-"], stdin=spec)
    wait.until(lambda: f"\n{step}" in f"\n{job.stderr}" or job.done(), step, deadline=60, interval=0.002)
    begun = f"\n{step}" in f"\n{job.stderr}"
    lab.restart()
    return begun
