"""What the image's configuration must keep true, checked on its files; the build and the boot check the rest."""

import configparser
import tomllib
from pathlib import Path

import pytest

from appliance.host import kernel

ROOT = Path(__file__).resolve().parents[2]
EXTRA = ROOT / "mkosi.extra"


def packages(*files: str) -> set[str]:
    found: set[str] = set()
    for name in files:
        parser = configparser.ConfigParser(strict=False, comment_prefixes=("#",), interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]  # documented way to keep letters' case
        parser.read_string((ROOT / name).read_text())
        found |= set(parser.get("Content", "Packages", fallback="").split())
    return found


APPLIANCE = ("mkosi.conf", "mkosi.conf.d/10-packages.conf")


@pytest.mark.parametrize("package", ["lvm2", "gcc", "make", "multipath-tools"])
def test_the_appliance_leaves_out(package: str) -> None:
    assert package not in packages(*APPLIANCE)


def test_nothing_that_tells_one_box_from_another_is_in_the_image() -> None:
    removed = set((ROOT / "mkosi.conf").read_text().partition("RemoveFiles=")[2].split())
    assert {"/etc/ssh/ssh_host_*", "/etc/nvme/hostid", "/etc/nvme/hostnqn"} <= removed


def test_every_python_dependency_is_packaged() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {word.split(">")[0].split("[")[0] for word in project["dependencies"]}
    assert {f"python3-{name.replace('_', '-')}" for name in names} <= packages(*APPLIANCE)


def test_the_lab_has_the_appliances_own_list() -> None:
    assert "Include=../../mkosi.conf.d/10-packages.conf" in (ROOT / "mkosi.images/lab/mkosi.conf").read_text()


@pytest.mark.parametrize("rule", ["64-md-raid-assembly.rules", "69-bcache.rules"])
def test_udev_assembles_nothing_by_itself(rule: str) -> None:
    assert (EXTRA / "etc/udev/rules.d" / rule).readlink() == Path("/dev/null")


def test_mdadm_assembles_nothing_by_itself() -> None:
    assert "AUTO -all" in (EXTRA / "etc/mdadm/mdadm.conf").read_text().splitlines()


def test_presets_disable_what_is_not_named() -> None:
    lines = (EXTRA / "usr/lib/systemd/system-preset/00-hatchery.preset").read_text().splitlines()
    assert lines[-1] == "disable *"


def test_ssh_takes_keys_only() -> None:
    lines = (EXTRA / "etc/ssh/sshd_config.d/10-hatchery.conf").read_text().splitlines()
    assert {"PasswordAuthentication no", "KbdInteractiveAuthentication no"} <= set(lines)


def test_the_root_partition_is_capped() -> None:
    assert "SizeMaxBytes=" in (EXTRA / "usr/lib/repart.d/50-root.conf").read_text()


def test_partitions_of_the_image_match_those_of_the_first_boot() -> None:
    """Each of the image's partitions has a counterpart that repart finds at boot, or it would add another."""
    for built, found in (("10-esp", "10-esp"), ("20-usr-verity", "20-usr-verity-a"), ("21-usr", "21-usr-a")):
        sizes = [
            sorted(line for line in file.read_text().splitlines() if line.startswith(("Type=", "SizeM")))
            for file in (ROOT / f"mkosi.repart/{built}.conf", EXTRA / f"usr/lib/repart.d/{found}.conf")
        ]
        assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("program", "module"),
    [
        ("bin/hatchery", "appliance.cli.main"),
        ("sbin/hatcheryd", "appliance.daemon"),
        ("sbin/hatchery-store", "appliance.rescue.main"),
        ("sbin/hatchery-retry", "appliance.retry"),
        ("sbin/hatchery-update", "appliance.update.main"),
        ("lib/hatchery/nbd-server", "appliance.nbd_server"),
    ],
)
def test_entry_points_name_their_module(program: str, module: str) -> None:
    file = EXTRA / "usr" / program
    assert f"from {module} import main" in file.read_text()
    assert file.stat().st_mode & 0o111


def test_guest_is_cleaned_for_cloning() -> None:
    guest = ROOT / "mkosi.images/guest"
    assert "/etc/ssh/ssh_host_*" in (guest / "mkosi.conf").read_text()
    assert ": > /etc/machine-id" in (guest / "mkosi.finalize.d/10-machine-id.chroot").read_text()


def test_the_build_refuses_the_kernels_that_the_store_refuses() -> None:
    check = (ROOT / "mkosi.postinst.d/30-check-kernel.chroot").read_text()
    assert f"MINIMUM = {kernel.MINIMUM}" in check
