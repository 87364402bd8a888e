"""The documentation names what is there: commands, scripts, files; and says nothing of commands that are not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from appliance.cli.main import app
from tests.lint.files import ROOT, all_files, front_door, short

PAGES = [file for file in all_files() if file.suffix == ".md"]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"(?<![\w./-])hatchery((?: [a-z][a-z-]*)+)(?![\w.=/-])")
SCRIPT = re.compile(r"(?<![\w./-])script/([a-z]+)")
OPTION = re.compile(r" (--[a-z][a-z0-9-]*)")


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of the program with the words that call it.

    They are click's, but newer versions of typer carry a click of their own.
    """
    children = getattr(group, "commands", {})
    if not children:
        yield path, group
    for name, child in children.items():
        yield from commands(child, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


def command_of(words: list[str]) -> Any:
    """The command that the first words call; None when there is none."""
    return next((COMMANDS[tuple(words[:n])] for n in (3, 2, 1) if tuple(words[:n]) in COMMANDS), None)


def unknown_commands(text: str) -> set[str]:
    """Commands of ``hatchery`` that the text shows in code and that do not exist."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    found = set()
    for words in (match.group(1).split() for part in code for match in COMMAND.finditer(part)):
        if command_of(words) is None:
            found.add(" ".join(words))
    return found


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_only_commands_that_exist_are_shown(page: Path) -> None:
    assert unknown_commands(page.read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_only_scripts_that_exist_are_named(page: Path) -> None:
    there = {script.name for script in front_door()}
    assert set(SCRIPT.findall(page.read_text(encoding="utf-8"))) <= there


def test_every_command_is_described() -> None:
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert [" ".join(path) for path in COMMANDS if f"`hatchery {' '.join(path)}" not in text] == []


def test_every_option_in_the_table_exists() -> None:
    for line in (ROOT / "docs/cli.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `hatchery ([a-z-]+(?: [a-z-]+){0,2})", line):
            command = command_of(match.group(1).split())
            known = {option for parameter in command.params for option in parameter.opts}
            assert {option.strip("`") for option in OPTION.findall(line.replace("`", " "))} <= known, line


def test_every_script_is_described() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [script.name for script in front_door() if f"`script/{script.name}`" not in text] == []


def test_a_made_up_command_is_seen() -> None:
    assert unknown_commands("`hatchery clone explode web`") == {"clone explode web"}
    assert unknown_commands("`hatchery clone list` and hatchery makes, `hatchery status`") == set()
