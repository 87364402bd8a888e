import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import errors
from appliance.errors import CommandFailed, DeadlineExceeded, HatcheryError, NotFound

PACKAGE = Path(errors.__file__).parent


def all_errors() -> list[type[HatcheryError]]:
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [kind for kind in found if issubclass(kind, HatcheryError)]


def test_codes_are_unique_so_that_programs_can_tell_errors_apart() -> None:
    codes = [kind.code for kind in all_errors()]
    assert len(codes) > 10
    assert len(set(codes)) == len(codes)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    text = errors.__doc__ or ""
    assert [kind.__name__ for kind in all_errors() if kind.__name__ not in text] == []


def test_an_error_reads_as_what_why_and_what_to_do() -> None:
    error = NotFound("clone web-1 does not exist", why="it was removed", hint="see `hatchery clone list`")
    assert str(error) == "clone web-1 does not exist: it was removed (see `hatchery clone list`)"


def test_a_failed_command_keeps_the_end_of_what_it_said() -> None:
    error = CommandFailed("mdadm --stop x", 1, "\n".join(f"line {n}" for n in range(9)))
    assert "line 8" in str(error)
    assert "line 3" not in str(error)


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.code)
def test_every_error_names_the_cause_and_the_next_step(kind: type[HatcheryError]) -> None:
    error = kind("mdadm", 1, "no such array") if issubclass(kind, CommandFailed) else kind("no disk", why="it is gone")
    assert error.why
    assert error.hint == kind.next_step
    assert kind.next_step not in str(error), "a line in a log is about this error alone"
    if not issubclass(kind, CommandFailed):
        assert kind("no disk", hint="buy one").hint == "buy one"


def test_every_class_has_a_next_step_of_its_own() -> None:
    assert len({kind.next_step for kind in all_errors()}) == len(all_errors())


def raised(source: str) -> Iterator[ast.Call]:
    """Where a module's source makes an error of ours."""
    names = {kind.__name__ for kind in all_errors()} - {CommandFailed.__name__}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in names:
                yield node


def says_too_little(call: ast.Call) -> bool:
    """Whether an error is made without its cause, and without a step of its own."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    # That it took too long is the cause.
    return name != DeadlineExceeded.__name__ and not {word.arg for word in call.keywords} & {"why", "hint"}


def test_every_place_that_raises_one_names_the_cause_or_the_next_step() -> None:
    calls = [
        (file, call) for file in sorted(PACKAGE.rglob("*.py")) for call in raised(file.read_text(encoding="utf-8"))
    ]
    assert len(calls) > 300
    wrong = [f"{file.relative_to(PACKAGE)}:{call.lineno}" for file, call in calls if says_too_little(call)]
    assert wrong == []


def test_an_error_that_says_too_little_is_seen() -> None:
    [little, enough] = raised('raise NotFound("x is gone")\nraise errors.InUse("x", why="y has it")')
    assert says_too_little(little)
    assert not says_too_little(enough)


def test_every_error_is_raised_somewhere() -> None:
    """A class that nobody raises is one that nobody tests."""
    text = "".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py") if file.name != "errors.py")
    assert [kind.__name__ for kind in all_errors() if f"{kind.__name__}(" not in text] == []
