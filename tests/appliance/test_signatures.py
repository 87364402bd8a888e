"""A guest may write what it likes into its clone: nothing on the appliance assembles, activates or mounts it.

Here udev, systemd and all of the image's rules are at work, which the kernel tier does not have.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.wait import until
from bench.vm import LOOPBACK
from tests.appliance.conftest import BOOT_DEADLINE
from tests.appliance.site import CLIENT, NBD_PORT, ROOT, TEMPLATE, Play, Site

SIGNATURES = sorted((ROOT / "tests/data/signatures").glob("*.gz"))
"""The first 16 MiB of disks of a few kinds, as the usual tools make them: an array that lacks a disk, ..."""

LOOK = """
for file in /sys/block/md*/md/level; do echo "array $(cat "$file")"; done
for file in /sys/fs/bcache/*-*; do echo "cache set ${file##*/}"; done
for file in /sys/block/bcache*; do echo "cached ${file##*/}"; done
dmsetup ls | cut -f1 | sed 's/^/dm /'
for file in /dev/disk/by-label/* /dev/disk/by-uuid/* /dev/disk/by-partlabel/* /dev/disk/by-partuuid/* \
    /dev/bcache/by-uuid/*; do
    [ -e "$file" ] && echo "link $file"
done
for file in /dev/mapper/hatchery-clone-* /dev/mapper/hatchery-thin-*; do
    name=$(basename "$(readlink -f "$file")")
    udevadm info "--name=/dev/$name" | grep -E 'E: ID_(FS|PART)_' | sed "s|^|${file##*/} |"
    [ -e "/sys/block/$name/bcache" ] && echo "registered ${file##*/}"
    for part in "/sys/block/$name/$name"*; do [ -e "$part" ] && echo "partition ${file##*/}"; done
done
grep -c . /proc/mounts
true
"""


def seen(site: Site) -> list[str]:
    """What udev and the kernel made of all block devices, once they have looked at each again."""
    site.vm.ssh(["udevadm", "trigger", "--action=change", "--subsystem-match=block"], timeout=120)
    site.vm.ssh(["udevadm", "settle", "--timeout=120"], timeout=180)
    return sorted(site.vm.ssh(["sh", "-c", LOOK], timeout=120).stdout.splitlines())


def devices(lines: list[str]) -> list[str]:
    """Without what another start may change: how many file systems are mounted."""
    return [line for line in lines if not line.isdecimal()]


@pytest.fixture(scope="module")
def traps(site: Site, deployed: Play) -> Iterator[list[str]]:
    """A clone for each kind of signature."""
    assert deployed.failed == 0, deployed.said
    names = [f"trap-{file.name.split('.')[0]}" for file in SIGNATURES]
    with site.commands() as hatchery:
        for name in names:
            hatchery.get("clone", "create", name, "--template", TEMPLATE, "--client", CLIENT)
    yield names
    with site.commands() as hatchery:
        for name in names:
            hatchery.run("clone", "remove", name)


def write(site: Site, clone: str, file: Path, folder: Path) -> None:
    """Write a signature to the beginning of a clone, as its guest would."""
    image = folder / "image"
    image.write_bytes(gzip.decompress(file.read_bytes()))
    uri = f"nbd://{LOOPBACK}:{site.vm.port(NBD_PORT)}/{clone}"
    site.runner.run(["qemu-io", "-f", "raw", "-c", f"write -s {image} 0 {image.stat().st_size}", "-c", "flush", uri])


@pytest.mark.heavy
def test_signatures_in_clones_trigger_nothing(site: Site, traps: list[str], tmp_path: Path) -> None:
    assert len(traps) >= 5
    before = seen(site)
    for clone, file in zip(traps, SIGNATURES, strict=True):
        write(site, clone, file, tmp_path)
    assert seen(site) == before

    site.vm.reboot(deadline=BOOT_DEADLINE)

    def serves() -> bool:
        done = site.vm.ssh(["systemctl", "is-active", "hatcheryd.service"], check=False)
        return done.stdout.strip() == "active"

    until(serves, "hatcheryd", deadline=300, interval=2)
    with site.commands() as hatchery:
        assert {view["name"] for view in hatchery.get("clone", "list")} >= set(traps)
    assert devices(seen(site)) == devices(before)
    assert site.failed_units() == ""
