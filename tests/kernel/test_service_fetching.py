"""Templates that are cloned while another server still has the rest of them."""

from collections.abc import Iterator

import pytest

from appliance.model import MIB
from tests.kernel.inside import clone_life as life
from tests.kernel.inside import fetching, stills
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon
from tests.kernel.test_service_clones import uri

TLS = 10823

NOTHING: dict[str, list[str]] = {"dm": [], "nbd": []}


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    store.begin(["hatchery-retry"])
    running = Daemon(store)
    yield running
    print(running.job.stderr)


def lazily(lab: Lab, rate: str = fetching.SLOW) -> None:
    """Begin to fetch the disk of a server that is slow, and make a clone of each kind."""
    source = lab.call(fetching.serve, rate)
    lab.run(["hatchery", "template", "add", "far", source, "--lazy"])
    assert lab.call(fetching.view, "far")["state"] == "fetching"
    lab.call(inside.clones, "web", "far")
    lab.call(life.ephemeral, "quick", "far")


def test_a_template_is_cloned_while_it_is_fetched(daemon: Daemon) -> None:
    lab = daemon.lab
    lazily(lab)
    assert lab.call(fetching.steps) == []

    # Right everywhere, long before it is here; written where it is not here yet.
    for name in ("web", "quick"):
        assert lab.call(fetching.read, name, *fetching.LAST) == lab.call(fetching.expected, *fetching.LAST)
        lab.call(inside.qemu_io, uri(name), "write -P 7 13M 4k", "flush")
    assert lab.call(fetching.view, "far")["state"] == "fetching"
    written = lab.call(fetching.expected_with, 13 * MIB, 4096, 7)

    # All comes by itself, zeros take no space, and nothing of the server is needed any more.
    lab.call(fetching.hurry)
    whole = lab.call(fetching.whole, "far")
    assert whole["sha256"] == lab.call(inside.digest)
    assert whole["mapped_bytes"] == 4 * MIB
    lab.call(fetching.away)
    assert lab.call(fetching.traces) == NOTHING
    for name in ("web", "quick"):
        assert lab.call(inside.read_back, uri(name)) == written, name
    lab.call(inside.clones, "later", "far")
    assert lab.call(inside.read_back, uri("later")) == lab.call(inside.digest)
    assert lab.call(fetching.steps) == []
    assert lab.call(fetching.problems) == []

    # So it is after a start, too.
    daemon.power_cut()
    for name in ("web", "quick"):
        assert lab.call(inside.read_back, uri(name)) == written, name
    assert lab.call(inside.read_back, uri("later")) == lab.call(inside.digest)


@pytest.mark.heavy
def test_who_reads_while_the_server_is_away_gets_an_error_and_never_zeros(daemon: Daemon) -> None:
    lab = daemon.lab
    lazily(lab)
    lab.call(fetching.reached, "far", 1 * MIB)
    lab.call(fetching.away)
    for name in ("web", "quick"):
        found, seconds = lab.call(fetching.timed_read, name, *fetching.LAST, timeout=120)
        assert found == "error", name
        assert seconds < 50, name
        # What is here is read as before, and what was written meanwhile.
        assert lab.call(fetching.read, name, 0, 512 * 1024) == lab.call(fetching.expected, 0, 512 * 1024)
        lab.call(inside.qemu_io, uri(name), "write -P 9 0 64k", "flush")
    assert "cannot be fetched" in lab.call(fetching.told, "far@1")
    assert "it waits" in lab.run(["hatchery", "template", "show", "far"]).stdout
    assert lab.call(fetching.view, "far")["state"] == "fetching"

    # It comes back: the fetch and who reads go on.
    lab.call(fetching.serve, fetching.FAST)
    assert lab.call(fetching.whole, "far")["sha256"] == lab.call(inside.digest)
    written = lab.call(fetching.expected_with, 0, 65536, 9)
    for name in ("web", "quick"):
        assert lab.call(inside.read_back, uri(name)) == written, name
    assert lab.call(fetching.problems) == []
    assert lab.call(fetching.traces) == NOTHING


@pytest.mark.heavy
def test_a_server_that_hangs_is_taken_for_gone(daemon: Daemon) -> None:
    lab = daemon.lab
    lazily(lab)
    lab.call(fetching.hang, True)
    found, seconds = lab.call(fetching.timed_read, "quick", 23 * MIB, 1 * MIB, timeout=150)
    assert (found, seconds < 110) == ("error", True), seconds
    assert "cannot be fetched" in lab.call(fetching.told, "far@1")
    lab.call(fetching.hang, False)
    lab.call(fetching.hurry)
    assert lab.call(fetching.whole, "far")["sha256"] == lab.call(inside.digest)
    assert lab.call(inside.read_back, uri("quick")) == lab.call(inside.digest)
    assert lab.call(fetching.traces) == NOTHING


@pytest.mark.heavy
def test_a_fetch_outlives_the_daemon_and_a_power_cut(daemon: Daemon) -> None:
    lab = daemon.lab
    lazily(lab)
    lab.call(inside.qemu_io, uri("web"), "write -P 7 13M 4k", "flush")
    written = lab.call(fetching.expected_with, 13 * MIB, 4096, 7)

    # The daemon goes and comes back: clones notice nothing, and are right while it is away.
    daemon.stop()
    assert lab.call(inside.read_back, uri("web")) == written
    daemon.begin()
    daemon.kill()
    lab.call(fetching.reached, "far", 1 * MIB)
    assert lab.call(inside.read_back, uri("web")) == written
    # What passes the disk on is killed: it comes back, and the kernel gets a new connection.
    lab.call(fetching.kill_bridge)
    assert lab.call(fetching.read, "web", 12 * MIB, 1 * MIB) == lab.call(fetching.expected, 12 * MIB, 1 * MIB)

    # The machine goes, and its server was gone when it comes back: errors, and no zeros where it has zeros either.
    daemon.power_cut()
    assert lab.call(fetching.view, "far")["state"] == "fetching"
    assert "cannot be fetched" in lab.call(fetching.told, "far@1")
    assert lab.call(fetching.read, "quick", 23 * MIB, 1 * MIB, timeout=150) == "error"
    assert lab.call(fetching.read, "quick", 13 * MIB, 1 * MIB) in ("error", lab.call(fetching.expected, 13 * MIB, MIB))
    assert lab.call(fetching.steps) == []
    lab.call(fetching.serve, fetching.FAST)
    assert lab.call(fetching.whole, "far")["sha256"] == lab.call(inside.digest)
    assert lab.call(inside.read_back, uri("web")) == written
    assert lab.call(inside.read_back, uri("quick")) == lab.call(inside.digest)
    assert lab.call(fetching.traces) == NOTHING
    assert lab.call(fetching.problems) == []


@pytest.mark.heavy
def test_what_becomes_of_a_template_that_is_fetched_and_of_its_clones(daemon: Daemon) -> None:
    lab = daemon.lab
    before = lab.call(inside.volumes)
    lazily(lab, fetching.SLOWEST)
    digest = lab.call(inside.digest)
    for words, told in (
        (["template", "remove", "far"], "depend on it"),
        (["template", "export", "far", "/run/no.raw"], "it is fetching"),
        (["template", "warm", "far"], "it is fetching"),
        (["template", "offer", "far", "local"], "it is fetching"),
    ):
        done = lab.run(["hatchery", *words], check=False)
        assert told in done.stderr, words
    lab.call(fetching.hurry, "16M")

    # Verbs on clones that look through to the other server: copied out, made a template, grown, reset.
    lab.run(["hatchery", "clone", "export", "web", "/run/out.raw"], timeout=120)
    assert lab.call(stills.digest, "/run/out.raw", "raw") == digest
    lab.call(life.promote, "web", "mine")
    lab.call(inside.clones, "copy", "mine")
    assert lab.call(inside.read_back, uri("copy")) == digest
    lab.call(inside.qemu_io, uri("web"), "write -P 7 13M 4k", "flush")
    lab.call(life.reset, "web")
    assert lab.call(inside.read_back, uri("web")) == digest

    # Removed, with all that it was fetched by: nothing is left of it.
    for name in ("web", "quick"):
        assert lab.call(inside.remove, name, False)
    lab.run(["hatchery", "template", "remove", "far"])
    lab.call(fetching.nothing_left)
    assert lab.call(fetching.traces) == NOTHING
    assert len(lab.call(inside.volumes)) == len(before) + 2
    assert lab.call(fetching.problems) == []

    # In the middle of it, with its last clone; and imported without --lazy it is as any other.
    lab.call(fetching.away)
    lazily(lab)
    lab.call(inside.remove, "quick", False)
    lab.run(["hatchery", "template", "remove", "far", "--when-unused"])
    lab.call(inside.remove, "web", False)
    lab.call(fetching.nothing_left)
    lab.call(fetching.hurry)
    source = "nbd://127.0.0.1:10999/disk"
    lab.run(["hatchery", "template", "add", "all", source, "--sha256", digest], timeout=120)
    view = lab.call(fetching.view, "all")
    assert (view["state"], view["mapped_bytes"], view["sha256"]) == ("ready", 4 * MIB, digest)
    lab.call(inside.clones, "of-all", "all")
    assert lab.call(inside.read_back, uri("of-all")) == digest
    assert lab.call(fetching.traces) == NOTHING
    for words, told in (
        (["no", source, "--sha256", "0" * 64], "not the one that was announced"),
        (["no", source, "--lazy", "--sha256", digest], "cannot be held against"),
        (["no", "nbd://127.0.0.1:1/disk"], "cannot be read"),
        (["no", "nbds://127.0.0.1:1/disk"], "takes a certificate"),
        (["no", "/run/out.raw", "--lazy"], "--lazy is for nbd://"),
    ):
        done = lab.run(["hatchery", "template", "add", *words], check=False, timeout=120)
        assert told in done.stderr, words
    assert lab.call(fetching.traces) == NOTHING


def test_an_offered_template_travels_with_its_boot_set(daemon: Daemon) -> None:
    lab = daemon.lab
    digest = lab.call(inside.digest)
    lab.call(inside.add_image, "debian")
    lab.call(fetching.give_boot_set, "debian")
    lab.run(["hatchery", "client", "add", "box2", "--tcp", f"127.0.0.1:{TLS}"])
    lab.run(["hatchery", "client", "certificate", "box2", "/run/box2"])
    told = lab.run(["hatchery", "template", "offer", "debian", "box2"]).stdout.strip()
    assert told.startswith(f"nbds://127.0.0.1:{TLS}/debian@1?tls-certificates=")
    source = f"{told.partition('?')[0]}?tls-certificates=/run/box2"

    # Here it is its own other appliance.
    lab.run(["hatchery", "template", "add", "copy", source, "--lazy"])
    lab.call(inside.clones, "web", "copy")
    assert lab.call(inside.read_back, uri("web")) == digest
    assert lab.call(fetching.whole, "copy")["sha256"] == digest
    assert lab.call(fetching.boot_set, "copy") == lab.call(fetching.boot_set, "debian")
    assert lab.call(fetching.view, "debian")["offered_to"] == ["box2"]
    assert "withdraw it first" in lab.run(["hatchery", "template", "remove", "debian"], check=False).stderr

    # It outlives the daemon; withdrawn, it is there no more, and who may be written is not cloned meanwhile.
    daemon.restart()
    assert lab.call(fetching.traces) == NOTHING
    lab.run(["hatchery", "template", "withdraw", "debian", "box2"])
    done = lab.run(["hatchery", "template", "add", "no", source], check=False, timeout=60)
    assert "cannot be read" in done.stderr
    lab.run(["hatchery", "clone", "create", "db", "--template", "debian", "--client", "box2"])
    source = source.replace("debian@1", "db")
    done = lab.run(["hatchery", "template", "add", "no", source, "--lazy"], check=False, timeout=60)
    assert "can be written" in done.stderr
    lab.run(["hatchery", "template", "add", "of-db", source], timeout=60)
    assert lab.call(fetching.view, "of-db")["sha256"] == digest
    assert lab.call(fetching.problems) == []
