import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import CannotTell
from appliance.host import multipath, uevent
from appliance.host.dm import DeviceNumber
from appliance.retry import Limits, Policy, Step, failed_clones

LIMITS = Limits(pauses=(0.0, 1.0, 2.0), window=100.0, grace=0.5)


def fail_until_let_go(policy: Policy, name: str, now: float) -> tuple[float, int]:
    """Let every try fail at once; returns when the error was let go, and after how many tries."""
    tries = 0
    while True:
        policy.failed(name, now)
        at = policy.next_at()
        assert at is not None
        now = max(now, at)
        for _, step in policy.due(now):
            if step is Step.LET_GO:
                return now, tries
            tries += 1


def test_the_first_try_comes_at_once_and_only_once_for_each_failure() -> None:
    policy = Policy(LIMITS)
    policy.failed("a", 10.0)
    policy.failed("a", 10.0)
    assert policy.due(10.0) == [("a", Step.REINSTATE)]
    assert policy.due(10.0) == []
    assert policy.next_at() is None


def test_later_tries_wait_longer() -> None:
    policy = Policy(LIMITS)
    policy.failed("a", 0.0)
    policy.due(0.0)
    policy.failed("a", 0.1)
    assert policy.next_at() == 1.1
    assert policy.due(1.0) == []
    assert policy.due(1.1) == [("a", Step.REINSTATE)]


def test_an_error_that_stays_is_let_go_and_holding_goes_on_when_it_is_out() -> None:
    policy = Policy(LIMITS)
    now, tries = fail_until_let_go(policy, "a", 0.0)
    assert tries == 3
    assert policy.letting_go("a")
    assert policy.due(now) == []
    policy.failed("a", now + 0.1)
    assert policy.due(now + 0.1) == [("a", Step.HOLD)]
    assert not policy.letting_go("a")


def test_holding_goes_on_after_the_grace_even_if_no_error_came_out() -> None:
    policy = Policy(LIMITS)
    now, _ = fail_until_let_go(policy, "a", 0.0)
    assert policy.due(now + 0.4) == []
    assert policy.due(now + 0.5) == [("a", Step.HOLD)]


def test_after_an_error_was_let_go_the_next_gets_all_its_tries_again() -> None:
    policy = Policy(LIMITS)
    now, _ = fail_until_let_go(policy, "a", 0.0)
    policy.due(now + 1)
    assert fail_until_let_go(policy, "a", now + 2)[1] == 3


def test_tries_outside_the_window_do_not_count() -> None:
    policy = Policy(LIMITS)
    for failure in (0.0, 90.0, 180.0, 270.0, 360.0):
        policy.failed("a", failure)
        assert policy.due(failure + 5) == [("a", Step.REINSTATE)]


def test_clones_do_not_share_their_tries() -> None:
    policy = Policy(LIMITS)
    fail_until_let_go(policy, "a", 0.0)
    policy.failed("b", 5.0)
    assert ("b", Step.REINSTATE) in policy.due(5.0)


def test_a_clone_that_is_gone_is_forgotten() -> None:
    policy = Policy(LIMITS)
    policy.failed("a", 0.0)
    policy.keep_only({"b"})
    assert policy.due(10.0) == []
    assert not policy.unsettled(0.0)


@given(st.lists(st.floats(min_value=0.0, max_value=5.0), max_size=200))
def test_whenever_failures_come_tries_are_bounded_and_every_plan_has_an_end(gaps: list[float]) -> None:
    policy = Policy(LIMITS)
    now = 0.0
    since_let_go: list[float] = []
    held = True
    for gap in gaps:
        now += gap
        policy.failed("a", now)
        for _, step in policy.due(now):
            if step is Step.REINSTATE:
                assert held
                since_let_go.append(now)
                assert len([at for at in since_let_go if at > now - LIMITS.window]) <= len(LIMITS.pauses)
            elif step is Step.LET_GO:
                since_let_go = []
                held = False
            else:
                held = True
    at = policy.next_at()
    assert at is None or at <= now + max(LIMITS.pauses)


def test_the_default_limits_outlast_a_dying_drive_but_not_a_guest() -> None:
    assert 2.0 < sum(Limits().pauses) < 10.0


def test_status_of_a_path_that_works_and_of_one_that_failed() -> None:
    assert multipath.parse_status("2 1 0 0 1 1 E 0 1 0 254:0 A 0") == multipath.PathStatus(
        DeviceNumber(254, 0), active=True, failures=0
    )
    assert multipath.parse_status("2 0 0 0 1 1 E 0 1 0 254:7 F 12") == multipath.PathStatus(
        DeviceNumber(254, 7), active=False, failures=12
    )


@pytest.mark.parametrize(
    "line",
    ["", "2 0 0 0 2 1 E 0 1 0 254:7 F 12", "2 0 0 0 1 1 E 0 1 0 254:7 X 1", "2 0 0 0 1 1 E 0 2 0 1:7 A 1 1:8 A 1"],
)
def test_a_status_that_is_not_a_retry_layers_is_not_guessed_at(line: str) -> None:
    with pytest.raises(CannotTell):
        multipath.parse_status(line)


def test_whether_a_table_holds_requests() -> None:
    assert multipath.queues(
        "4 queue_if_no_path retain_attached_hw_handler queue_mode bio 0 1 1 round-robin 0 1 1 254:0 1"
    )
    assert not multipath.queues("3 retain_attached_hw_handler queue_mode bio 0 1 1 round-robin 0 1 1 254:0 1")
    assert not multipath.queues("")


RECORDED = (
    b"change@/devices/virtual/block/dm-1\0ACTION=change\0DEVPATH=/devices/virtual/block/dm-1\0SUBSYSTEM=block\0"
    b"DM_TARGET=multipath\0DM_ACTION=PATH_FAILED\0DM_SEQNUM=1\0DM_PATH=254:0\0DM_NR_VALID_PATHS=0\0"
    b"DM_NAME=hatchery-clone-1\0DM_UUID=HATCHERY-clone-1\0MAJOR=254\0MINOR=1\0DEVNAME=dm-1\0SEQNUM=783\0"
)


def test_the_failed_clone_is_read_from_the_kernels_event() -> None:
    event = uevent.parse(RECORDED)
    assert event["DM_PATH"] == "254:0"
    assert failed_clones([event]) == {"hatchery-clone-1"}


def test_other_events_and_other_peoples_devices_are_left_alone() -> None:
    foreign = uevent.parse(RECORDED.replace(b"HATCHERY-clone-1", b"mpath-clone-1"))
    reinstated = uevent.parse(RECORDED.replace(b"PATH_FAILED", b"PATH_REINSTATED"))
    assert failed_clones([foreign, reinstated, uevent.parse(b"libudev\0..."), uevent.parse(b"")]) == set()
