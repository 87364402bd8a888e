"""The self-test that a new version has to pass, against the real service, pool and storage daemon."""

import shutil

import pytest

from appliance.errors import Unhealthy
from appliance.model import MIB
from appliance.run import Runner
from appliance.update import selftest
from tests.kernel.inside import selftest as inside
from tests.kernel.inside import service
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon
from tests.tier import require


def test_a_clone_is_written_read_and_removed(store: Lab) -> None:
    daemon = Daemon(store)
    lab = daemon.lab
    # Nothing to make a clone of: a template is made for it, and goes again.
    empty = lab.call(service.used)["data"]
    for _ in range(2):
        assert lab.call(inside.run) is True
        assert "hatchery-self-test" not in lab.run(["hatchery", "template", "list"]).stdout
        assert lab.call(service.used)["data"] == empty
    lab.call(service.add_image, "debian")
    before = lab.call(service.used)["data"]
    assert lab.call(inside.run) is True
    # One that was broken off is in nobody's way.
    lab.call(inside.left_over, "debian")
    assert lab.call(inside.run) is True
    assert lab.call(service.used)["data"] == before
    assert "hatchery-self-test" not in lab.run(["hatchery", "clone", "list"]).stdout
    daemon.stop()


@pytest.mark.heavy
def test_a_disk_that_forgets_is_seen() -> None:
    require(shutil.which("qemu-io"), "qemu-io is needed (package qemu-utils)")
    with pytest.raises(Unhealthy, match="does not keep what is written"):
        selftest.exchange("null-co://", 8 * MIB, Runner())
