"""hatchery-retry against the kernel's dm-multipath; the whole of rule 7, on a store, is in test_rule_07."""

import errno
import signal

import pytest

from appliance import wait
from tests.kernel.inside import retry_layer
from tests.kernel.lab import Job, Lab


def start(lab: Lab) -> Job:
    """Start the program and wait until it listens: it sets the backstop just before."""
    job = lab.begin(["hatchery-retry"])
    limit = "/sys/module/dm_multipath/parameters/queue_if_no_path_timeout_secs"
    wait.until(
        lambda: lab.run(["cat", limit], check=False).stdout.strip() == "60", "the backstop to be set", deadline=30
    )
    return job


def state(lab: Lab, number: int) -> tuple[bool, bool]:
    """Whether the path is in use, and whether requests are held when it fails."""
    found = lab.call(retry_layer.state, number)
    return found["active"], found["holds"]


def test_a_passing_failure_is_never_seen(lab: Lab) -> None:
    lab.call(retry_layer.make, 1)
    retry = start(lab)
    lab.call(retry_layer.break_all, 1)
    reading = lab.begin_call(retry_layer.read, 1, 0)
    wait.until(lambda: "trying it again" in retry.stderr, "the first try", deadline=20)
    assert not reading.done()
    lab.call(retry_layer.mend, 1)
    answer = reading.result()
    assert answer["errno"] == 0
    assert state(lab, 1) == (True, True)


@pytest.mark.heavy
def test_a_failure_from_before_the_start_and_a_layer_that_stopped_holding_are_found(lab: Lab) -> None:
    lab.call(retry_layer.make, 1)
    lab.call(retry_layer.make, 2)
    lab.call(retry_layer.break_all, 1)
    reading = lab.begin_call(retry_layer.read, 1, 0)
    wait.until(lambda: not lab.call(retry_layer.state, 1)["active"], "the path to fail", deadline=20)
    lab.call(retry_layer.mend, 1)
    lab.call(retry_layer.stop_holding, 2)
    start(lab)
    assert reading.result()["errno"] == 0
    wait.until(lambda: lab.call(retry_layer.state, 2)["holds"], "holding to go on", deadline=20)


@pytest.mark.heavy
def test_a_bad_sector_reaches_its_guest_in_the_end_and_nobody_else(lab: Lab) -> None:
    for number in (1, 2):
        lab.call(retry_layer.make, number)
    retry = start(lab)
    lab.call(retry_layer.break_sectors, 1, 800, 8)
    bad = lab.begin_call(retry_layer.read, 1, 800)
    wait.until(lambda: "trying it again" in retry.stderr, "the first try", deadline=20)
    neighbour = lab.call(retry_layer.read, 2, 800)
    assert neighbour["errno"] == 0
    assert neighbour["seconds"] < 2
    answer = bad.result()
    assert answer["errno"] == errno.EIO
    assert answer["seconds"] < 30
    wait.until(lambda: state(lab, 1) == (True, True), "holding to go on", deadline=20)
    assert lab.call(retry_layer.read, 1, 0)["errno"] == 0
    assert lab.call(retry_layer.read, 1, 800)["errno"] == errno.EIO, "and again, for the next request"


def test_without_it_a_request_waits_until_the_kernels_limit(lab: Lab) -> None:
    lab.call(retry_layer.make, 1)
    start(lab).kill(signal.SIGKILL)
    lab.run(["sh", "-c", "echo 2 > /sys/module/dm_multipath/parameters/queue_if_no_path_timeout_secs"])
    lab.call(retry_layer.break_all, 1)
    assert lab.call(retry_layer.read, 1, 0)["errno"] == errno.EIO
    assert state(lab, 1) == (False, False)
