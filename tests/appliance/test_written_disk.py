"""A disk that ``script/image write`` made, as a box without any other introduction would boot from it."""

import shutil
import tempfile
from pathlib import Path

import pytest

from appliance.run import Runner
from bench.vm import VM, Identity, Key
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import ROOT

SIZE = 16 << 30
"""Bytes of a target that is a new file (imagebuild.disk.FILE_SIZE)."""


@pytest.mark.heavy
def test_a_written_disk_boots_with_its_name_and_lets_its_owner_in() -> None:
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    runner = Runner()
    try:
        key, disk = Key.create(folder, runner), folder / "written.raw"
        network = folder / "static.network"
        network.write_text("[Match]\nType=ether\n[Network]\nDHCP=yes\nAddress=10.0.2.99/24\n")
        identity: list[str | Path] = ["--ssh-key", f"{key.private}.pub", "--hostname", "attic", "--network", network]
        words = [ROOT / "script/image", "write", *identity, disk]
        runner.run(words, timeout=1800)
        again = runner.run(words, check=False)
        assert again.returncode != 0
        with VM(folder, disk, (), key, runner, system_size=SIZE, identity=Identity.DISK) as vm:
            vm.start()
            vm.wait_ssh(deadline=BOOT_DEADLINE)
            assert vm.ssh(["hostname"]).stdout.strip() == "attic"
            assert "10.0.2.99/24" in vm.ssh(["ip", "-o", "address"]).stdout
            assert vm.ssh(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""
    finally:
        shutil.rmtree(folder)
