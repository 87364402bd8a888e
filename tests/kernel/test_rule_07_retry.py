"""Rule 7: a dying NVMe drive is not seen by any guest, and a bad sector only by the guest that owns it."""

import errno
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wait
from tests.kernel.inside import disks, drive, retry_layer, rules, volumes
from tests.kernel.lab import Disks, Lab, Options

MIB = 64
TEMPLATE = 1
SECONDS = 12


@pytest.fixture
def mortal(tree: Path, prepared: Path) -> Iterator[Lab]:
    """A running store on an NVMe drive that can die, and hatchery-retry; nothing of the service."""
    with Lab(tree, Options(nvme=Disks.FAULTY), prepared=prepared) as lab:
        lab.begin(["hatchery-retry"])
        lab.run(["hatchery-store", "up"])
        yield lab


def test_the_drive_dies_under_load_and_only_volumes_without_the_layer_see_errors(mortal: Lab) -> None:
    lab = mortal
    digest = lab.call(volumes.make_template, TEMPLATE, MIB)
    clones = [lab.call(volumes.make_clone, thin_id, TEMPLATE, MIB) for thin_id in (2, 3)]
    bare = lab.call(rules.bare_clone, 4, TEMPLATE, MIB)
    before = lab.call(volumes.digest, clones[0], MIB // 2)
    load = lab.begin_call(drive.load, [*clones, bare], SECONDS, timeout=SECONDS * 6 + 60)
    everywhere = [*clones, bare]
    wait.until(lambda: all(lab.call(drive.requests, device) > 500 for device in everywhere), "load", deadline=60)
    lab.call(disks.fail, 0)
    errors = load.result()
    seen = {name: count for name, count in errors.items() if count}
    assert any(bare.endswith(name.split()[1]) for name in seen), "no error anywhere: the drive did not die under load"
    for device in clones:
        assert not any(device.endswith(name.split()[1]) for name in seen), seen
        assert lab.call(volumes.digest, device, MIB // 2) == before
    assert lab.call(volumes.digest, lab.call(volumes.activate_template, TEMPLATE, MIB), MIB) == digest
    health = lab.call(volumes.health)
    assert health["cache"]["attached"] is False
    assert health["cache"]["health"] == "degraded"
    assert lab.call(volumes.make_clone, 5, TEMPLATE, MIB), "new clones still work"


def test_a_bad_sector_reaches_its_own_clone_only(mortal: Lab) -> None:
    lab = mortal
    lab.call(volumes.make_template, TEMPLATE, 16)
    for thin_id in (2, 3):
        lab.call(volumes.make_clone, thin_id, TEMPLATE, 16)
    own = lab.call(rules.write_mark, 2, 8192)
    where = lab.call(rules.find_content, own)
    lab.call(rules.break_data, where, 8)
    bad = lab.begin_call(retry_layer.read, 2, 8192)
    wait.until(lambda: lab.call(retry_layer.state, 2)["failures"] > 0, "the error", deadline=20)
    for sector in (8192, 0):
        neighbour = lab.call(retry_layer.read, 3, sector)
        assert neighbour["errno"] == 0
        assert neighbour["seconds"] < 2
    answer = bad.result()
    assert answer["errno"] == errno.EIO
    assert answer["seconds"] < 30
    for sector in (0, 16384):
        assert lab.call(retry_layer.read, 2, sector)["errno"] == 0, "the rest of the clone works"


@pytest.mark.heavy
def test_it_works_after_it_was_killed_and_started_again(mortal: Lab) -> None:
    lab = mortal
    lab.call(volumes.make_template, TEMPLATE, 16)
    lab.call(volumes.make_clone, 2, TEMPLATE, 16)
    lab.run(["pkill", "-KILL", "-f", "hatchery-retry"], check=False)
    lab.call(rules.break_whole, "hatchery-thin-2")
    reading = lab.begin_call(retry_layer.read, 2, 0)
    wait.until(lambda: not lab.call(retry_layer.state, 2)["active"], "the path to fail", deadline=20)
    lab.call(rules.mend_whole, "hatchery-thin-2")
    assert not reading.done(), "nobody retried, and yet there was an answer"
    retry = lab.begin(["hatchery-retry"])
    assert reading.result()["errno"] == 0
    retry.kill(signal.SIGTERM)
