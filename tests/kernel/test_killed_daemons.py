"""A guest writes and verifies while its storage daemon is killed, hatcheryd too: it sees no error and loses nothing."""

import signal
from collections.abc import Iterator

import pytest

from tests.kernel.inside import fio_guest
from tests.kernel.inside import service as inside
from tests.kernel.lab import Lab
from tests.kernel.service_lab import Daemon


@pytest.fixture
def daemon(store: Lab) -> Iterator[Daemon]:
    running = Daemon(store)
    running.lab.call(inside.add_image, "debian")
    running.lab.call(inside.clones, "web", "debian")
    yield running
    print(running.job.stderr[-20000:])


@pytest.mark.parametrize(("kills", "each"), [(3, 2), pytest.param(100, 1, marks=pytest.mark.heavy)])
def test_a_guest_sees_no_error_and_loses_nothing(daemon: Daemon, kills: int, each: int) -> None:
    """``each``: hatcheryd is killed in every round, or in every second one."""
    lab = daemon.lab
    fio = lab.begin(lab.call(fio_guest.start, "web"))
    done = lab.call(fio_guest.advance, 0, timeout=150)
    for number in range(kills):
        lab.call(fio_guest.kill, "local", timeout=90)
        if number % each == each - 1:
            daemon.kill()
        done = lab.call(fio_guest.advance, done, timeout=150)
        assert not fio.done(), fio.stdout + fio.stderr
    fio.kill(signal.SIGINT)
    fio.wait(120)
    found = lab.call(fio_guest.result)
    assert found["error"] == 0, (found, fio.stderr)
    assert min(found["reads"], found["writes"]) > kills
    lab.call(fio_guest.verify, "web")
    assert lab.call(inside.status)["problems"] == []
