"""One glance: what is asked twice within it, and what is asked anew."""

import threading

import pytest

from appliance.errors import CannotTell
from appliance.host import glance


class _Sysfs:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = False

    def __hash__(self) -> int:
        return 1

    @glance.remembered
    def answer(self, name: str) -> int:
        self.asked.append(name)
        if self.broken:
            raise CannotTell(f"cannot read {name}")
        return len(self.asked)


def test_each_question_is_asked_every_time_without_a_glance() -> None:
    sysfs = _Sysfs()
    assert [sysfs.answer("sda"), sysfs.answer("sda")] == [1, 2]


def test_a_question_is_asked_once_for_each_argument_within_a_glance_and_again_in_the_next() -> None:
    sysfs = _Sysfs()
    with glance.one():
        assert [sysfs.answer("sda"), sysfs.answer("sdb"), sysfs.answer("sda")] == [1, 2, 1]
    with glance.one():
        assert sysfs.answer("sda") == 3


def test_a_glance_within_another_is_a_part_of_it() -> None:
    sysfs = _Sysfs()
    with glance.one():
        sysfs.answer("sda")
        with glance.one():
            assert sysfs.answer("sda") == 1
        assert sysfs.answer("sda") == 1


def test_what_changes_devices_asks_anew_and_leaves_nothing_old_behind() -> None:
    sysfs = _Sysfs()
    with glance.one():
        sysfs.answer("sda")
        with glance.anew():
            assert [sysfs.answer("sda"), sysfs.answer("sda")] == [2, 3]
        assert [sysfs.answer("sda"), sysfs.answer("sda")] == [4, 4]


def test_an_error_is_not_remembered() -> None:
    sysfs = _Sysfs()
    with glance.one():
        sysfs.broken = True
        with pytest.raises(CannotTell):
            sysfs.answer("sda")
        sysfs.broken = False
        assert sysfs.answer("sda") == 2


def test_another_thread_sees_for_itself() -> None:
    sysfs = _Sysfs()
    seen: list[int] = []
    with glance.one():
        sysfs.answer("sda")
        thread = threading.Thread(target=lambda: seen.append(sysfs.answer("sda")))
        thread.start()
        thread.join()
    assert seen == [2]
