"""Ephemeral clones over real NBD: content, isolation, space, power cuts, and the death of their drive."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import wait
from tests.kernel.inside import disks, ephemeral
from tests.kernel.inside import service as inside
from tests.kernel.lab import Disks, Lab, Options
from tests.kernel.service_lab import Daemon
from tests.kernel.test_service_clones import uri


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    yield running
    print(running.job.stderr)


@pytest.fixture
def mortal(tree: Path, prepared: Path) -> Iterator[Daemon]:
    """The service with everything that stands by when a drive dies."""
    with Lab(tree, Options(nvme=Disks.FAULTY), prepared=prepared) as lab:
        lab.begin(["hatchery-retry"])
        lab.run(["hatchery-store", "up"])
        running = Daemon(lab)
        lab.call(inside.add_image, "debian")
        yield running
        print(running.job.stderr)


def create(lab: Lab, name: str, *options: str) -> None:
    lab.run(["hatchery", "clone", "create", name, "--template", "debian", *options])


def states(lab: Lab) -> dict[str, str]:
    clones: list[dict[str, Any]] = json.loads(lab.run(["hatchery", "--json", "clone", "list"]).stdout)
    return {clone["name"]: clone["state"] for clone in clones}


def qemu_io(lab: Lab, name: str, *commands: str) -> str:
    said: str = lab.call(inside.qemu_io, uri(name), *commands)
    return said


@pytest.mark.heavy
def test_two_live_side_by_side_outlive_a_power_cut_and_give_all_back(daemon: Daemon) -> None:
    lab = daemon.lab
    empty, durable = lab.call(ephemeral.used), lab.call(inside.used)["data"]
    create(lab, "ci", "--ephemeral", "--count", "2")
    digest = lab.call(inside.digest)
    for name in ("ci-1", "ci-2"):
        assert lab.call(inside.read_back, uri(name)) == digest
    assert lab.call(ephemeral.used) == empty, "a clone that wrote nothing takes nothing"
    qemu_io(lab, "ci-1", "write -P 7 3M 1M", "flush")
    assert lab.call(inside.read_back, uri("ci-2")) == digest
    assert lab.call(ephemeral.used) == empty + (1 << 20)
    assert lab.call(inside.used)["data"] == durable, "nothing went to the backend"

    refused = lab.run(["hatchery", "template", "remove", "debian"], check=False)
    assert refused.returncode != 0
    assert "ci-1" in refused.stderr
    assert "NVMe" in lab.run(["hatchery", "clone", "show", "ci-1"]).stdout

    daemon.kill()
    assert "verification failed" not in qemu_io(lab, "ci-1", "read -P 7 3M 1M")
    daemon.power_cut()
    assert lab.call(inside.status)["problems"] == []
    assert states(lab) == {"ci-1": "ready", "ci-2": "ready"}
    assert "verification failed" not in qemu_io(lab, "ci-1", "read -P 7 3M 1M")
    assert lab.call(inside.read_back, uri("ci-2")) == digest

    qemu_io(lab, "ci-1", "discard 3M 1M", "flush")
    assert lab.call(inside.read_back, uri("ci-1")) == digest, "a trimmed block shows the template again"
    for name in ("ci-1", "ci-2"):
        lab.run(["hatchery", "clone", "remove", name])
    assert lab.call(ephemeral.used) == empty
    assert lab.call(ephemeral.ids) == []
    lab.run(["hatchery", "template", "remove", "debian"])
    assert lab.call(inside.devices) == []


@pytest.mark.heavy
def test_when_the_drive_dies_they_stop_and_durable_clones_go_on(mortal: Daemon) -> None:
    lab = mortal.lab
    create(lab, "quick", "--ephemeral")
    create(lab, "slow")
    digest = lab.call(inside.digest)
    qemu_io(lab, "quick", "write -P 7 3M 1M", "flush")
    qemu_io(lab, "slow", "write -P 8 3M 1M", "flush")
    lab.call(disks.fail, 0)
    wait.until(lambda: states(lab)["quick"] == "lost", "the clone to be lost", deadline=30, interval=0.5)
    assert lab.run(["qemu-io", "-f", "raw", "-c", "read 0 4k", uri("quick")], check=False).returncode != 0
    assert "verification failed" not in qemu_io(lab, "slow", "read -P 8 3M 1M")
    problems = [problem["what"] for problem in lab.call(inside.status)["problems"]]
    assert any("fast pool has failed" in what for what in problems), problems
    done = lab.run(["hatchery", "clone", "create", "late", "-t", "debian", "--ephemeral"], check=False)
    assert done.returncode != 0
    create(lab, "late")
    assert lab.call(inside.read_back, uri("late")) == digest

    lab.call(disks.heal, 0)
    lab.run(["hatchery-store", "up"], timeout=120)
    wait.until(lambda: states(lab)["quick"] == "ready", "the clone to be back", deadline=30, interval=0.5)
    assert "verification failed" not in qemu_io(lab, "quick", "read -P 7 3M 1M")
    assert "verification failed" not in qemu_io(lab, "slow", "read -P 8 3M 1M")
