"""Clones that are reset, grown, promoted and counted in hundreds, and templates of several versions, for real."""

from collections.abc import Iterator

import pytest

from appliance.model import MIB
from tests.kernel.inside import clone_life as life
from tests.kernel.inside import service as inside
from tests.kernel.lab import InsideError, Lab
from tests.kernel.service_lab import Daemon
from tests.kernel.test_service_clones import uri

MANY = 150


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    yield running
    print(running.job.stderr)


def agree(lab: Lab) -> None:
    """Catalog and kernel say the same, and nothing is left to be done."""
    assert lab.call(life.plan) == {"steps": [], "problems": []}


def test_a_clone_is_promoted_reset_and_grown(daemon: Daemon) -> None:
    lab = daemon.lab
    digest = lab.call(inside.digest)
    lab.call(inside.clones, "web", "debian")
    lab.call(inside.qemu_io, uri("web"), "write -P 7 3M 1M", "flush")

    # Its content becomes the next version; it stays what it is, and later writes are its own.
    made = lab.call(life.promote, "web")
    assert (made["ref"], made["size"], made["source"]) == ("debian@2", inside.IMAGE_MIB * MIB, "clone web")
    lab.call(inside.qemu_io, uri("web"), "write -P 8 3M 1M", "flush")
    lab.call(inside.clones, "child", "debian")
    assert "verification failed" not in lab.call(inside.qemu_io, uri("child"), "read -P 7 3M 1M")
    lab.call(inside.clones, "old", "debian@1")
    assert lab.call(inside.read_back, uri("old")) == digest

    # A reset takes away what was written, and gives its blocks back.
    before = lab.call(inside.used)["data"]
    lab.call(life.reset, "web")
    assert lab.call(inside.read_back, uri("web")) == digest
    assert lab.call(inside.used)["data"] == before - 1 * MIB

    # It grows, what it holds stays, and the new end can be written.
    lab.call(inside.qemu_io, uri("web"), "write -P 9 1M 1M", "flush")
    size = (inside.IMAGE_MIB + 16) * MIB
    assert lab.call(life.resize, "web", size)["size"] == size
    end = f"{inside.IMAGE_MIB + 15}M 1M"
    said = lab.call(inside.qemu_io, uri("web"), "read -P 9 1M 1M", f"read -P 0 {end}", f"write -P 5 {end}", "flush")
    assert "verification failed" not in said
    with pytest.raises(InsideError, match=r"InvalidInput.*smaller"):
        lab.call(life.resize, "web", MIB)

    # Nothing of this happens to somebody who is connected.
    guest = lab.begin(["qemu-io", "-f", "raw", "-c", "read 0 4k", "-c", "sleep 30000", uri("web")])
    lab.call(inside.wait_connected, "local")
    for verb in (lambda: life.reset, lambda: life.promote):
        with pytest.raises(InsideError, match=r"InUse.*connected"):
            lab.call(verb(), "web")
    with pytest.raises(InsideError, match=r"InUse.*connected"):
        lab.call(life.resize, "web", 2 * size)
    guest.kill()
    guest.wait(20)

    daemon.power_cut()
    said = lab.call(inside.qemu_io, uri("web"), "read -P 9 1M 1M", f"read -P 5 {end}")
    assert "verification failed" not in said
    agree(lab)


@pytest.mark.heavy
def test_an_ephemeral_clone_becomes_a_template(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(life.ephemeral, "quick", "debian")
    lab.call(inside.qemu_io, uri("quick"), "write -P 7 3M 1M", "flush")
    assert lab.call(life.promote, "quick", "golden", timeout=120)["ref"] == "golden@1"
    lab.call(inside.clones, "child", "golden")
    assert "verification failed" not in lab.call(inside.qemu_io, uri("child"), "read -P 7 3M 1M")
    assert "verification failed" not in lab.call(inside.qemu_io, uri("quick"), "read -P 7 3M 1M")
    lab.call(life.reset, "quick")
    assert lab.call(inside.read_back, uri("quick")) == lab.call(inside.digest)
    agree(lab)


@pytest.mark.heavy
def test_versions_come_and_go(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.clones, "one", "debian")
    first = lab.call(inside.used)["data"]
    assert lab.call(inside.add_image, "debian", 2)["ref"] == "debian@2"
    lab.call(inside.clones, "two", "debian")
    assert lab.call(inside.read_back, uri("one")) == lab.call(inside.digest, 1)
    assert lab.call(inside.read_back, uri("two")) == lab.call(inside.digest, 2)
    with pytest.raises(InsideError, match=r"Refused.*debian@1, debian@2"):
        lab.call(life.remove_template, "debian")
    with pytest.raises(InsideError, match=r"InUse.*one"):
        lab.call(life.remove_template, "debian@1")
    assert lab.call(life.remove_template, "debian@2", True)["retired"] is True
    lab.call(inside.remove, "two", False)
    assert lab.call(life.templates) == ["debian@1"]
    assert lab.call(inside.used)["data"] == first, "a version that went gives all of its space back"
    assert lab.call(inside.add_image, "debian", 3)["ref"] == "debian@3"
    agree(lab)


@pytest.mark.heavy
def test_hundreds_are_one_batch_and_take_no_devices_while_nobody_has_them(daemon: Daemon) -> None:
    lab = daemon.lab
    template = lab.call(inside.used)["data"]
    before = lab.call(life.transaction)
    lab.call(inside.clones, "vm", "debian", MANY, None, timeout=300)
    assert lab.call(life.transaction) == before + 1
    assert lab.call(life.clone_devices) == 0
    assert lab.call(inside.used)["data"] == template
    lab.call(inside.clones, "mine", "debian", 2)
    daemon.power_cut()
    assert lab.call(life.clone_devices) == 2, "a start brings up what is exported, and no more"
    agree(lab)
    assert lab.call(life.remove_all, timeout=600) == MANY + 2
    assert lab.call(inside.used)["data"] == template
    assert lab.call(inside.volumes) == [1]
    agree(lab)
