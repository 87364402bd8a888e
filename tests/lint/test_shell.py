"""Shell scripts, and what everything in script/ promises."""

import os
import re
from pathlib import Path

import pytest

from appliance.run import Runner
from tests.lint.files import all_files, first_line, front_door, shell_scripts, short


def test_shellcheck() -> None:
    scripts = shell_scripts()
    assert scripts
    done = Runner().run(["shellcheck", "--external-sources", *scripts], check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", front_door(), ids=short)
def test_front_door_explains_itself(script: Path) -> None:
    done = Runner().run([script, "--help"], timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\s*usage:", done.stdout, re.IGNORECASE), done.stdout


@pytest.mark.parametrize("script", [*front_door()], ids=short)
def test_front_door_is_executable(script: Path) -> None:
    assert os.access(script, os.X_OK)


def test_executable_files_say_what_runs_them() -> None:
    wrong = [short(file) for file in all_files() if os.access(file, os.X_OK) != first_line(file).startswith("#!")]
    assert not wrong, f"executable without a #! line, or the other way round: {wrong}"
