"""Secure Boot with the owner's keys: the firmware learns them from the disk, and starts nothing else from then on.

The machine has the firmware that Debian builds for it, without any keys at first. The owner is one of this test: all
other images are a stranger's, whoever runs it.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from imagebuild import bundle as build

from appliance import rollout
from appliance.errors import Refused
from appliance.remote import OPTIONS_VARIABLE
from appliance.run import Runner
from bench.vm import SECURE_FIRMWARE, VM, Hardware, Identity, Key
from tests.appliance.conftest import BOOT_DEADLINE, image
from tests.appliance.site import ROOT
from tests.appliance.test_written_disk import SIZE
from tests.tier import require

KEYS = "HATCHERY_SECURE_BOOT"
ENROL_DEADLINE = 2 * BOOT_DEADLINE
"""The first start only brings the keys to the firmware; the second starts the system."""

VARIABLES = "/sys/firmware/efi/efivars"
REFUSED = "Access Denied"
"""What firmware says of a program that nobody signed whom it knows (UEFI: EFI_ACCESS_DENIED)."""

pytestmark = pytest.mark.heavy


@dataclass(frozen=True)
class Owned:
    """A machine that runs an image which its owner signed, and the image as it was built."""

    vm: VM
    image: Path


@pytest.fixture(scope="module")
def owned() -> Iterator[Owned]:
    require(all(Path(file).exists() for file in SECURE_FIRMWARE[0]), "firmware with Secure Boot is needed: ovmf")
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    runner = Runner({KEYS: str(folder / "keys")})
    try:
        runner.run([ROOT / "script/image", "keys"], timeout=900)
        key, disk = Key.create(folder, runner), folder / "written.raw"
        network = folder / "static.network"
        network.write_text("[Match]\nType=ether\n[Network]\nDHCP=yes\nAddress=10.0.2.99/24\n")
        words: list[str | Path] = ["--ssh-key", f"{key.private}.pub", "--hostname", "vault", "--network", network]
        runner.run([ROOT / "script/image", "write", *words, disk], timeout=1800)
        where = runner.run([ROOT / "script/image", "appliance", "--where"]).stdout.strip()
        hardware = Hardware(secure_boot=True)
        with VM(folder, disk, (), key, runner, hardware, system_size=SIZE, identity=Identity.DISK) as vm:
            vm.start()
            vm.wait_ssh(deadline=ENROL_DEADLINE)
            yield Owned(vm, Path(where))
    finally:
        shutil.rmtree(folder)


def variable(vm: VM, name: str) -> str:
    """The only byte of a variable of the firmware's (UEFI, 3.3)."""
    file = f"{VARIABLES}/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    return vm.ssh(["od", "-An", "-tu1", "-j4", file]).stdout.strip()


def test_the_firmware_takes_the_owners_keys_and_starts_what_he_signed(owned: Owned) -> None:
    vm = owned.vm
    assert (variable(vm, "SecureBoot"), variable(vm, "SetupMode")) == ("1", "0")
    assert "Secure Boot: enabled" in vm.ssh(["bootctl", "status"]).stdout
    assert "[integrity]" in vm.ssh(["cat", "/sys/kernel/security/lockdown"]).stdout
    assert vm.ssh(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""


def test_what_identifies_the_box_came_with_a_signature(owned: Owned) -> None:
    vm = owned.vm
    assert vm.ssh(["hostname"]).stdout.strip() == "vault"
    assert "10.0.2.99/24" in vm.ssh(["ip", "-o", "address"]).stdout
    assert "systemd.set_credential_binary=ssh.authorized_keys.root:" in vm.ssh(["cat", "/proc/cmdline"]).stdout
    loader = vm.ssh(["find", "/boot/loader", "-type", "f"]).stdout.split()
    assert "/boot/loader/addons/hatchery.addon.efi" in loader
    assert not [file for file in loader if file.endswith(".cred")]


def bundle_of(kernel: Path, folder: Path, key: Path) -> Path:
    """A bundle of a newer version with this kernel, complete and signed for updates; its /usr is none."""
    folder.mkdir()
    for suffix in ("usr_" + "ab" * 16 + ".raw", "usr-verity_" + "cd" * 16 + ".raw", "raw", "manifest"):
        (folder / f"appliance.{suffix}").write_bytes(b"nothing")
    shutil.copyfile(kernel, folder / "appliance.efi")
    return build.make(folder / "appliance.raw", f"{build.version(None)}.1", key, folder / "bundle")


def test_an_update_that_the_firmware_would_not_start_is_refused(
    owned: Owned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = owned.vm
    monkeypatch.setenv(OPTIONS_VARIABLE, " ".join(vm.ssh_options))
    appliance = rollout.Appliance(vm.destination, vm.runner)
    before = appliance.status()
    strange = bundle_of(image("appliance").with_suffix(".efi"), tmp_path / "strange", vm.key.private)
    own = bundle_of(owned.image.with_suffix(".efi"), tmp_path / "own", vm.key.private)
    with rollout.given(appliance, strange, sorted(file.name for file in strange.iterdir())) as words:
        for verb in ("check", "apply"):
            with pytest.raises(Refused, match="the firmware would not start this version") as refusal:
                appliance.ask(verb, *words)
            assert "Secure Boot is on, and it was not signed" in refusal.value.why
    assert appliance.status() == before
    with rollout.given(appliance, own, sorted(file.name for file in own.iterdir())) as words:
        assert appliance.ask("check", *words)["steps"]


def test_an_image_that_nobody_signed_is_not_started(owned: Owned) -> None:
    vm = owned.vm
    vm.shutdown()
    folder = vm.folder / "unsigned"
    folder.mkdir()
    shutil.copyfile(vm.folder / "variables.fd", folder / "variables.fd")
    with VM(folder, image("appliance"), (), vm.key, vm.runner, Hardware(secure_boot=True)) as other:
        other.start()
        other.machine.console.wait_for(REFUSED, deadline=BOOT_DEADLINE, faults=("Linux version", "login: "))
    assert "BdsDxe: failed to load" in (folder / "serial.log").read_text(errors="replace")
