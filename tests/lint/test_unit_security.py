"""What the units could do if they were taken over, held to a limit each: ``systemd-analyze security``."""

import shutil
from pathlib import Path

import pytest

from appliance.images import convert
from appliance.run import Completed, Runner
from tests.lint.files import ROOT
from tests.tier import require

FOLDER = ROOT / "mkosi.extra/usr/lib/systemd/system"

LIMITS = {
    "hatcheryd.service": 2.3,
    "hatchery-nbd@.service": 1.5,
    "hatchery-latencies.service": 1.5,
    "hatchery-backup.service": 2.0,
    # It has to work while the system's disk dies, so it has no view of the file system of its own.
    "hatchery-retry.service": 4.0,
    # These assemble arrays, load modules and mount for everybody.
    "hatchery-mend.service": 5.5,
    "hatchery-store.service": 5.5,
}
"""Exposure: 0 is a service that can do nothing, 10 one that can do everything."""

ONCE = {"hostname-credential.service", "ssh-hostkeys.service"}
"""They write a file below /etc at the first start, and are gone."""

IMPORTER = 0.5


def judged(unit: Path, limit: float) -> Completed:
    """Have systemd judge a unit's file, without a service manager; its status says whether it keeps to the limit."""
    require(shutil.which("systemd-analyze"), "systemd-analyze is needed (package systemd)")
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={round(limit * 10)}"]
    return Runner().run([*words, unit], check=False)


def test_every_service_has_a_limit() -> None:
    assert {unit.name for unit in FOLDER.glob("*.service")} == LIMITS.keys() | ONCE


@pytest.mark.parametrize("name", LIMITS)
def test_a_service_is_not_more_exposed_than_it_may_be(name: str) -> None:
    done = judged(FOLDER / name, LIMITS[name])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("hatcheryd.service", "ProtectSystem=strict"),
        ("hatcheryd.service", "CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE"),
        ("hatchery-nbd@.service", "User=hatchery-nbd"),
        ("hatchery-nbd@.service", "CapabilityBoundingSet="),
    ],
)
def test_a_setting_that_is_lost_is_noticed(name: str, setting: str, tmp_path: Path) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert f"\n{setting}\n" in text
    weaker = tmp_path / name
    weaker.write_text(text.replace(f"\n{setting}\n", "\n"), encoding="utf-8")
    assert judged(weaker, LIMITS[name]).returncode != 0


def importer(folder: Path) -> Path:
    """The importer's unit as systemd-run is asked for it, as a file."""
    words = convert.sandbox("hatchery-import@1.service", Path("/dev/mapper/a"), Path("/dev/mapper/b"))
    settings = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    of_unit = [line for line in settings if line.startswith("BindsTo=")]
    of_service = [line for line in settings if line not in of_unit]
    made = folder / "hatchery-import@.service"
    made.write_text("\n".join(["[Unit]", *of_unit, "[Service]", "ExecStart=/usr/bin/qemu-img", *of_service, ""]))
    return made


def test_the_importer_can_do_next_to_nothing(tmp_path: Path) -> None:
    unit = importer(tmp_path)
    done = judged(unit, IMPORTER)
    assert done.returncode == 0, done.stdout + done.stderr
    unit.write_text(unit.read_text().replace("PrivateNetwork=yes", ""))
    assert judged(unit, IMPORTER).returncode != 0
