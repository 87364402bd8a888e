import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from appliance import errors
from appliance.errors import AlreadyExists, CommandFailed, DeadlineExceeded, HatcheryError, NotFound

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


def test_a_line_in_a_log_is_about_one_error_alone() -> None:
    """The step that holds for a whole class is for who reads the error itself."""
    assert NotFound.next_step not in str(NotFound("no disk", why="it is gone"))


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


THEIR_OWN_CAUSE = {
    NotFound: "that there is none of that name is all there is to know; what to do is said instead",
    AlreadyExists: "that there is one of that name is all there is to know; what to do is said instead",
    DeadlineExceeded: "that it took too long is the cause",
}
"""Classes whose sentence says why, and the reason for believing that."""

SELF_EVIDENT = {
    "is not running": "what is missing is named, and the hint leads to what says why it is down",
    "is not active": "what is missing is named, and the hint leads to what says why it is down",
    "is not mounted": "what is missing is named, and the hint leads to what says why it is down",
    "the store is not up": "what is missing is named, and the hint brings it up",
    "has no partition": "nobody made it, and the hint says which role does",
    "has no data partition": "nobody made it, and the hint says which role does",
    "there is no state file system": "nobody made it, and the hint says which role does",
    "there is no fast pool": "nobody made it, and the hint says which role does",
    "is not a backing device of the cache": "nobody made it one, and the hint says which role does",
    "the NVMe drive is not set up": "nobody set it up, and the hint says which role does",
    "a backup is being made already": "who is in the way is named",
    "holds the running system": "that is what forbids it",
    "are one disk": "that is what forbids it",
    "two partitions are named": "that is what makes it uncertain",
    "there is no dump of": "that is what it was looked for",
    "has lost its superblock": "what destroyed it cannot be known from what is left",
    "was cut off": "what cut it off cannot be known from what is left",
    "something that is not the fast pool's": "what it is, nobody knows; the hint says what tells",
}
"""Words of sentences that are a cause themselves, and the reason for believing that."""


def says_too_little(call: ast.Call) -> bool:
    """Whether an error is made without its cause."""
    given = {word.arg for word in call.keywords}
    if "why" in given:
        return False
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name in {kind.__name__ for kind in THEIR_OWN_CAUSE}:
        return name != DeadlineExceeded.__name__ and "hint" not in given
    return not any(words in ast.unparse(call.args[0]).replace("\\'", "'") for words in SELF_EVIDENT)


def calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{file.relative_to(PACKAGE)}:{call.lineno}", call)
        for file in sorted(PACKAGE.rglob("*.py"))
        for call in raised(file.read_text(encoding="utf-8"))
    ]


def test_every_place_that_raises_one_names_the_cause() -> None:
    """By the source. That a reader gets them, and that they fit, is what test_errors_read.py is for."""
    assert len(calls()) > 300
    assert [place for place, call in calls() if says_too_little(call)] == []


def test_every_exemption_is_needed() -> None:
    bare = [ast.unparse(call.args[0]) for _, call in calls() if not {word.arg for word in call.keywords} & {"why"}]
    assert [words for words in SELF_EVIDENT if not any(words in sentence for sentence in bare)] == []


def test_an_error_that_says_too_little_is_seen() -> None:
    source = """
raise NotFound("x is gone")
raise InUse("x is held", hint="try again")
raise errors.InUse("x", why="y has it")
raise NotFound("x is gone", hint="see y")
raise NotReady("the pool is not active", hint="see z")
raise DeadlineExceeded("x took 5 s")
"""
    assert [says_too_little(call) for call in raised(source)] == [True, True, False, False, False, False]


def test_every_error_is_raised_somewhere() -> None:
    """A class that nobody raises is one that nobody tests."""
    text = "".join(file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py") if file.name != "errors.py")
    assert [kind.__name__ for kind in all_errors() if f"{kind.__name__}(" not in text] == []
