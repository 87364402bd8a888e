"""A disk that ``script/image write`` made, as a box without any other introduction would boot from it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from appliance.run import Runner
from bench.vm import VM, Identity, Key
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import ROOT

Target: TypeAlias = Callable[[Path, Runner], AbstractContextManager[Path]]

SIZE = 16 << 30
"""Bytes of a target that is a new file (imagebuild.disk.FILE_SIZE), and of the disk here."""


@contextmanager
def new_file(file: Path, _: Runner) -> Iterator[Path]:
    """A target that is not there yet."""
    yield file


@contextmanager
def disk(file: Path, runner: Runner) -> Iterator[Path]:
    """A target that is a block device, and that holds a file system."""
    with file.open("wb") as made:
        made.truncate(SIZE)
    device = runner.run(["losetup", "--find", "--show", "--partscan", file]).stdout.strip()
    try:
        runner.run(["mkfs.ext4", "-q", "-L", "precious", device])
        yield Path(device)
    finally:
        runner.run(["losetup", "--detach", device])


def write(runner: Runner, target: Path, words: list[str | Path]) -> str:
    """Write the image; what it was refused with, or nothing."""
    done = runner.run([ROOT / "script/image", "write", *words, target], timeout=1800, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stderr if done.returncode else ""


@pytest.mark.heavy
@pytest.mark.parametrize("kind", [new_file, disk])
def test_a_written_disk_boots_with_its_name_and_lets_its_owner_in(kind: Target) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hatchery-test-", dir="/var/tmp"))
    runner = Runner()
    try:
        key, file = Key.create(folder, runner), folder / "written.raw"
        network = folder / "static.network"
        network.write_text("[Match]\nType=ether\n[Network]\nDHCP=yes\nAddress=10.0.2.99/24\n")
        identity: list[str | Path] = ["--ssh-key", f"{key.private}.pub", "--hostname", "attic", "--network", network]
        with kind(file, runner) as target:
            if kind is disk:
                assert "is not empty\n  why: it holds: ext4" in write(runner, target, identity)
                assert "precious" in runner.run(["blkid", "-p", target]).stdout
            assert write(runner, target, [*identity, *(["--wipe"] if kind is disk else [])]) == ""
            assert f"{target} is not empty" in write(runner, target, identity)
        with VM(folder, file, (), key, runner, system_size=SIZE, identity=Identity.DISK) as vm:
            vm.start()
            vm.wait_ssh(deadline=BOOT_DEADLINE)
            assert vm.ssh(["hostname"]).stdout.strip() == "attic"
            assert "10.0.2.99/24" in vm.ssh(["ip", "-o", "address"]).stdout
            assert vm.ssh(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""
    finally:
        shutil.rmtree(folder)
