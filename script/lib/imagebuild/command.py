"""Starting programs for an image build, and the one error that a build ends with."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class BuildError(Exception):
    """A build that cannot go on: what failed, why, and what to do."""

    def __init__(self, what: str, why: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        """Explain the error in three lines."""
        return f"{self.what}\n  why: {self.why}\n  what to do: {self.hint}"


def say(text: str) -> None:
    """Write a progress line to standard error; standard output carries only the result."""
    sys.stderr.write(f"image: {text}\n")
    sys.stderr.flush()


def need_tools(tools: Mapping[str, str]) -> None:
    """Check that programs are installed.

    `tools` maps each program's name to the Debian package that holds it.

    Raises:
        BuildError: one or more are missing; all of them are named at once.
    """
    missing = {tool: package for tool, package in tools.items() if shutil.which(tool) is None}
    if missing:
        raise BuildError(
            f"programs are missing: {', '.join(sorted(missing))}",
            "the image build uses them on this machine",
            f"run script/bootstrap, or: apt-get install {' '.join(sorted(set(missing.values())))}",
        )


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
    """Run a program with its output on our standard error and nothing on its standard input.

    Raises:
        BuildError: it could not be started or ended with a non-zero status.
    """
    words = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
        )
    except OSError as error:
        raise BuildError(f"{words[0]} could not be started", str(error), "run script/bootstrap") from error
    if done.returncode != 0:
        raise BuildError(
            f"{Path(words[0]).name} failed", f"it ended with status {done.returncode}", "read its messages above"
        )


def capture(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return what it wrote on standard output.

    Raises:
        BuildError: it could not be started or ended with a non-zero status.
    """
    words = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=None if env is None else {**os.environ, **env},
        )
    except OSError as error:
        raise BuildError(f"{words[0]} could not be started", str(error), "run script/bootstrap") from error
    if done.returncode != 0:
        raise BuildError(
            f"{Path(words[0]).name} failed", f"it ended with status {done.returncode}", "read its messages above"
        )
    return done.stdout
