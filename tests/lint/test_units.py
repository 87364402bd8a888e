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
OF_HOSTS = ROOT / "roles/hypervisor/files/hatchery-nvme-connect@.service"
"""Written by a role on hosts of guests, and on no appliance."""

UNITS = sorted([*(file for file in (EXTRA / FOLDER).iterdir() if file.suffix in KINDS), OF_HOSTS])
FROM_PACKAGES = {
    "/usr/sbin/biolatency-libbpf": "libbpf-tools",
    "/usr/sbin/nvme": "nvme-cli",
    "/usr/bin/udevadm": "udev",
}
"""Programs that are the image's and need not be the host's, and the packages of the image that bring them."""

EXEC = re.compile(r"^Exec\w+=[-@:+!|]*(/\S+)", re.MULTILINE)

NEWER = {"ImportCredential": 254}
"""Settings that Debian 12's systemd does not know yet, and the version that brought each (systemd.exec(5))."""


def known_here(unit: str) -> str:
    """A unit without the settings that this host's systemd is too old for."""
    version = int(Runner().run(["systemd-analyze", "--version"]).stdout.split()[1])
    late = tuple(f"{name}=" for name, since in NEWER.items() if version < since)
    return "".join(line for line in unit.splitlines(keepends=True) if not line.startswith(late))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root with the host's own units for what ours depend on, our units, and the programs that ours start."""
    require(shutil.which("systemd-analyze"), "systemd-analyze is needed (package systemd)")
    root = tmp_path / "root"
    shutil.copytree(Path("/") / FOLDER, root / FOLDER, symlinks=True)
    shutil.copytree(EXTRA, root, symlinks=True, dirs_exist_ok=True)
    shutil.copy2(OF_HOSTS, root / FOLDER)
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        if any(f"\n{name}=" in text for name in NEWER):
            (root / FOLDER / unit.name).write_text(known_here(text), encoding="utf-8")
        for program in EXEC.findall(text):
            inside = root / program.removeprefix("/")
            if inside.exists():
                continue
            inside.parent.mkdir(parents=True, exist_ok=True)
            if Path(program).exists():
                shutil.copy2(program, inside)
            elif program in FROM_PACKAGES:
                inside.touch(mode=0o755)
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


def test_programs_that_the_host_need_not_have_are_in_the_image() -> None:
    settings = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "mkosi.conf.d").glob("*.conf")))
    assert set(FROM_PACKAGES.values()) <= set(settings.split())


def test_a_missing_program_and_a_wrong_setting_are_seen(image: Path) -> None:
    unit = image / FOLDER / "hatcheryd.service"
    good = unit.read_text(encoding="utf-8")
    unit.write_text(good.replace("/usr/sbin/hatcheryd", "/usr/sbin/hatcheryx"), encoding="utf-8")
    assert "hatcheryx" in verify(image, unit).stderr
    unit.write_text(good.replace("Restart=on-failure", "Restart=perhaps"), encoding="utf-8")
    assert "perhaps" in verify(image, unit).stderr


TRIAL = (EXTRA / FOLDER / "hatchery-update-trial.service").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "counted"),
    [
        ("hatchery_0.2.0+2-1.efi", True),
        ("hatchery_0.2.0+1-2.efi", True),
        ("hatchery_0.2.0+0-3.efi", True),
        ("hatchery_0.2.0+12-1.efi", True),
        # Started for want of anything else: it must not be restarted for ever.
        ("hatchery_0.2.0+0-4.efi", False),
        ("hatchery_0.2.0+0-10.efi", False),
        # Found good.
        ("hatchery_0.2.0.efi", False),
        ("", False),
    ],
)
def test_only_a_start_that_was_counted_is_judged(name: str, counted: bool, tmp_path: Path) -> None:
    variable = tmp_path / "LoaderBootCountPath"
    variable.write_bytes(b"\x06\0\0\0" + f"\\EFI\\Linux\\{name}\0".encode("utf-16-le"))
    done = Runner().run([EXTRA / "usr/lib/hatchery/on-trial", variable], check=False)
    assert (done.returncode, done.stderr) == (0 if counted else 1, "")


def test_a_version_that_fails_its_trial_is_restarted_and_no_other() -> None:
    lines = TRIAL.splitlines()
    variable = "/sys/firmware/efi/efivars/LoaderBootCountPath-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    # A condition that does not hold is no failure, so that FailureAction= is for starts that are counted.
    assert {
        f"ConditionPathExists={variable}",
        f"ExecCondition=/usr/lib/hatchery/on-trial {variable}",
        "FailureAction=reboot",
        "Before=boot-complete.target",
        "RemainAfterExit=yes",
        "RefuseManualStart=yes",
    } <= set(lines)
    assert not any(line.startswith("WantedBy=") for line in lines)
    wants = EXTRA / FOLDER / "boot-complete.target.requires/hatchery-update-trial.service"
    assert wants.resolve() == EXTRA / FOLDER / "hatchery-update-trial.service"


def test_the_arrays_are_scrubbed_by_themselves() -> None:
    units = {unit.name: unit.read_text(encoding="utf-8") for unit in UNITS}
    assert re.search(r"^Wants=.*\bhatchery-scrub\.timer\b", units["hatchery.target"], re.MULTILINE)
    assert "OnCalendar=Sun *-*-1..7" in units["hatchery-scrub.timer"]


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


def test_a_storage_daemon_is_started_however_often_it_failed() -> None:
    # Nobody resets its counter (appliance.host.units).
    unit = EXTRA / FOLDER / "hatchery-nbd@.service"
    assert "StartLimitIntervalSec=0" in unit.read_text(encoding="utf-8").splitlines()


BOUNDED = {"hatchery-nbd@.service": ("2G", "512"), "hatchery-status.service": ("256M", "64")}
"""Daemons that others talk to: what memory they may have, and how many tasks."""

UNBOUNDED = {
    "hatcheryd.service": "it is alone in having the catalog, and is asked over sockets of this machine",
    "hatchery-retry.service": "it is resident and must never be ended: nobody talks to it",
    "hatchery-attach@.service": "it waits for one server, and its end would be a device's",
    "hatchery-nvme-connect@.service": "it waits for the kernel alone, on a host that is not ours",
}
"""Daemons without such bounds, and why."""


def test_every_daemon_is_bounded_or_says_why_not() -> None:
    texts = {unit.name: unit.read_text(encoding="utf-8").splitlines() for unit in UNITS if unit.suffix == ".service"}
    daemons = {name for name, lines in texts.items() if any(line.startswith("Restart=") for line in lines)}
    assert daemons == set(BOUNDED) | set(UNBOUNDED)
    for name, (memory, tasks) in BOUNDED.items():
        set_here = {line for line in texts[name] if line.startswith(("MemoryMax=", "TasksMax="))}
        assert set_here == {f"MemoryMax={memory}", f"TasksMax={tasks}"}, name
    for name in UNBOUNDED:
        assert not any(line.startswith(("MemoryMax=", "TasksMax=")) for line in texts[name]), name
    said = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    assert "| a daemon | memory | 2 GiB |" in said
    assert "| a daemon | threads and other tasks | 512 |" in said
