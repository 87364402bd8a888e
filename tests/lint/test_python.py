"""Formatting, lint and types of all Python, tests included."""

import sys
from pathlib import Path

import pytest

from appliance.run import Runner
from tests.lint.files import ROOT


def tool(name: str, *words: str | Path, mypy_path: Path | None = None) -> None:
    """Run a Python tool of this environment in the checkout; fail with what it printed."""
    runner = Runner({"MYPYPATH": str(mypy_path)} if mypy_path else {})
    done = runner.run([sys.executable, "-m", name, *words], timeout=300, check=False)
    assert done.returncode == 0, f"{name}:\n{done.stdout}{done.stderr}"


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_ruff_check() -> None:
    tool("ruff", "check", ".")


def test_ruff_format() -> None:
    tool("ruff", "format", "--check", "--diff", ".")


def test_mypy() -> None:
    tool("mypy")


def test_mypy_image_builder() -> None:
    tool("mypy", "-p", "imagebuild", mypy_path=ROOT / "script" / "lib")


def test_mypy_ansible_modules() -> None:
    tool("mypy", "ansible/plugins")
