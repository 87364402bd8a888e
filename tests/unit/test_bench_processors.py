"""What else the machine did while a bench ran."""

from pathlib import Path

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
