"""The serial console: text is found once, in time, over chunk borders; faults and the end are told."""

import socket
import time
from collections.abc import Iterator

import pytest

from appliance.errors import DeadlineExceeded
from appliance.measure.serial import MachineFault, Serial, clean


class Line:
    """Both ends of a console."""

    def __init__(self) -> None:
        self.machine, reader = socket.socketpair()
        self.console = Serial(reader)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.machine.close()
    made.console.close()


def test_finds_text_over_the_border_of_two_chunks(line: Line) -> None:
    line.machine.sendall(b"Debian 13 ttyS0\r\n\r\ndebian log")
    line.machine.sendall(b"in: ")
    before = time.monotonic()
    seen = line.console.wait_for("login: ", deadline=5)
    assert before - 1 < seen.at <= time.monotonic()


def test_does_not_find_the_same_text_twice(line: Line) -> None:
    line.machine.sendall(b"login: ")
    line.console.wait_for("login: ", deadline=5)
    with pytest.raises(DeadlineExceeded, match=r"waited 0\.05 s for 'login: '"):
        line.console.wait_for("login: ", deadline=0.05)
    line.machine.sendall(b"root\r\nPassword: login: ")
    line.console.wait_for("login: ", deadline=5)


def test_a_fault_ends_the_wait_at_once(line: Line) -> None:
    line.machine.sendall(b"[    3.1] Kernel panic - not syncing: no init\r\n")
    with pytest.raises(MachineFault) as caught:
        line.console.wait_for("login: ", deadline=30, faults=["Oops: int3", "Kernel panic"])
    assert caught.value.fault == "Kernel panic"
    assert "not syncing" in caught.value.why


def test_an_old_fault_does_not_count_against_what_is_awaited_next(line: Line) -> None:
    line.machine.sendall(b"Oops: int3\r\nlogin: ")
    line.console.wait_for("login: ", deadline=5)
    line.machine.sendall(b"$ ")
    line.console.wait_for("$ ", deadline=5, faults=["Oops: int3"])


def test_the_end_of_the_machine_ends_the_wait(line: Line) -> None:
    line.machine.sendall(b"Rebooting")
    line.machine.close()
    with pytest.raises(MachineFault, match="the machine ended before it said 'login: '") as caught:
        line.console.wait_for("login: ", deadline=30)
    assert caught.value.fault == ""
    assert "Rebooting" in caught.value.why


def test_the_time_is_that_of_arrival_not_of_looking(line: Line) -> None:
    line.machine.sendall(b"login: ")
    line.console.wait_for("login", deadline=5)
    arrived = time.monotonic()
    line.machine.sendall(b"end")
    line.console.wait_for("end", deadline=5)
    line.machine.sendall(b"prompt$ ")
    with pytest.raises(DeadlineExceeded):
        line.console.wait_for("nothing", deadline=0.2)
    # "prompt$" came 0.2 s ago, though it is asked for only now.
    assert line.console.wait_for("prompt$ ", deadline=5).at - arrived < 0.15


def test_terminal_sequences_are_no_text() -> None:
    assert clean("\x1b[0;1;39mDebian\x1b[0m \x1b]0;title\x07\x1b(B13\r\n") == "Debian 13\n"
