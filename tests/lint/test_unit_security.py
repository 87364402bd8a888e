"""What the units could do if they were taken over, held to a limit each: ``systemd-analyze security``."""

import re
import shutil
from pathlib import Path

import pytest

from appliance.images import convert, fetch, unpacking
from appliance.model import Compression
from appliance.run import Completed, Runner
from tests.lint.files import ROOT
from tests.tier import require

FOLDER = ROOT / "mkosi.extra/usr/lib/systemd/system"
OF_HOSTS = ROOT / "roles/hypervisor/files/hatchery-nvme-connect@.service"
"""Written by a role on hosts of guests, and on no appliance."""

LIMITS = {
    "hatcheryd.service": 1.8,
    "hatchery-nbd@.service": 1.5,
    "hatchery-latencies.service": 1.5,
    # The kernel makes the target's sockets in its name, so the network is not denied to it.
    "hatchery-nvme.service": 1.6,
    "hatchery-backup.service": 1.5,
    "hatchery-scrub.service": 1.5,
    "hatchery-status.service": 1.0,
    "hatchery-update-trial.service": 1.0,
    "hatchery-update-verdict.service": 1.5,
    "hatchery-console.service": 1.5,
    "hatchery-attach@.service": 3.0,
    OF_HOSTS.name: 2.5,
    # It has to work while the system's disk dies, so it has no view of the file system of its own.
    "hatchery-retry.service": 4.0,
    # These assemble arrays, load modules and mount for everybody.
    "hatchery-mend.service": 5.5,
    "hatchery-store.service": 5.5,
}
"""Exposure: 0 is a service that can do nothing, 10 one that can do everything."""

ONCE = {"hostname-credential.service", "ssh-hostkeys.service", "modprobe@configfs.service"}
"""They write a file below /etc at the first start, or load a module, and are gone."""

IMPORTER = "hatchery-import@.service"
TRANSIENT = {
    "hatchery-fetch@.service": (fetch.command("hatchery-fetch@1.service"), 1.5),
    "hatchery-unpack@.service": (unpacking.command("hatchery-unpack@1.service", Compression.XZ), 0.5),
    IMPORTER: (convert.sandbox("hatchery-import@1.service", Path("/dev/mapper/a"), Path("/dev/mapper/b")), 0.5),
}
"""Units that have no file: what systemd-run is asked for, and their limits."""


def judged(unit: Path, limit: float) -> Completed:
    """Have systemd judge a unit's file, without a service manager; its status says whether it keeps to the limit."""
    require(shutil.which("systemd-analyze"), "systemd-analyze is needed (package systemd)")
    words = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={round(limit * 10)}"]
    return Runner().run([*words, unit], check=False)


def test_every_service_has_a_limit() -> None:
    assert {unit.name for unit in (*FOLDER.glob("*.service"), OF_HOSTS)} == LIMITS.keys() | ONCE


def test_the_limits_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.partition("\n## Privileges\n")[2].partition("\n## ")[0]
    told: dict[str, float] = {}
    for line in section.splitlines():
        if row := re.fullmatch(r"\| (`.*`) \|.*\| ([0-9.]+) \|", line):
            told |= {name.partition("@")[0]: float(row[2]) for name in re.findall(r"`([^`]+)`", row[1])}
    limits = {**LIMITS, **{name: limit for name, (_, limit) in TRANSIENT.items()}}
    assert told == {name.removesuffix(".service").rstrip("@"): limit for name, limit in limits.items()}


@pytest.mark.parametrize("name", LIMITS)
def test_a_service_is_not_more_exposed_than_it_may_be(name: str) -> None:
    done = judged(OF_HOSTS if name == OF_HOSTS.name else FOLDER / name, LIMITS[name])
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


def as_file(name: str, folder: Path) -> Path:
    """A unit that has no file, as one."""
    words, _ = TRANSIENT[name]
    settings = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    of_unit = [line for line in settings if line.startswith("BindsTo=")]
    of_service = [line for line in settings if line not in of_unit]
    made = folder / name
    made.write_text("\n".join(["[Unit]", *of_unit, "[Service]", "ExecStart=/usr/bin/true", *of_service, ""]))
    return made


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_unit_without_a_file_is_not_more_exposed_than_it_may_be(name: str, tmp_path: Path) -> None:
    done = judged(as_file(name, tmp_path), TRANSIENT[name][1])
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_importer_with_a_network_is_noticed(tmp_path: Path) -> None:
    unit = as_file(IMPORTER, tmp_path)
    unit.write_text(unit.read_text().replace("PrivateNetwork=yes", ""))
    assert judged(unit, TRANSIENT[IMPORTER][1]).returncode != 0
