"""What is made from the code and committed is what the code makes; and what is written by hand agrees with the code."""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from reference.files import ROOT, made
from reference.programs import Program, programs

from appliance.api.problems import TYPES, status_of
from appliance.cli.main import EXIT_STATUS, INTERRUPTED, READER_GONE, WRONG_COMMAND_LINE
from appliance.run import Runner
from tests.lint.files import short


@pytest.mark.parametrize("path", made(), ids=short)
def test_files_that_are_made_are_up_to_date(path: Path) -> None:
    assert path.is_file(), f"{short(path)} is missing: run script/reference"
    assert path.read_text(encoding="utf-8") == made()[path], "run script/reference"


@pytest.mark.parametrize("program", programs(), ids=lambda each: each.parser.prog)
def test_a_programs_page_has_all_of_its_command_line(program: Program) -> None:
    page = (ROOT / f"docs/man/{program.parser.prog}.{program.section}").read_text(encoding="utf-8").replace("\\-", "-")
    for words in shell_words(program.parser):
        assert words in page, words


def shell_words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Each verb and each option."""
    for action in parser._actions:
        yield from (name for name in action.option_strings if name not in ("-h", "--help"))
        if isinstance(action, argparse._SubParsersAction):
            for name, leaf in action.choices.items():
                yield f"{parser.prog} {name}"
                yield from shell_words(leaf)


def test_the_package_brings_the_manual_to_where_man_looks(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "appliance", tree / "appliance", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "docs/man", tree / "docs/man")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree / name)
    # What a wheel puts into its data, without the package `wheel`, which older releases of setuptools need to make one.
    install = (
        "import os, setuptools; os.chdir({!r}); setuptools.setup(script_args=['install_data', '--install-dir', {!r}])"
    )
    Runner().run([sys.executable, "-c", install.format(str(tree), str(tmp_path / "prefix"))])
    there = {str(path.relative_to(tmp_path / "prefix")) for path in (tmp_path / "prefix").rglob("*.*")}
    assert there == {f"share/man/man{page.suffix[1:]}/{page.name}" for page in (ROOT / "docs/man").iterdir()}


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading of a page, without its first two lines."""
    text = (ROOT / page).read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    rows = re.split(r"\n#", text, maxsplit=1)[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]
    return cells[2:]


def test_every_type_of_problem_is_described() -> None:
    described = {row[0].strip("`"): int(row[1]) for row in table("docs/api.md", "## Problems")}
    assert described == {code: status_of(code) for code in TYPES}


def test_every_exit_status_is_described() -> None:
    rows = table("docs/cli.md", "## Exit status")
    described = {code: int(row[0]) for row in rows for code in re.findall(r"`([a-z-]+)`", row[1])}
    assert described == EXIT_STATUS
    assert {int(row[0]) for row in rows if not row[1]} == {0, WRONG_COMMAND_LINE, INTERRUPTED, READER_GONE}
