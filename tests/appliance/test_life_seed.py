"""A guest boots by the very words that `hatchery clone show` prints for QEMU, and finds its seed beside its disk."""

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.measure import guest, qemu
from appliance.measure.qemu import Machine
from bench.vm import LOOPBACK
from tests.appliance.site import ADDRESS, CLIENT, GUEST_DEADLINE, NBD_PORT, TEMPLATE, Shell, Site

CLONE = "seeded"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@here"
USER_DATA = "#cloud-config\ntimezone: Europe/Berlin\n"


def from_here(site: Site, words: Sequence[str]) -> list[str]:
    """The words as they are, but for the server's address: QEMU's user networking leads there by another one."""
    found = [
        word.replace(f'"host": "{ADDRESS}"', f'"host": "{LOOPBACK}"').replace(
            f'"port": "{NBD_PORT}"', f'"port": "{site.vm.port(NBD_PORT)}"'
        )
        for word in words
    ]
    changed = [word for word, before in zip(found, words, strict=True) if word != before]
    assert len(changed) == 2, "the clone and its seed"
    return found


@contextmanager
def booted(site: Site, words: Sequence[str]) -> Iterator[Machine]:
    """A guest with these disks and no others, at its login prompt."""
    with tempfile.TemporaryDirectory(prefix="hatchery-guest-") as name:
        folder, accelerator = Path(name), qemu.accelerator()
        around = [
            *("-machine", "q35", *accelerator.words, "-smp", "2", "-m", "1024", "-nodefaults"),
            *qemu.firmware(folder).words,
            *words,
            *("-device", "virtio-rng-pci"),
        ]
        with qemu.start(site.runner, around, folder, clock=time.monotonic()) as machine:
            machine.console.wait_for(guest.PROMPT, deadline=GUEST_DEADLINE, faults=guest.FAULTS)
            yield machine


@pytest.mark.heavy
@pytest.mark.usefixtures("deployed")
def test_a_guest_boots_by_the_words_that_are_shown_and_finds_its_seed(site: Site, tmp_path: Path) -> None:
    data, key = tmp_path / "user-data", tmp_path / "key.pub"
    data.write_text(USER_DATA, encoding="utf-8")
    key.write_text(f"{KEY}\n", encoding="utf-8")
    words = ("--hostname", "seeded.example.com", "--user-data", str(data), "--ssh-key", str(key))
    with site.commands() as hatchery:
        hatchery.get("clone", "create", CLONE, "--template", TEMPLATE, "--client", CLIENT, *words)
        shown = hatchery.get("clone", "show", CLONE)["qemu"]
    try:
        with booted(site, from_here(site, shown)) as machine:
            shell = Shell(machine)
            root = "echo hatchery | sudo -S -p ''"
            disk = shell.run("readlink -f /dev/disk/by-label/CIDATA").strip()
            assert disk.startswith("/dev/vd"), disk
            assert shell.run(f"lsblk --nodeps --noheadings --output RO {disk}").strip() == "1"
            shell.run(f"{root} mount -o ro {disk} /mnt", deadline=120)
            meta = json.loads(shell.run("cat /mnt/meta-data"))
            assert (meta["local-hostname"], meta["public-keys"]) == ("seeded.example.com", [KEY])
            said = shell.run("cat /mnt/user-data").replace("\r", "")
            assert said.strip() == USER_DATA.strip()
            # The disk itself takes TRIM and writes, and is flushed: that is what the other words are for.
            root_disk = shell.run(
                "lsblk --noheadings --output PKNAME $(findmnt --noheadings --output SOURCE /)"
            ).strip()
            assert shell.run(f"cat /sys/block/{root_disk}/queue/write_cache").strip() == "write back"
            assert int(shell.run(f"cat /sys/block/{root_disk}/queue/discard_max_bytes").strip()) > 0
            shell.run("echo kept >here && sync", deadline=120)
    finally:
        with site.commands() as hatchery:
            hatchery.run("clone", "remove", CLONE, "--force")
