"""Scrubbing finds what changed on a disk without an error, and is out of the way when the array is to be changed."""

import pytest

from tests.kernel.inside import arrays, setup
from tests.kernel.lab import Lab
from tests.kernel.store_lab import actions, health, program, up

MIB = 1 << 20
SPOIL = ["dd", "if=/dev/urandom", "bs=64k", "count=1", "oflag=direct", "conv=notrunc"]


@pytest.fixture
def whole(store: Lab) -> Lab:
    """A store whose arrays have nothing to do."""
    store.call(setup.in_sync, timeout=240)
    return store


@pytest.mark.heavy
def test_what_a_disk_changed_by_itself_is_found(whole: Lab) -> None:
    lab = whole
    done = lab.run(["hatchery-store", "scrub"], timeout=300)
    assert "hatchery:backend: everything can be read, and no copy differs" in done.stderr
    assert "hatchery:meta: everything can be read, and no copy differs" in done.stderr
    disk = lab.call(setup.disks)[0]
    middle = int(lab.run(["blockdev", "--getsize64", disk]).stdout) // 2 // MIB
    lab.run([*SPOIL, f"of={disk}", f"seek={middle * 16}"])
    done = lab.run(["hatchery-store", "scrub"], timeout=300, check=False)
    assert done.returncode == 1
    assert "data and parity of" in done.stderr
    assert health(lab)["backend"]["health"] == "ok"


@pytest.mark.heavy
def test_a_scrub_that_runs_does_not_keep_the_array_from_being_changed(whole: Lab) -> None:
    lab = whole
    scrub = lab.begin(["hatchery-store", "scrub"])
    lab.call(arrays.being_checked)
    lab.call(arrays.switch_log, 1, timeout=120)
    found = lab.call(arrays.look)["backend"]
    assert (found["action"], found["policy"]) == ("idle", "ppl")
    assert scrub.completed(60).returncode == 0
    assert actions(program(lab, "backend")) == []
    up(lab)
