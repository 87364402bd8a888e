import pytest

from appliance import wait
from appliance.errors import DeadlineExceeded


def test_it_returns_what_the_probe_found() -> None:
    answers = iter([None, None, 7])
    assert wait.until(lambda: next(answers), "seven", deadline=5, interval=0) == 7


def test_zero_is_an_answer_and_false_is_not() -> None:
    assert wait.until(lambda: 0, "a number", deadline=1) == 0
    with pytest.raises(DeadlineExceeded, match="waited 0 s for a truth"):
        wait.until(lambda: False, "a truth", deadline=0)
