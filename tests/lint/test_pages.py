"""Every command of the pages is run by a test, or tests/pages.py says why not; and what it says is about something."""

import re
from pathlib import Path

import pytest

from tests import pages
from tests.lint.files import all_files, short
from tests.pages import WHO, Command, Place, Story


def nobodys(commands: list[Command]) -> list[str]:
    """The commands that nobody runs."""
    return [f"{command.where}: {command.text}" for command in commands if pages.entry(command) is None]


def test_every_command_is_run_by_somebody() -> None:
    found = list(pages.every_command())
    assert len(found) > 80
    assert nobodys(found) == []


def test_there_is_no_other_page_with_commands() -> None:
    other = [file for file in all_files() if file.suffix == ".md" and file not in pages.pages()]
    assert [short(file) for file in other if list(pages.commands(file))] == []
    text = {short(file): file.read_text(encoding="utf-8") for file in pages.pages()}
    unmarked = re.compile(r"^ *```\n *[$#] ", re.MULTILINE)
    assert [name for name, content in text.items() if unmarked.search(content)] == []


def test_nothing_is_said_of_commands_that_are_not_there() -> None:
    needed = {pages.entry(command) for command in pages.every_command()}
    assert [entry for number, entry in enumerate(WHO) if number not in needed] == []


@pytest.mark.parametrize("place", Place)
def test_a_place_runs_all_that_are_its_own(place: Place) -> None:
    """By its name: a test asks for its commands with it, and cannot leave one out of a ``Story``."""
    assert re.search(rf"\bPlace\.{place.name}\b", place.file.read_text(encoding="utf-8"))


def test_reasons_name_what_is_there() -> None:
    reasons = [who for *_, who in WHO if isinstance(who, str)]
    assert len(reasons) <= 12, "exceptions are few"
    named = {name for reason in reasons for name in re.findall(r"[\w/]+\.(?:py|md)", reason) if "/" in name}
    assert [name for name in sorted(named) if not (pages.ROOT / name).exists()] == []


def shown(folder: Path, *lines: str) -> list[Command]:
    """The commands of a page that has these lines in a block."""
    page = folder / "page.md"
    page.write_text("\n".join(("Words.", "", "```console", *lines, "```", "")), encoding="utf-8")
    return list(pages.commands(page))


def test_a_command_that_nobody_runs_is_seen(tmp_path: Path) -> None:
    found = shown(tmp_path, "# hatchery status", "# systemctl stop everything")
    assert nobodys(found) == ["page.md:5: systemctl stop everything"]


def test_a_page_is_read_as_it_is_meant(tmp_path: Path) -> None:
    found = shown(tmp_path, "# one \\", "    two", "three", "$ edit <<'END'", "# four", "END", "# five # six")
    assert [(command.line, command.text, command.shown) for command in found] == [
        (4, "one \\\n    two", ("three",)),
        (7, "edit <<'END'\n# four\nEND", ()),
        (10, "five # six", ()),
    ]
    assert pages.bare(found[-1].text) == "five"


def test_a_story_has_what_it_needs_before_and_tells_what_nobody_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Command("a.md", 1, 0, "run NAME # once"), Command("b.md", 5, 0, "run NAME"), Command("b.md", 6, 0, "see")]
    monkeypatch.setattr(pages, "of", lambda _: found)
    story = Story(Place.LAB, {("b.md", "see"): "make", ("c.md", "see"): "none"}, {"NAME": "web", "ID": "7"}, once=True)
    lines = {page: [command.line for command in of] for page, of in story.pages().items()}
    assert lines == {"a.md": [1], "b.md": [6]}
    assert story.script("a.md").splitlines()[1:] == ["echo '## a.md:1'", "echo '## a.md:1' >&2", "run web # once"]
    told = ["{ make; } >&2", "echo '## b.md:6'", "echo '## b.md:6' >&2", "see"]
    assert story.script("b.md").splitlines()[1:] == told
    assert story.idle() == [("c.md", "see"), "ID"]
    assert pages.printed("before\n## a.md:1\nx\ny\n## b.md:6\n") == {"a.md:1": "x\ny\n", "b.md:6": ""}
