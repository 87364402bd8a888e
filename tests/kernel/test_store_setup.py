"""Setting the store up: repeated, only checked, refused, cut off."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from appliance import wait
from tests.kernel.inside import setup, volumes
from tests.kernel.lab import Lab, Options

PARTS = ("nvme", "backend", "store")


def program(lab: Lab, part: str, *options: str, **changes: object) -> tuple[int, dict[str, Any]]:
    """Run ``hatchery-store setup``: its exit status and its JSON answer."""
    spec = {**lab.call(setup.specs)[part], **changes}
    words = ["hatchery-store", "setup", part, "--spec", "-", "--json", *options]
    done = lab.run(words, stdin=json.dumps(spec), timeout=180, check=False)
    return done.returncode, json.loads(done.stdout)


def disks(lab: Lab) -> dict[str, str]:
    """Digests of all disks, as the host sees them."""
    found = {}
    for path in sorted((lab.folder / "disks").iterdir()):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def settings(lab: Lab) -> list[str]:
    return sorted(path.name for path in Path(lab.folder / "etc").rglob("*.toml"))


def test_every_part_is_checked_made_and_left_alone(lab: Lab) -> None:
    for part in PARTS:
        before = disks(lab) if part == "nvme" else {}
        status, planned = program(lab, part, "--check")
        assert (status, planned["changed"]) == (0, True)
        assert planned["config_diff"]["before"] == ""
        assert f"[{part}]" in planned["config_diff"]["after"]
        if before:
            assert disks(lab) == before, "a check wrote to a disk"
            assert settings(lab) == []
        status, made = program(lab, part)
        assert (status, made["changed"]) == (0, True)
        planned_actions = {(step["action"], step["target"]) for step in planned["steps"]}
        made_actions = {(step["action"], step["target"]) for step in made["steps"]}
        if part != "store":  # what lies on the mirror cannot be told before there is a mirror
            assert planned_actions == made_actions
        for options in ((), ("--check",)):
            status, again = program(lab, part, *options)
            assert (status, again["changed"], again["steps"]) == (0, False, [])
    assert settings(lab) == ["10-nvme.toml", "20-backend.toml", "30-store.toml"]
    state = json.loads(lab.run(["hatchery-store", "status", "--json"]).stdout)
    assert state["pool"]["mode"] == "rw"
    assert state["cache"]["attached"]
    assert state["cache"]["settings_ok"]


def test_disks_are_examined_before_the_nvme_drive_is_set_up(lab: Lab) -> None:
    before = disks(lab)
    status, planned = program(lab, "backend", "--check")
    assert (status, planned["changed"]) == (0, True)
    assert [step["action"] for step in planned["steps"]] == ["create", "partition"]
    lab.run(["mkfs.ext4", "-q", "-L", "photos", "/dev/disk/by-id/ata-LAB_2"])
    lab.run(["sync"])
    assert disks(lab) != before
    before = disks(lab)
    for options in ((), ("--check",)):
        status, answer = program(lab, "backend", *options)
        assert (status, answer["error"]["code"]) == (2, "refused" if options else "not-ready")
    assert "photos" in answer["error"]["why"]
    assert "LAB_2" in answer["error"]["hint"]
    names = lab.call(setup.disks)
    for wrong, code in (
        ([*names[:2], "/dev/disk/by-id/ata-NONE"], "not-found"),
        (names[:2], "refused"),
    ):
        status, answer = program(lab, "backend", "--check", disks=wrong)
        assert (status, answer["error"]["code"]) == (2, code)
    status, planned = program(lab, "backend", "--check", wipe=["LAB_2"])
    assert [step["action"] for step in planned["steps"]] == ["wipe", "create", "partition"]
    assert disks(lab) == before, "examining wrote to a disk"
    assert settings(lab) == []


def test_a_disk_with_foreign_content_is_refused_and_wiped_only_by_its_serial(lab: Lab) -> None:
    program(lab, "nvme")
    disk = "/dev/disk/by-id/ata-LAB_2"
    lab.run(["mkfs.ext4", "-q", "-L", "photos", disk])
    lab.run(["sync"])
    before = disks(lab)
    for options in ((), ("--check",)):
        status, answer = program(lab, "backend", *options)
        assert (status, answer["error"]["code"]) == (2, "refused")
        assert "photos" in answer["error"]["why"]
        assert "LAB_2" in answer["error"]["hint"]
    status, answer = program(lab, "backend", wipe=["LAB_1", "LAB_3"])
    assert (status, answer["error"]["code"]) == (2, "refused")
    assert disks(lab) == before
    assert "20-backend.toml" not in settings(lab)
    status, answer = program(lab, "backend", wipe=["LAB_2"])
    assert (status, answer["changed"]) == (0, True)
    assert answer["steps"][0]["action"] == "wipe"


@pytest.mark.heavy
def test_disks_that_cannot_serve_are_refused(lab: Lab) -> None:
    status, answer = program(lab, "backend")
    assert (status, answer["error"]["code"]) == (2, "not-ready")
    status, answer = program(lab, "nvme", devices=["/dev/disk/by-id/nvme-NONE"])
    assert (status, answer["error"]["code"]) == (2, "not-found")
    program(lab, "nvme")
    names = lab.call(setup.disks)
    status, answer = program(lab, "backend", disks=[*names[:2], "/dev/disk/by-id/ata-NONE"])
    assert (status, answer["error"]["code"]) == (2, "not-found")
    status, answer = program(lab, "backend", disks=names[:2])
    assert (status, answer["error"]["code"]) == (2, "refused")
    lab.run(["mkfs.ext4", "-q", names[2]])
    lab.run(["mount", names[2], "/mnt"])
    status, answer = program(lab, "backend", wipe=["LAB_3"])
    assert (status, answer["error"]["code"]) == (2, "in-use")
    assert "/mnt" in answer["error"]["why"]


@pytest.mark.heavy
@pytest.mark.parametrize("moments", [("create", "partition"), ("assemble",)], ids=["backend", "backend-started"])
def test_a_backend_setup_that_was_cut_off_is_finished(lab: Lab, moments: tuple[str, ...]) -> None:
    program(lab, "nvme")
    if moments == ("assemble",):
        cut(lab, "backend", "partition")
    for moment in moments:
        cut(lab, "backend", moment)
    assert program(lab, "backend")[0] == 0
    status, again = program(lab, "backend")
    assert (status, again["changed"]) == (0, False)


@pytest.mark.heavy
def test_a_store_setup_that_was_cut_off_at_any_step_is_finished(lab: Lab) -> None:
    program(lab, "nvme")
    program(lab, "backend")
    for moment in (
        "create metadata mirror",
        "partition metadata mirror",
        "create cache",
        "create backing",
        "register",
        "attach",
        "set cache",
        "format",
        "mount",
        "activate hatchery-pool-durable-data",
    ):
        cut(lab, "store", moment)
    status, answer = program(lab, "store")
    assert (status, answer["changed"]) == (0, True)
    status, again = program(lab, "store")
    assert (status, again["changed"]) == (0, False)
    state = json.loads(lab.run(["hatchery-store", "status", "--json"]).stdout)
    assert state["pool"]["mode"] == "rw"
    assert state["meta"]["members"] != []


def cut(lab: Lab, part: str, moment: str) -> None:
    """Cut the power as soon as setup says that it begins a step."""
    words = ["hatchery-store", "setup", part, "--spec", "-"]
    job = lab.begin(words, stdin=json.dumps(lab.call(setup.specs)[part]))
    wait.until(
        lambda: f"\n{moment}" in f"\n{job.stderr}" or job.done(), f"{part}: {moment}", deadline=60, interval=0.002
    )
    assert f"\n{moment}" in f"\n{job.stderr}", job.stderr
    lab.restart()


@pytest.mark.heavy
def test_the_store_is_set_up_and_starts_with_udev_running(tree: Path) -> None:
    with Lab(tree, Options(udev=True)) as lab:
        for part in PARTS:
            status, answer = program(lab, part)
            assert (status, answer["changed"]) == (0, True), answer
        for part in PARTS:
            status, answer = program(lab, part)
            assert (status, answer["changed"]) == (0, False), answer
        template = lab.call(volumes.make_template, 1, 4)
        device = lab.call(volumes.make_clone, 2, 1, 4)
        assert lab.call(volumes.digest, device, 4) == template
        assert "hatchery-clone-2" in lab.run(["ls", "/dev/mapper"]).stdout
        lab.run(["hatchery-store", "down"])
        left = lab.run(["ls", "/dev/mapper", "/sys/block"]).stdout
        for word in ("hatchery", "md127", "bcache0"):
            assert word not in left
        lab.run(["hatchery-store", "up"])
        assert lab.call(volumes.digest, lab.call(volumes.activate_clone, 2, 4), 4) == template
