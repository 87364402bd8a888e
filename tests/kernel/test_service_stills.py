"""Disks are exported to image files: equal to what they were at one moment, and nothing is left of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.model import MIB
from tests.kernel.inside import clone_life as life
from tests.kernel.inside import service as inside
from tests.kernel.inside import stills
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon
from tests.kernel.test_service_clones import uri


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    running.lab.call(inside.clones, "web", "debian")
    running.lab.call(inside.qemu_io, uri("web"), "write -P 7 3M 1M", "flush")
    yield running
    print(running.job.stderr)


def export(lab: Lab, *words: str) -> dict[str, Any]:
    """Export a disk; what was told of it."""
    told: dict[str, Any] = json.loads(lab.run(["hatchery", "--json", *words], timeout=120).stdout)
    return told


@pytest.mark.heavy
def test_an_image_holds_what_the_disk_held(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(life.ephemeral, "quick", "debian")
    lab.call(inside.qemu_io, uri("quick"), "write -P 8 5M 1M", "flush")
    lab.call(life.resize, "web", (inside.IMAGE_MIB + 8) * MIB)
    before = lab.call(stills.left)
    disks = {
        ("template", "debian"): lab.call(inside.digest),
        ("clone", "web"): lab.call(inside.read_back, uri("web")),
        ("clone", "quick"): lab.call(inside.read_back, uri("quick")),
    }
    assert len(set(disks.values())) == 3
    for (kind, name), digest in disks.items():
        for form in ("raw", "qcow2"):
            file = f"/run/{name}.{form}"
            told = export(lab, kind, "export", name, file)
            assert told["size"] >= inside.IMAGE_MIB * MIB
            assert lab.call(stills.digest, file, form) == digest, (name, form)
            # What is data in the image is 4 MiB, and one more was written to the clones.
            assert 4 * MIB <= lab.call(stills.allocated, file) <= 6 * MIB, (name, form)
            assert lab.call(stills.left) == before, (name, form)

    # Nobody is connected to a clone that nobody has: it is exported all the same. Its guest's disk can come back.
    lab.run(["hatchery", "clone", "detach", "web"])
    before = lab.call(stills.left)
    export(lab, "clone", "export", "web", "/run/again.qcow2")
    assert lab.call(stills.digest, "/run/again.qcow2", "qcow2") == disks["clone", "web"]
    assert lab.call(stills.left) == before
    lab.run(["hatchery", "template", "add", "back", "/run/again.qcow2"])
    lab.call(inside.clones, "copy", "back")
    assert lab.call(inside.read_back, uri("copy")) == disks["clone", "web"]

    # By the standard output, and into a folder that is too small.
    done = lab.run(["sh", "-c", "hatchery clone export web - --format raw > /run/piped.raw"], timeout=120)
    assert done.stdout == ""
    assert lab.call(stills.digest, "/run/piped.raw", "raw") == disks["clone", "web"]
    lab.call(stills.small_folder, "/run/small", 2)
    before = lab.call(stills.left)
    done = lab.run(["hatchery", "clone", "export", "web", "/run/small/web.raw"], check=False, timeout=120)
    assert done.returncode == 8, done.stderr
    assert "are needed" in done.stderr
    assert lab.call(stills.files, "/run/small") == []
    assert lab.call(stills.left) == before


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["durable", "ephemeral"])
def test_a_clone_that_is_written_meanwhile_gives_one_state(daemon: Daemon, kind: str) -> None:
    lab = daemon.lab
    name = "web" if kind == "durable" else "quick"
    if kind == "ephemeral":
        lab.call(life.ephemeral, name, "debian")
    writer = lab.begin_call(stills.write_rounds, name, timeout=300)
    seen = lab.call(stills.acknowledged, 2)
    before = lab.call(stills.left)
    for turn in range(3):
        told = export(lab, "clone", "export", name, f"/run/{turn}.raw")
        assert told["subject"] == f"clone {name}"
        found = lab.call(stills.rounds, f"/run/{turn}.raw")
        # The guest writes to one place after the other: up to some place is one round, from there on the one before.
        assert found == sorted(found, reverse=True), found
        assert found[0] - found[-1] in (0, 1), found
        assert found[-1] >= seen, "what was acknowledged before the export is in it"
        seen = lab.call(stills.acknowledged, found[0])
    assert not writer.done(), writer.stderr
    assert lab.call(stills.left) == before
    writer.kill()


@pytest.mark.heavy
def test_nothing_is_left_however_it_ends(daemon: Daemon) -> None:
    lab = daemon.lab
    before = lab.call(stills.left)
    assert not before["daemon"]

    # It is read-only, and not the clone's own export.
    still = lab.call(stills.begin, "web")
    # QEMU's releases differ in the error.
    assert lab.call(stills.write_refused, still) in ("Operation not permitted", "Invalid argument")
    lab.run(["hatchery", "clone", "remove", "web", "--force"])
    lab.call(inside.clones, "web", "debian")
    after = lab.call(stills.left)
    assert [each for each in after["problems"] if "unknown" in each] == []
    assert after["steps"] == []

    # Its reader is killed: it goes by itself, and not before.
    reader = lab.begin_call(stills.read_slowly, still, timeout=300)
    lab.call(stills.reading)
    lab.run(["hatchery", "gc"])
    assert lab.call(stills.left)["stills"] == [still]
    reader.kill()
    lab.call(stills.wait_ended, timeout=120)
    ended = lab.call(stills.left)
    assert (ended["stills"], ended["daemon"], ended["steps"], ended["problems"]) == ([], False, [], [])
    assert len(ended["durable"]) == 2

    # The service is killed, and the machine: the next start finds a snapshot, and takes it away.
    for end in (daemon.kill, daemon.power_cut):
        lab.call(stills.begin, "web")
        assert len(lab.call(stills.left)["durable"]) == 3
        end()
        assert lab.call(stills.left) == ended

    # It is killed while it holds a clone still: the guest goes on with the next start.
    (thin,) = [name for name in ended["devices"] if name.startswith("hatchery-thin-")]
    lab.call(stills.hold, thin)
    daemon.kill()
    assert lab.call(stills.left) == ended
    assert "verification failed" not in lab.call(inside.qemu_io, uri("web"), "write -P 9 3M 1M", "read -P 9 3M 1M")
