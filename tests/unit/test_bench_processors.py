"""What else the machine did while a bench ran."""

import os
from pathlib import Path

from appliance.run import Runner
from bench import processors

BEFORE = "cpu  30 0 0 170 0 0 0 0 0 0\ncpu0 10 0 0 90 0 0 0 0 0 0\ncpu1 20 0 0 80 0 0 0 0 0 0\nintr 1\n"
AFTER = "cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 90 5 5 100 0 0 0 0 0 0\ncpu1 60 0 0 100 40 0 0 0 0 0\nintr 9\n"


def test_waiting_for_disks_is_not_work() -> None:
    assert processors.parse(AFTER) == {0: (100, 200), 1: (60, 200)}


def test_each_processor_is_told_apart_and_those_that_the_bench_left_alone() -> None:
    told = processors.words(processors.parse(BEFORE), processors.parse(AFTER), {0})
    assert told == "0 90% busy, 1 40% busy (with other work alone)"


def test_this_machine_can_be_asked() -> None:
    assert processors.bound() <= set(processors.read())
    assert processors.words(processors.read(), processors.read(Path("/proc/stat")), processors.bound())


def test_a_server_and_its_clients_get_processors_of_their_own() -> None:
    assert processors.halves({3}) is None
    assert processors.halves({0, 1}) == (frozenset({0}), frozenset({1}))
    assert processors.halves({4, 0, 2, 9, 7}) == (frozenset({0, 2}), frozenset({4, 7, 9}))


def test_processes_keep_apart_while_it_lasts() -> None:
    usable = processors.bound()
    server = Runner().start(["sleep", "60"])
    try:
        with processors.apart(server.pid) as left:
            assert processors.bound() == left
            assert int(Runner().run(["nproc"]).stdout) == len(left), "what is started then is there, too"
            theirs = frozenset(os.sched_getaffinity(server.pid))
            assert (theirs | left, theirs & left if len(usable) > 1 else set()) == (usable, set())
        assert processors.bound() == usable
        assert os.sched_getaffinity(server.pid) == usable
    finally:
        server.kill()
