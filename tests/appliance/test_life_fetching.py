"""A template is cloned while another server still has most of it: under systemd, by units with few rights.

Runs after test_life.py, whose first tests need an appliance that was not deployed yet. What fetching does when a
server hangs, or the machine loses its power, is the kernel tier's.
"""

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.client import Client
from appliance.model import ImageFormat, TemplateState
from appliance.schema import CloneCreate, NbdSource, TemplateCreate
from appliance.wait import until
from bench.vm import LOOPBACK
from tests.appliance.site import CLIENT, Play, Site
from tests.appliance.test_privileges import GATEWAY
from tests.appliance.users import qemu_io

MIB = 1 << 20
LENGTH = 48
"""Of the disk, in MiB; each is filled with the number of its place, the first with zeros."""

SLOW, FAST = 256 << 10, 0
"""Bytes in a second; 0 is as fast as it goes. At the slow rate all of it takes three minutes."""

SOURCES = "hatchery-nbd@hatchery-source-*"


@contextmanager
def origin(site: Site, disk: Path, port: int, rate: int) -> Iterator[None]:
    """Another server on this machine, which has the disk read-only."""
    node = {
        "driver": "throttle",
        "node-name": "disk",
        "throttle-group": "pace",
        "read-only": True,
        "file": {"driver": "file", "filename": str(disk), "read-only": True},
    }
    words = [
        "qemu-storage-daemon",
        *("--object", json.dumps({"qom-type": "throttle-group", "id": "pace", "limits": {"bps-total": rate}})),
        *("--blockdev", json.dumps(node)),
        *("--nbd-server", f"addr.type=inet,addr.host={LOOPBACK},addr.port={port}"),
        *("--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=off"),
    ]

    def answers() -> bool:
        with socket.socket() as asking:
            return asking.connect_ex((LOOPBACK, port)) == 0

    with site.runner.start(words):
        until(answers, "the other server", deadline=30)
        yield


def units(site: Site) -> str:
    """The daemons that pass on what is fetched."""
    return site.vm.ssh(["systemctl", "list-units", "--plain", "--no-legend", SOURCES]).stdout


def state(api: Client) -> TemplateState:
    return api.template("far").state


@pytest.mark.heavy
def test_a_template_is_cloned_while_it_is_fetched(site: Site, deployed: Play, tmp_path: Path) -> None:
    if deployed.failed:
        pytest.fail(deployed.said)
    content = b"".join(bytes([number]) * MIB for number in range(LENGTH))
    disk = tmp_path / "far.raw"
    disk.write_bytes(content)
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    source = NbdSource(uri=f"nbd://{GATEWAY}:{port}/disk", lazy=True)
    last = f"read -q -P {LENGTH - 1} {LENGTH - 1}M 1M"
    with site.api() as api:
        try:
            with origin(site, disk, port, SLOW):
                wanted = TemplateCreate(name="far", format=ImageFormat.RAW, source=source)
                api.finish(api.import_template(wanted), deadline=300)
                assert state(api) is TemplateState.FETCHING
                api.create_clones(CloneCreate(name="early", template="far", client=CLIENT, learn=False))
                qemu_io(site, "early", "write -q -P 200 5M 64k", "flush", last)
                assert state(api) is TemplateState.FETCHING, "it was read before it was here"
                [unit] = units(site).splitlines()
                pid = site.vm.ssh(["systemctl", "show", "--property=MainPID", "--value", unit.split()[0]]).stdout
                assert site.vm.ssh(["stat", "--format=%u", f"/proc/{pid.strip()}"]).stdout.strip() != "0"
            until(lambda: "far@1" in " ".join(each.what for each in api.status().problems), "a word", deadline=120)
            with origin(site, disk, port, FAST):
                until(lambda: state(api) is TemplateState.READY, "all of it", deadline=600)
            view = api.template("far")
            assert (view.size, view.sha256) == (len(content), hashlib.sha256(content).hexdigest())
            assert view.mapped_bytes == (LENGTH - 1) * MIB, "zeros take no space"
            # The other server is gone for good.
            qemu_io(site, "early", last, "read -q -P 200 5M 64k", "read -q -P 5 5184k 64k", "read -q -P 0 0 1M")
            until(lambda: units(site) == "", "its daemon to go", deadline=60)
            assert site.failed_units() == ""
        finally:
            api.remove_clone("early", force=True)
            until(lambda: not api.remove_template("far").removed, "the template to go", deadline=60)
