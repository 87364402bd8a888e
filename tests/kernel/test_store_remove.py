"""Removing the store: refused, only checked, done with what is foreign untouched, cut off, done again."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import wait
from appliance.model import MIB
from tests.kernel.inside import volumes
from tests.kernel.lab import Lab, Options
from tests.kernel.store_lab import actions, health, program

DRIVES = ("nvme-LAB_0", "nvme-LAB_9", "ata-LAB_1", "ata-LAB_2", "ata-LAB_3")
SERIALS = tuple(drive.partition("-")[2] for drive in DRIVES)
FOREIGN = slice(1 * MIB, 33 * MIB)
"""Where somebody else's partition lies on the first NVMe drive."""


def remove(lab: Lab, serials: tuple[str, ...], *options: str) -> dict[str, Any]:
    """Run ``hatchery-store remove``: its JSON answer."""
    words = ["hatchery-store", "remove", "--json", *options]
    done = lab.run([*words, *(f"--serial={serial}" for serial in serials)], timeout=120, check=False)
    found: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 2) == ("error" in found), done.stderr
    return found


def foreign(lab: Lab) -> str:
    """Digest of somebody else's partition, as the host sees it."""
    with lab.disk(0).open("rb") as file:
        file.seek(FOREIGN.start)
        return hashlib.sha256(file.read(FOREIGN.stop - FOREIGN.start)).hexdigest()


def table(lab: Lab) -> list[tuple[str, int, int, str]]:
    """The first NVMe drive's partitions: name, start, size, id."""
    found = json.loads(lab.run(["sfdisk", "--json", "/dev/disk/by-id/nvme-LAB_0"]).stdout)["partitiontable"]
    return [(part.get("name", ""), part["start"], part["size"], part["uuid"]) for part in found["partitions"]]


def left(lab: Lab) -> set[str]:
    """What of a store is still there: devices, file systems, settings, signatures on its drives."""
    found = {name for name in lab.run(["ls", "/dev/mapper", "/sys/block"]).stdout.split() if is_ours(name)}
    found |= {word for word in lab.run(["cat", "/proc/self/mountinfo"]).stdout.split() if "lib/hatchery" in word}
    found |= {str(path) for path in Path(lab.folder / "etc").rglob("*.toml")}
    for drive in DRIVES[1:]:
        found |= {f"{drive}: {kind}" for kind in signatures(lab, drive)}
    return found


def signatures(lab: Lab, drive: str) -> set[str]:
    """What is recognised on a drive."""
    found = json.loads(lab.run(["wipefs", "--json", f"/dev/disk/by-id/{drive}"]).stdout or "{}")
    return {sign["type"] for sign in found.get("signatures", [])}


def is_ours(name: str) -> bool:
    return name.startswith(("hatchery", "md", "bcache"))


@pytest.fixture
def shared(tree: Path) -> Iterator[Lab]:
    """A machine whose system is on the first NVMe drive as well, as far as the store can tell."""
    with Lab(tree, Options(nvme_count=2)) as lab:
        text = f'label: gpt\nstart={FOREIGN.start // 512}, size={32 * MIB // 512}, name="owner"\n'
        lab.run(["sfdisk", "--quiet", "/dev/disk/by-id/nvme-LAB_0"], stdin=text)
        lab.run(["mkfs.ext4", "-q", "/dev/ubda1"])
        lab.run(["mount", "-o", "ro", "/dev/ubda1", "/home"])
        lab.run(["sync"])
        yield lab


def test_all_of_the_store_goes_and_nothing_else(shared: Lab) -> None:
    lab = shared
    owner, before = foreign(lab), table(lab)
    assert [name for name, *_ in before] == ["owner"]
    for part in ("nvme", "backend", "store"):
        program(lab, part)
    template = lab.call(volumes.make_template, 1, 4)
    device = lab.call(volumes.make_clone, 2, 1, 4)
    assert left(lab) >= {"hatchery-clone-2", "ata-LAB_1: linux_raid_member", "nvme-LAB_9: gpt"}
    # Refused: a number too few, one too many, a wrong one, the right ones while a clone is attached.
    for serials, code in (
        ((), "refused"),
        (SERIALS[:-1], "refused"),
        ((*SERIALS, "LAB_5"), "refused"),
        ((*SERIALS[:-1], "LAB_4"), "refused"),
        ((*SERIALS, SERIALS[0]), "invalid-input"),
        (SERIALS, "in-use"),
    ):
        for options in ((), ("--check",)):
            assert remove(lab, serials, *options)["error"]["code"] == code
    assert lab.call(volumes.digest, device, 4) == template
    assert health(lab)["pool"]["mode"] == "rw"
    # Check mode tells what will be done, and does nothing.
    planned = remove(lab, SERIALS, "--lose-attached-clones", "--check")
    assert planned["changed"]
    assert planned["config_diff"]["after"] == ""
    assert "[backend]" in planned["config_diff"]["before"]
    assert lab.call(volumes.digest, device, 4) == template
    made = remove(lab, SERIALS, "--lose-attached-clones")
    assert (made["changed"], actions(made)) == (True, actions(planned))
    assert left(lab) == set()
    assert table(lab) == before
    assert foreign(lab) == owner
    # Again: nothing. And a new store can be made, which knows nothing of the old one.
    for options in ((), ("--check",)):
        again = remove(lab, SERIALS, *options)
        assert (again["changed"], again["steps"]) == (False, [])
    for part in ("nvme", "backend", "store"):
        program(lab, part)
    assert health(lab)["pool"]["mode"] == "rw"
    assert lab.call(volumes.make_template, 1, 4) == template
    assert foreign(lab) == owner


@pytest.mark.heavy
def test_a_removal_that_was_cut_off_goes_on_and_the_store_does_not_start_in_between(store: Lab) -> None:
    lab, serials = store, ("LAB_0", "LAB_1", "LAB_2", "LAB_3")
    for moment in ("take down", "erase /dev/disk/by-id/nvme-LAB_0", "erase /dev/disk/by-id/ata-LAB_2"):
        cut(lab, serials, moment)
        if moment != "take down":
            done = lab.run(["hatchery-store", "up"], check=False)
            assert (done.returncode, "the store is not set up" in done.stderr) == (2, True)
        else:
            lab.run(["hatchery-store", "up"], timeout=120)
    # A disk that is missing cannot be wiped, and does not keep the rest from it.
    lab.run(["rm", "/dev/disk/by-id/ata-LAB_3"])
    assert remove(lab, ("LAB_0", "LAB_1", "LAB_4"))["error"]["code"] == "refused"
    assert remove(lab, ("LAB_0", "LAB_1", "LAB_2"))["changed"]
    assert remove(lab, ("LAB_0", "LAB_1", "LAB_2"))["changed"] is False
    lab.run(["ln", "-s", "../../ubdd", "/dev/disk/by-id/ata-LAB_3"])
    assert left_on_disks(lab) == {"ata-LAB_3"}


def cut(lab: Lab, serials: tuple[str, ...], moment: str) -> None:
    """Cut the power as soon as the removal says that it begins a step."""
    job = lab.begin(["hatchery-store", "remove", *(f"--serial={serial}" for serial in serials)])
    wait.until(lambda: f"\n{moment}" in f"\n{job.stderr}" or job.done(), moment, deadline=60, interval=0.002)
    assert f"\n{moment}" in f"\n{job.stderr}", job.stderr
    lab.restart()


def left_on_disks(lab: Lab) -> set[str]:
    """The drives that hold something."""
    drives = ("nvme-LAB_0", "ata-LAB_1", "ata-LAB_2", "ata-LAB_3")
    return {drive for drive in drives if signatures(lab, drive)}
