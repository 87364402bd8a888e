"""Clones over real NBD: content, isolation, space, crashes."""

from collections.abc import Iterator

import pytest

from appliance.model import MIB
from tests.kernel.inside import service as inside
from tests.kernel.inside.volumes import await_index_written
from tests.kernel.lab import InsideError, Lab
from tests.kernel.service_lab import Daemon


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    yield running
    print(running.job.stderr)


def uri(name: str) -> str:
    return f"nbd+unix:///{name}?socket=/run/hatchery/nbd/local/nbd.sock"


def backend_reads(lab: Lab, name: str) -> int:
    """Bytes that the backend had to read while a clone was read once, 4 MiB of it data."""
    before = lab.call(inside.counters)
    assert lab.call(inside.read_back, uri(name)) == lab.call(inside.digest)
    after = lab.call(inside.counters)
    assert after["cache"] + after["backend"] - before["cache"] - before["backend"] >= 4 * MIB
    return int(after["backend"] - before["backend"])


def test_four_clones_live_and_die(daemon: Daemon) -> None:
    lab = daemon.lab
    empty = lab.call(inside.used)
    lab.call(inside.add_image, "debian")
    template = lab.call(inside.used)["data"]
    assert template - empty["data"] == 4 * MIB
    made = lab.call(inside.clones, "web", "debian", 4)
    assert [clone["uri"] for clone in made] == [uri(f"web-{n}") for n in range(1, 5)]
    assert lab.call(inside.used)["data"] == template
    digest = lab.call(inside.digest)
    for clone in made:
        assert lab.call(inside.read_back, clone["uri"]) == digest
    counted = lab.call(inside.counted_both_ways)
    assert counted["each"] == counted["all"]
    assert len(counted["all"]) == 4
    assert min(counted["all"].values()) >= inside.IMAGE_MIB * MIB

    # Each writes its own; nobody sees another's, and the template stays as it is.
    for number in range(1, 5):
        lab.call(inside.qemu_io, uri(f"web-{number}"), f"write -P {number} 1M 256k", "flush")
    for number in range(1, 5):
        said = lab.call(inside.qemu_io, uri(f"web-{number}"), f"read -P {number} 1M 256k")
        assert "verification failed" not in said
    lab.call(inside.clones, "fresh", "debian")
    assert lab.call(inside.read_back, uri("fresh")) == digest

    # A trim gives blocks back at once, a removed clone all that it had.
    before = lab.call(inside.used)["data"]
    lab.call(inside.qemu_io, uri("web-1"), "discard 1M 256k", "flush")
    assert lab.call(inside.used)["data"] == before - 256 * 1024
    for name in ("web-1", "web-2", "web-3", "web-4", "fresh"):
        assert '"removed": true' in lab.run(["hatchery", "--json", "clone", "remove", name]).stdout
    assert lab.call(inside.used)["data"] == template
    lab.run(["hatchery", "template", "remove", "debian"])
    assert lab.call(inside.used)["data"] == empty["data"]
    assert lab.call(inside.volumes) == []
    assert lab.call(inside.devices) == []


@pytest.mark.heavy
def test_errors_name_the_cause_and_leave_nothing(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    before = lab.call(inside.volumes)
    for name, template, client, kind in (
        ("web", "fedora", "local", "NotFound"),
        ("web", "debian@7", "local", "NotFound"),
        ("web", "debian", "nobody", "NotFound"),
        ("Web Server", "debian", "local", "InvalidInput"),
    ):
        with pytest.raises(InsideError) as caught:
            lab.call(inside.clones, name, template, None, client)
        assert caught.value.kind == kind
        assert caught.value.words["what"]
    lab.call(inside.clones, "web", "debian")
    with pytest.raises(InsideError, match="AlreadyExists"):
        lab.call(inside.clones, "web", "debian")
    refused = lab.run(["hatchery", "template", "remove", "debian"], check=False)
    assert refused.returncode != 0
    assert "web" in refused.stderr
    lab.run(["hatchery", "clone", "remove", "web"])
    assert lab.call(inside.volumes) == before


@pytest.mark.heavy
def test_a_connected_clone_is_not_removed_by_mistake(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    lab.call(inside.clones, "web", "debian")
    guest = lab.begin(["qemu-io", "-f", "raw", "-c", "read 0 4k", "-c", "sleep 30000", uri("web")])
    lab.call(inside.wait_connected, "local")
    with pytest.raises(InsideError, match=r"InUse.*client local is connected.*qemu-io"):
        lab.call(inside.remove, "web", False)
    assert lab.call(inside.remove, "web", True)
    assert lab.call(inside.devices) == ["hatchery-template-1"]
    guest.kill()


@pytest.mark.heavy
def test_a_clone_moves_between_clients_and_is_with_one_of_them(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    for client in ("hv1", "hv2"):
        lab.run(["hatchery", "client", "add", client])
    lab.call(inside.clones, "web", "debian", 2, "hv1")
    doors = {client: f"nbd+unix:///%s?socket=/run/hatchery/nbd/{client}/nbd.sock" for client in ("hv1", "hv2")}

    def found(client: str) -> list[bool]:
        names = ("web-1", "web-2")
        return [lab.run(["nbdinfo", doors[client] % name], check=False).returncode == 0 for name in names]

    lab.call(inside.qemu_io, doors["hv1"] % "web-1", "write -P 7 1M 256k", "flush")
    guest = lab.begin(["qemu-io", "-f", "raw", "-c", "read 0 4k", "-c", "sleep 60000", doors["hv1"] % "web-2"])
    lab.call(inside.wait_connected, "hv1")
    words = ["hatchery", "clone", "move", "web-1", "web-2", "--client", "hv2"]
    refused = lab.run(words, check=False)
    assert refused.returncode != 0
    assert "clone web-2 is in use" in refused.stderr
    assert "client hv1 is connected to it (from pid" in refused.stderr
    assert (found("hv1"), found("hv2")) == ([True, True], [False, False])
    lab.run([*words, "--force"])
    guest.kill()
    assert (found("hv1"), found("hv2")) == ([False, False], [True, True])
    assert "verification failed" not in lab.call(inside.qemu_io, doors["hv2"] % "web-1", "read -P 7 1M 256k")

    # It stays so when daemons die, and a daemon that was killed just before has nothing left of it.
    for client in ("hv1", "hv2"):
        lab.call(inside.kill_daemon, client)
    daemon.kill()
    assert (found("hv1"), found("hv2")) == ([False, False], [True, True])
    lab.run(["sh", "-c", "kill -9 $(cat /run/hatchery/nbd/hv2/pid) && hatchery clone move web-1 --client hv1"])
    assert found("hv1") == [True, False]
    assert found("hv2")[0] is False
    assert "verification failed" not in lab.call(inside.qemu_io, doors["hv1"] % "web-1", "read -P 7 1M 256k")
    assert lab.call(inside.status)["problems"] == []


def test_clones_survive_the_daemons_and_a_power_cut(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    lab.call(inside.clones, "web", "debian", 2)
    digest = lab.call(inside.digest)
    lab.call(inside.qemu_io, uri("web-1"), "write -P 7 3M 1M", "flush")

    # hatcheryd dies: nobody notices.
    pid = lab.call(inside.daemon_pid)
    daemon.kill()
    assert lab.call(inside.daemon_pid) == pid
    assert lab.call(inside.read_back, uri("web-2")) == digest

    # The storage daemon dies: another one comes with the same exports.
    lab.call(inside.kill_daemon)
    assert lab.call(inside.read_back, uri("web-2")) == digest
    lab.call(inside.clones, "late", "debian")
    assert lab.call(inside.read_back, uri("late")) == digest

    # The power goes: everything is back, data and cache.
    warm = [backend_reads(lab, "web-2") for _ in range(4)]
    assert warm[-1] == 0, f"the cache does not become warm: {warm}"
    lab.call(await_index_written, timeout=250)
    # A start applies again what the journal still holds, such as that a write let past the cache made it invalid, over
    # what reads put there later. The journal lets go of it with the second flush after the index was written.
    for _ in range(2):
        lab.call(inside.qemu_io, uri("web-1"), "write -P 7 3M 4k", "flush")
    daemon.power_cut()
    status = lab.call(inside.status)
    assert status["problems"] == [], status
    said = lab.call(inside.qemu_io, uri("web-1"), "read -P 7 3M 1M")
    assert "verification failed" not in said
    assert backend_reads(lab, "web-2") <= 4 * MIB // 50, "the cache was not warm"


@pytest.mark.heavy
def test_warming_a_template_makes_a_clone_that_never_booted_warm(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    lab.call(inside.clones, "web", "debian", 2)
    lab.call(inside.cold)
    cold = lab.call(inside.counters)
    lab.call(inside.read_back, uri("web-1"))
    assert lab.call(inside.counters)["backend"] - cold["backend"] >= 4 * MIB
    lab.call(inside.cold)
    assert lab.call(inside.warm, "debian") == "warm"
    before = lab.call(inside.counters)
    assert lab.call(inside.read_back, uri("web-2")) == lab.call(inside.digest)
    assert lab.call(inside.counters)["backend"] == before["backend"]


@pytest.mark.heavy
def test_a_full_pool_refuses_new_things_with_numbers(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.add_image, "debian")
    lab.call(inside.clones, "web", "debian", 2)
    lab.call(inside.fill_pool, timeout=600)
    with pytest.raises(InsideError, match=r"NoSpace.*headroom"):
        lab.call(inside.clones, "late", "debian")
    with pytest.raises(InsideError, match="NoSpace"):
        lab.call(inside.add_image, "another")
    assert len(lab.call(inside.volumes)) == 4
