import inspect

from appliance import errors
from appliance.errors import CommandFailed, HatcheryError, NotFound


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
