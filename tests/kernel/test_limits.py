"""What a client may do, and that it holds: by the running daemon's own word, and never by how fast something is.

That something is *not faster* than its limit can be timed: a slow machine makes it slower still.
"""

from collections.abc import Iterator

import pytest

from appliance.host.storage_daemon import HANDSHAKE
from appliance.model import MIB
from tests.kernel.inside import limits, tls
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

READS, IOPS = 30, 10


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    yield running
    print(running.job.stderr)


@pytest.mark.heavy
def test_a_clone_is_held_to_its_limits_whatever_restarts(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.run(["hatchery", "clone", "create", "web", "-t", "debian", "--iops", str(IOPS)])
    lab.run(["hatchery", "clone", "create", "free", "-t", "debian"])
    assert lab.call(limits.held, "web") == {"iops-total": IOPS}
    assert lab.call(limits.held, "free") == {}

    # One connection all the time. QEMU lets a tenth of a second's worth go by at once.
    seen = lab.call(limits.guest, "web", READS)
    assert seen["digest"] == lab.call(inside.digest)
    assert seen["free"] == {}
    assert min(seen["seconds"]) >= (READS - IOPS) / IOPS

    both = {"iops-total": IOPS, "bps-total": 8 * MIB}
    for end in (
        lambda: lab.call(inside.kill_daemon, "local"),
        daemon.kill,
        daemon.power_cut,
        lambda: lab.run(["hatchery", "clone", "reset", "web"]),
    ):
        end()
        assert (lab.call(limits.held, "web"), lab.call(limits.held, "free")) == (both, {})
    assert lab.call(inside.read_back, "nbd+unix:///web?socket=/run/hatchery/nbd/local/nbd.sock") == lab.call(
        inside.digest
    )
    lab.run(["hatchery", "clone", "remove", "web", "free"])
    assert lab.call(limits.objects) == []


@pytest.mark.heavy
def test_a_client_that_takes_too_much_hurts_itself_only(daemon: Daemon) -> None:
    lab = daemon.lab
    lab.call(inside.clones, "web", "debian")
    lab.run(["hatchery", "client", "add", "local", "--max-connections", "2"])
    seen = lab.call(limits.crowd, "web")
    assert (seen["silent"], seen["then"], seen["first"]) == (True, True, 4096)
    assert "others wait" in seen["detail"]

    seen = lab.call(limits.idle, "web", timeout=90)
    assert (seen["more"], seen["other"]) == (0, 4096)
    assert seen["seconds"] >= HANDSHAKE - 1
    lab.call(tls.said, "local", "nbd_handshake_timer_cb")
