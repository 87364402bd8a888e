"""The manual: pages have all of a command line, and the package brings them to where they are looked for."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from reference.files import ROOT
from reference.programs import Program, programs

from appliance.run import Runner


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
