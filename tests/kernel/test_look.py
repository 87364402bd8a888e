"""A clone is looked into when somebody asks for it: by a device that nobody can write to, and nothing is left."""

import json
from collections.abc import Iterator

import pytest

from appliance import wait
from appliance.model import MIB
from tests.kernel.inside import attach, look, stills
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon, with_clones
from tests.kernel.test_service_clones import uri

WEB = uri("web")


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = with_clones(store, "web", "other")
    yield running
    print(running.job.stderr)


def test_a_clone_is_looked_into_and_left_as_it_was(daemon: Daemon) -> None:
    lab = daemon.lab
    # The appliance loads it, for itself.
    lab.run(["rmmod", "nbd"])
    done = lab.run(["hatchery", "clone", "look", "web", "--json"], check=False)
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (9, "not-ready"), "the module is not loaded"
    assert "modprobe nbd" in json.loads(done.stdout)["error"]["hint"]
    lab.run(["modprobe", "nbd"])
    # Nothing that is known is on it: the image is no file system.
    (bare,) = json.loads(lab.run(["hatchery", "clone", "look", "other", "--json"]).stdout)
    assert (bare["number"], bare["size"], bare["holds"]) == (0, 24 * MIB, "")

    own = lab.call(look.furnish, WEB)
    before = (lab.call(inside.read_back, WEB), lab.call(stills.left))
    disk, root, empty = json.loads(lab.run(["hatchery", "clone", "look", "web", "--json"]).stdout)
    assert (disk["number"], disk["size"], disk["holds"]) == (0, 24 * MIB, "gpt partition table")
    place = {"number": 1, "start": MIB, "size": 8 * MIB, "name": "root [b]"}
    assert root == place | {"holds": "ext4", "label": "a guest's", "uuid": own}
    assert (empty["number"], empty["holds"], empty["name"]) == (2, "", "empty")
    shown = lab.run(["hatchery", "clone", "look", "web"]).stdout
    assert "a guest's" in shown
    assert "root [b]" in shown
    # Its guest may use it meanwhile, and an export can be looked into that is attached here already.
    device = lab.run(["hatchery-attach", WEB]).stdout.strip()
    assert len(json.loads(lab.run(["hatchery", "clone", "look", "web", "--json"]).stdout)) == 3
    assert len(json.loads(lab.run(["hatchery-attach", "--look", WEB, "--json"]).stdout)) == 3
    assert [one["device"] for one in lab.call(attach.listed)] == [device]
    lab.run(["hatchery-attach", "--detach", device])
    assert (lab.call(inside.read_back, WEB), lab.call(stills.left)) == before
    assert lab.call(attach.listed) == []


def test_who_looks_can_do_nothing_else(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.run(["modprobe", "nbd"])
    lab.call(look.furnish, WEB)
    other = lab.run(["hatchery-attach", uri("other")]).stdout.strip()
    before = lab.call(inside.read_back, WEB)
    assert lab.call(look.may, WEB, other) == {
        "root writes": False,
        "it reads": True,
        "it writes": False,
        "it reads another": False,
        "it writes a file": False,
        "it has a capability": False,
        "it has a group": False,
        "others claim it": False,
    }
    assert lab.call(inside.read_back, WEB) == before
    assert [one["device"] for one in lab.call(attach.listed)] == [other]

    # Who is killed while he looks leaves no device.
    looking = lab.begin_call(look.hold, WEB)
    device = lab.call(look.held)
    assert (device, f"{WEB}#look", True, False) in [
        (one["device"], one["export"], one["read_only"], one["ours"]) for one in lab.call(attach.listed)
    ]
    assert lab.run(["hatchery-attach", "--detach", device], check=False).returncode == 1, "it is not an attached one"
    looking.kill()
    wait.until(lambda: [one["device"] for one in lab.call(attach.listed)] == [other], "the device to go", deadline=30)
