"""The image's systemd units, judged by systemd itself."""

import re
import shutil
from pathlib import Path

import pytest

from appliance.run import Completed, Runner
from tests.lint.files import ROOT, short
from tests.tier import require

EXTRA = ROOT / "mkosi.extra"
FOLDER = "usr/lib/systemd/system"
KINDS = {".service", ".target", ".socket", ".timer", ".mount", ".path", ".slice"}
UNITS = sorted(file for file in (EXTRA / FOLDER).iterdir() if file.suffix in KINDS)
EXEC = re.compile(r"^Exec\w+=[-@:+!|]*(/\S+)", re.MULTILINE)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with the host's own units for what ours depend on, our units, and the programs that ours start."""
    require(shutil.which("systemd-analyze"), "systemd-analyze is needed (package systemd)")
    root = tmp_path / "root"
    shutil.copytree(Path("/") / FOLDER, root / FOLDER, symlinks=True)
    shutil.copytree(EXTRA, root, symlinks=True, dirs_exist_ok=True)
    for unit in UNITS:
        for program in EXEC.findall(unit.read_text(encoding="utf-8")):
            inside = root / program.removeprefix("/")
            if not inside.exists() and Path(program).exists():
                inside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(program, inside)
    return root


def verify(root: Path, unit: Path) -> Completed:
    name = unit.name.replace("@.", "@local.")
    words = ["systemd-analyze", "verify", f"--root={root}", "--man=no", "--recursive-errors=no", name]
    return Runner().run(words, check=False)


@pytest.mark.parametrize("unit", UNITS, ids=short)
def test_unit_is_valid(unit: Path, image: Path) -> None:
    done = verify(image, unit)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_missing_program_and_a_wrong_setting_are_seen(image: Path) -> None:
    unit = image / FOLDER / "hatcheryd.service"
    good = unit.read_text(encoding="utf-8")
    unit.write_text(good.replace("/usr/sbin/hatcheryd", "/usr/sbin/hatcheryx"), encoding="utf-8")
    assert "hatcheryx" in verify(image, unit).stderr
    unit.write_text(good.replace("Restart=on-failure", "Restart=perhaps"), encoding="utf-8")
    assert "perhaps" in verify(image, unit).stderr


def test_the_backup_runs_by_itself_and_at_an_orderly_stop() -> None:
    units = {unit.name: unit.read_text(encoding="utf-8") for unit in UNITS}
    assert "hatchery-backup.timer" in next(
        line for line in units["hatchery.target"].splitlines() if line.startswith("Wants=")
    )
    assert "OnUnitActiveSec=1h" in units["hatchery-backup.timer"]
    stops = [line for line in units["hatchery-store.service"].splitlines() if line.startswith("ExecStop=")]
    # The backup may fail and is bounded in time; the store goes down in any case.
    assert stops == [
        "ExecStop=-/usr/sbin/hatchery-store backup --deadline 30",
        "ExecStop=/usr/sbin/hatchery-store down",
    ]
