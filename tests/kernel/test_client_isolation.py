"""Each storage daemon is a user of its own, and nobody's clones but its client's are open to it."""

import json
from collections.abc import Iterator

import pytest

from appliance.host.daemon_users import FIRST
from tests.kernel.inside import isolation, tls
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

CLIENTS = ("hv1", "hv2", "local")


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    for client, port in (("hv1", 10811), ("hv2", 10812)):
        running.lab.run(["hatchery", "client", "add", client, "--tcp", f"127.0.0.1:{port}", "--plain"])
    for clone, client in (("web", "hv1"), ("db", "hv2")):
        running.lab.run(["hatchery", "clone", "create", clone, "-t", "debian", "--client", client, "--hostname", clone])
    yield running
    print(running.job.stderr)


def test_a_daemon_that_asks_for_another_clients_device_is_refused(daemon: Daemon) -> None:
    lab = daemon.lab
    web, db = lab.call(isolation.device, "web"), lab.call(isolation.device, "db")
    users = {}
    for client in CLIENTS:
        user, *others = lab.call(isolation.identity, client)
        assert set(others) == {user}, "it is in no other group, and has no other identity"
        users[client] = user
    assert len(set(users.values())) == len(CLIENTS)
    assert min(users.values()) >= FIRST

    def nothing_but_its_own() -> None:
        assert lab.call(isolation.opened_by_daemon, "hv1", web) == ""
        assert "Permission denied" in lab.call(isolation.opened_by_daemon, "hv1", db)
        pool = "/dev/mapper/hatchery-pool-durable"
        catalog = "/var/lib/hatchery/catalog.db"
        folder, seed = "/run/hatchery/nbd/hv2/qmp.sock", "/run/hatchery/seeds/hv2/2.iso"
        reached = lab.call(isolation.reached_as, "hv1", web, db, pool, catalog, folder, seed, "/dev/bcache0")
        assert reached == {web: "opened", **dict.fromkeys(set(reached) - {web}, "PermissionError")}
        for clone, port in (("web", 10811), ("db", 10812)):
            assert lab.call(inside.read_back, f"nbd://127.0.0.1:{port}/{clone}") == lab.call(inside.digest)

    nothing_but_its_own()
    # By name another's clone is not there, and the daemon's log says that somebody asked; a list has its own alone.
    assert "not present" in lab.call(tls.qemu_says, 10811, None, "db")
    lab.call(tls.said, "hv1", "export 'db' not present")
    for client, port in (("hv1", 10811), ("hv2", 10812)):
        name = {"hv1": "web", "hv2": "db"}[client]
        assert sorted(lab.call(tls.exports, port, None, plain=True)) == [name, f"{name}:seed"], client
    lab.call(inside.kill_daemon, "hv1")
    daemon.kill()
    nothing_but_its_own()
    assert {client: lab.call(isolation.identity, client)[0] for client in CLIENTS} == users

    # What a client loses is closed to it, and what it gets is open.
    lab.run(["hatchery", "clone", "move", "web", "--client", "hv2"])
    web = lab.call(isolation.device, "web")
    assert "Permission denied" in lab.call(isolation.opened_by_daemon, "hv1", web)
    assert lab.call(isolation.opened_by_daemon, "hv2", web) == ""


def test_two_clients_write_to_a_clone_while_its_guest_migrates(daemon: Daemon) -> None:
    lab = daemon.lab
    here, there = "nbd://127.0.0.1:10811/web", "nbd://127.0.0.1:10812/web"
    refused = lab.run(["hatchery", "clone", "attach", "web", "--client", "hv2"], check=False)
    assert (refused.returncode, "--shared" in refused.stderr) == (6, True)
    assert "PUT /v1/clones/web/attachment client=hv2: refused, in-use: " in daemon.job.stderr
    said = lab.run(
        ["hatchery", "--json", "clone", "attach", "web", "--client", "hv2", "--shared", "--for", "1h"]
    ).stdout
    assert json.loads(said)["shared"]["uri"] == there
    lab.call(inside.qemu_io, here, "write -P 7 1M 64k", "flush")
    assert "verification failed" not in lab.call(
        inside.qemu_io, there, "read -P 7 1M 64k", "write -P 8 1M 64k", "flush"
    )
    assert "verification failed" not in lab.call(inside.qemu_io, here, "read -P 8 1M 64k")
    device = lab.call(isolation.device, "web")
    assert lab.call(isolation.opened_by_daemon, "hv2", device) == ""

    daemon.kill()
    lab.call(inside.kill_daemon, "hv2")
    guest = lab.begin_call(inside.qemu_io, there, "sleep 20000")
    lab.call(inside.wait_connected, "hv2")
    lab.run(["hatchery", "clone", "move", "web", "--client", "hv2"])
    assert not guest.done(), "the guest that has arrived was not disturbed"
    guest.kill()
    assert "Permission denied" in lab.call(isolation.opened_by_daemon, "hv1", device)
    assert "verification failed" not in lab.call(inside.qemu_io, there, "read -P 8 1M 64k")
