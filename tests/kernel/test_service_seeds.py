"""Seeds over real NBD: the clone's own client reads them and nobody writes them, whatever restarts."""

import json
from collections.abc import Iterator

import pytest

from tests.kernel.inside import seeds
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@here"
USER_DATA = "#cloud-config\npassword: hunter2\n"


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    for client in ("hv1", "hv2"):
        running.lab.run(["hatchery", "client", "add", client])
    yield running
    print(running.job.stderr)


def door(client: str, name: str = "") -> str:
    return f"nbd+unix:///{name}?socket=/run/hatchery/nbd/{client}/nbd.sock"


def there(lab: Lab, client: str, name: str) -> bool:
    return lab.run(["nbdinfo", door(client, name)], check=False).returncode == 0


@pytest.mark.heavy
def test_a_seed_is_read_by_its_client_alone(daemon: Daemon) -> None:
    lab = daemon.lab
    wanted: dict[str, object] = {"user_data": USER_DATA, "ssh_keys": [KEY]}
    addresses = lab.call(seeds.create, "web", "debian", "hv1", 2, wanted)
    assert addresses == [door("hv1", "web-1:seed"), door("hv1", "web-2:seed")]
    found = [lab.call(seeds.read, address) for address in addresses]
    assert {(each["LABEL"], each["TYPE"], each["user-data"]) for each in found} == {("CIDATA", "iso9660", USER_DATA)}
    metas = [json.loads(each["meta-data"]) for each in found]
    assert [(meta["local-hostname"], meta["public-keys"]) for meta in metas] == [("web-1", [KEY]), ("web-2", [KEY])]
    assert metas[0]["instance-id"] != metas[1]["instance-id"]
    assert lab.call(inside.read_back, door("hv1", "web-1")) == lab.call(inside.digest)

    # Neither by name nor by listing does another client find it.
    assert not there(lab, "hv2", "web-1:seed")
    assert "web" not in lab.run(["nbdinfo", "--list", door("hv2")], check=False).stdout
    assert set(lab.call(seeds.files).values()) == {"-rw-r-----"}
    written = lab.run(["qemu-io", "-f", "raw", "-c", "write 0 512", addresses[0]], check=False)
    assert "ermission" in written.stderr + written.stdout or "read-only" in written.stderr + written.stdout
    assert lab.call(seeds.read, addresses[0]) == found[0]

    # It is there again whatever ends, and nobody has said what is in it.
    lab.call(inside.kill_daemon, "hv1")
    assert lab.call(seeds.read, addresses[0]) == found[0]
    daemon.kill()
    assert lab.call(seeds.read, addresses[0]) == found[0]
    assert "hunter2" not in daemon.job.stderr
    daemon.power_cut()
    assert lab.call(seeds.read, addresses[0]) == found[0]
    assert lab.call(inside.status)["problems"] == []

    # It goes with its clone, to another client or for good.
    lab.run(["hatchery", "clone", "move", "web-1", "--client", "hv2"])
    assert (there(lab, "hv1", "web-1:seed"), there(lab, "hv2", "web-1:seed")) == (False, True)
    assert lab.call(seeds.read, door("hv2", "web-1:seed")) == found[0]
    lab.run(["hatchery", "clone", "seed", "set", "web-1", "--hostname", "www"])
    changed = json.loads(lab.call(seeds.read, door("hv2", "web-1:seed"))["meta-data"])
    assert changed["local-hostname"] == "www"
    assert changed["instance-id"] != metas[0]["instance-id"]
    lab.run(["hatchery", "clone", "seed", "remove", "web-1"])
    assert not there(lab, "hv2", "web-1:seed")
    assert there(lab, "hv2", "web-1")
    lab.run(["hatchery", "clone", "remove", "web-1", "web-2"])
    assert lab.call(seeds.files) == {}


@pytest.mark.heavy
def test_cloud_init_itself_takes_a_seed(daemon: Daemon) -> None:
    lab = daemon.lab
    script = '#!/bin/sh\necho "$(hostname)" >/run/seed-was-here\n'
    wanted: dict[str, object] = {"user_data": script, "ssh_keys": [KEY], "hostname": "first"}
    [first] = lab.call(seeds.create, "web", "debian", "hv1", None, wanted)
    found = lab.call(seeds.cloud_init, first, timeout=600)
    assert found["source"] == "nocloud", found
    assert (found["hostname"], found["script"]) == ("first", "first"), found
    assert KEY in found["keys"]
    # Without user data, what hostname and keys make is cloud-init's own: another seed is another machine to it.
    other = KEY.replace("me@here", "you@there")
    [second] = lab.call(seeds.create, "db", "debian", "hv1", None, {"ssh_keys": [other], "hostname": "db.example.com"})
    again = lab.call(seeds.cloud_init, second, timeout=600)
    assert again["hostname"] in ("db", "db.example.com"), again
    assert other in again["keys"]
    assert again["instance"] not in ("", found["instance"])
