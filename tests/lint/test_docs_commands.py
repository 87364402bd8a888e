"""Every command line in the documentation is one that its program takes: verbs, options, arguments, files, units.

Lines in ``console`` blocks are read as a shell would read them, and their programs' own parsers parse them, without
running anything: so the author of a page sees a slip at once. tests/pages.py says which test runs each of them.
"""

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
from imagebuild import __main__ as image_script

from appliance.attach import main as attach
from appliance.cli.main import app
from appliance.rescue import main as rescue
from appliance.store import main as store
from appliance.update import main as update
from bench import demo, suite
from tests.lint.files import ROOT, all_files, front_door, short
from tests.lint.test_docs import COMMANDS, PAGES, command_of
from tests.pages import commands

BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
UNIT = re.compile(r"\b(?:systemctl [a-z-]+(?: --[a-z-]+)*|journalctl (?:-u|--unit)) ((?:hatchery|hatcheryd)[\w@.-]*)")

OTHERS = (
    "ansible-galaxy cp curl echo editor git journalctl ls man mkdir modprobe printf qemu-storage-daemon rsync scp ssh "
    "ssh-keygen virsh"
)
"""Programs of others, whose options are theirs to change."""

OPERATORS = {"&&", "||", ";", "|", ">", ">>", "<", "&"}


def click(words: Sequence[str]) -> None:
    """Parse a command line of ``hatchery``. Raises SystemExit."""
    try:
        _descend(typer.main.get_command(app), list(words), "hatchery")
    except Exception as error:
        if type(error).__name__ in ("Exit", "NoArgsIsHelpError"):
            return
        if not hasattr(error, "exit_code"):
            raise
        raise SystemExit(str(error) or getattr(error, "message", "")) from error


def _descend(command: Any, words: list[str], name: str, parent: Any = None) -> None:
    context = command.make_context(name, words, parent=parent)
    if getattr(command, "commands", None):
        name, child, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        _descend(child, rest, name, context)


def script(words: Sequence[str]) -> None:
    """A program of script/, of which those in Python parse their words themselves. Raises SystemExit."""
    name, rest = words[0].removeprefix("script/"), list(words[1:])
    if name not in {each.name for each in front_door()}:
        raise SystemExit(f"there is no script/{name}")
    parsers: dict[str, Callable[[list[str]], object]] = {
        "image": image_script.parse,
        "bench": suite.parse,
        "demo": demo.arguments,
    }
    if name in parsers:
        parsers[name](rest)
        return
    usage = (ROOT / "script" / name).read_text(encoding="utf-8")
    unknown = [word for word in rest if word.startswith("--") and word != "--" and word not in usage]
    if unknown:
        raise SystemExit(f"script/{name} has no {unknown[0]}")


def playbook(words: Sequence[str]) -> None:
    """A line of Ansible's: its playbooks are there, and an inventory that is to be copied too. Raises SystemExit."""
    # In a collection a playbook is named without its folder and its ending.
    words = [re.sub(r"^hatchery\.appliance\.(\w+)$", r"ansible/\1.yml", word) for word in words]
    files = [word.replace("inventories/mine", "inventories/example") for word in words if word.startswith("ansible/")]
    missing = [file for file in files if not (ROOT / file).exists()]
    if missing or not any(file.endswith(".yml") for file in files):
        raise SystemExit(f"there is no {missing or 'playbook'}")


def argparsed(parser: argparse.ArgumentParser) -> Callable[[Sequence[str]], None]:
    def parse(words: Sequence[str]) -> None:
        parser.parse_args(list(words))

    return parse


PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    "hatchery": click,
    "hatchery-attach": argparsed(attach.parser()),
    "hatchery-store": argparsed(store.parser(rescue._add)),
    "hatchery-update": argparsed(update.parser()),
    "ansible-playbook": playbook,
}


def shell_words(line: str) -> list[list[str]]:
    """The simple commands of a line, without variables that are set before them and files that they write to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found: list[list[str]] = [[]]
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif word in OPERATORS:
            skip = word in (">", ">>", "<")
            if not skip:
                found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):
            found[-1].append(word)
    return [words for words in found if words]


def check(line: str) -> str:
    """Why a line would not be taken; empty when it would be."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            for words in shell_words(line):
                _check(words)
    except SystemExit as end:
        return "" if end.code == 0 else f"{line}: {said.getvalue().strip() or end.code}"
    return ""


def _check(words: list[str]) -> None:
    program = words[0].rpartition("/")[2]
    if words[0].startswith("script/"):
        script(words)
    elif program in PROGRAMS:
        PROGRAMS[program](words[1:])
    elif program == "systemctl":
        unknown = [word for word in words[2:] if word.startswith("hatchery") and not unit_exists(word)]
        if unknown:
            raise SystemExit(f"there is no unit {unknown[0]}")
    elif program in (".", "export", "cd") or words[0].startswith("build/demo/"):
        return
    elif program not in OTHERS.split():
        raise SystemExit(f"{program} is not known here: is it named rightly?")


def unit_exists(name: str) -> bool:
    """Whether the image has a unit of that name, or a role writes it; an instance of a template included."""
    if "." not in name:
        name += ".service"
    names = {file.name for file in all_files() if "systemd/system" in str(file) or file.suffix == ".service"}
    return name in names or re.sub(r"@[^.]*", "@", name) in names


def lines(page: Path) -> Iterator[str]:
    """The command lines that a page's ``console`` blocks show, without what follows a line as its input."""
    for command in commands(page):
        yield command.text.replace("\\\n", " ").partition("\n")[0]


@pytest.mark.parametrize("page", [page for page in PAGES if any(lines(page))], ids=short)
def test_every_command_line_would_be_taken(page: Path) -> None:
    assert [why for why in map(check, lines(page)) if why] == []


@pytest.mark.parametrize("name", ["README.md", "docs/deployment.md", "docs/install.md", "docs/update.md"])
def test_a_page_that_is_followed_from_top_to_bottom_has_one_prompt(name: str) -> None:
    """What root built is in root's cache: with two prompts the next line would look for it in another user's."""
    prompts = {
        found
        for block in BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))
        for found in re.findall(r"^ *([$#]) ", block, re.MULTILINE)
    }
    assert prompts == {"#"}


def inline(text: str) -> Iterator[tuple[str, Any, set[str]]]:
    """What a text shows of ``hatchery`` in its lines: the words, the command, and the options."""
    for code in CODE.findall(text):
        match = re.match(r"(?:hatchery )((?:[a-z][a-z-]*)(?: [a-z][a-z-]*)*)", code)
        command = command_of(match.group(1).split()) if match else None
        if command is not None:
            yield code, command, {word.partition("=")[0] for word in code.split() if word.startswith("--")}


EVERYWHERE = {"--help", "--json", "--host", "--socket", "--verbose", "--version"}


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_options_in_the_text_exist(page: Path) -> None:
    wrong = []
    for code, command, options in inline(page.read_text(encoding="utf-8")):
        known = {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
        if options - known - EVERYWHERE:
            wrong.append(code)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_units_in_the_text_exist(page: Path) -> None:
    units = UNIT.findall(page.read_text(encoding="utf-8"))
    assert [unit for unit in units if not unit_exists(unit.rstrip("."))] == []


def test_hints_name_commands_and_options_that_exist() -> None:
    """What errors tell an operator to do is documentation too."""
    wrong = []
    for file in sorted((ROOT / "appliance").rglob("*.py")):
        for code, command, options in inline(file.read_text(encoding="utf-8")):
            known = {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
            if options - known - EVERYWHERE:
                wrong.append(f"{short(file)}: {code}")
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hatchery clone create web", "template"),
        ("hatchery clone create web --template a --colour red", "--colour"),
        ("hatchery template add a b c", "unexpected extra argument"),
        ("hatchery clone explode", "explode"),
        ("hatchery clone create web --template a --count many", "many"),
        ("hatchery-update aply x", "aply"),
        ("hatchery-attach", "required"),
        ("script/image apliance", "apliance"),
        ("script/bench stores", "stores"),
        ("script/test --every", "--every"),
        (".venv/bin/ansible-playbook -i ansible/inventories/mine ansible/delpoy.yml", "delpoy"),
        ("systemctl enable --now hatchery-attahc@web", "attahc"),
        ("hatchry status", "hatchry"),
    ],
)
def test_a_wrong_line_is_seen(line: str, words: str) -> None:
    assert words in check(line)


def test_right_lines_are_taken() -> None:
    assert check("X=1 hatchery --host root@box status > file && hatchery clone list # all") == ""
    assert COMMANDS
