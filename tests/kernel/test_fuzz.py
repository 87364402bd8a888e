"""Nonsense at the doors: nobody ends, nothing leaks, and neighbours are served. Ten minutes with --all."""

from collections.abc import Iterator

import pytest

from tests.kernel.inside import fuzz, tls
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon

PORT = 10811
QUICK, LONG = 20.0, 240.0
"""Seconds at each of the three doors: a minute in all, and twelve."""


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    running.lab.call(inside.clones, "friend", "debian")
    running.lab.run(["hatchery", "client", "add", "hv1", "--tcp", f"{tls.ADDRESS}:{PORT}", "--plain"])
    running.lab.call(inside.clones, "web", "debian", None, "hv1")
    yield running
    print(running.job.stderr[-20000:])


def at_all_doors(lab: Lab, seconds: float, seed: int) -> None:
    spare = 120.0
    told = [lab.call(fuzz.nbd, PORT, "web", "friend", seconds, seed, timeout=seconds + spare)]
    told.append(lab.call(fuzz.api, "friend", seconds, seed, timeout=seconds + spare))
    lab.run(["hatchery", "client", "add", "hv1", "--tcp", f"{tls.ADDRESS}:{PORT}"])
    told.append(lab.call(fuzz.nbd, PORT, "web", "friend", seconds, seed + 1, tls=True, timeout=seconds + spare))
    print(f"seed {seed}: {told}")
    assert lab.call(inside.status)["problems"] == []
    assert min(found["attempts"] for found in told) > fuzz.WARM


def test_nonsense_hurts_nobody(daemon: Daemon) -> None:
    at_all_doors(daemon.lab, QUICK, 1)


def test_a_client_that_hangs_up_in_the_handshake_ends_its_own_daemon_at_most(daemon: Daemon) -> None:
    longest = daemon.lab.call(fuzz.resets, PORT, "web", "friend", 3, timeout=240)
    print(f"the neighbour waited for {longest:.2f} s at most")
    assert daemon.lab.call(inside.status)["problems"] == []


@pytest.mark.heavy
def test_nonsense_for_ten_minutes_hurts_nobody(daemon: Daemon) -> None:
    at_all_doors(daemon.lab, LONG, 2)
