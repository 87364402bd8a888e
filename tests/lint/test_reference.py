"""What is made from the code and committed is what the code makes; and what is written by hand agrees with the code."""

import re
from pathlib import Path

import pytest
from reference.files import ROOT, made

from appliance.api.problems import TYPES, status_of
from appliance.cli.main import EXIT_STATUS, INTERRUPTED, READER_GONE
from tests.lint.files import short


@pytest.mark.parametrize("path", made(), ids=short)
def test_files_that_are_made_are_up_to_date(path: Path) -> None:
    assert path.is_file(), f"{short(path)} is missing: run script/reference"
    assert path.read_text(encoding="utf-8") == made()[path], "run script/reference"


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
    assert {int(row[0]) for row in rows if not row[1]} == {0, INTERRUPTED, READER_GONE}
