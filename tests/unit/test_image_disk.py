"""Which disks the appliance may be written to, and what identifies the box."""

import json
import struct
import uuid
from pathlib import Path
from typing import Any

import pytest
from imagebuild.command import BuildError
from imagebuild.disk import MINIMUM, Existing, check_free, esp_offset, identity

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2mTTDcrGrm4C0SWGmNJwW6zPCq2M0lmDUUvZgFZ7kH me@example"
DISK = Path("/dev/disk/by-id/one")
NOTHING = ""


def lsblk(**changes: Any) -> str:
    disk = {"name": "sda", "size": 1 << 40, "mountpoints": [None], "type": "disk", **changes}
    return json.dumps({"blockdevices": [disk]})


def signatures(*types: str) -> str:
    return json.dumps({"signatures": [{"device": "sda", "offset": "0x0", "type": kind} for kind in types]})


def test_an_empty_disk_is_taken() -> None:
    check_free(DISK, lsblk(), NOTHING, Existing.REFUSE)


@pytest.mark.parametrize(
    ("disk", "found", "why"),
    [
        (lsblk(), signatures("ext4", "gpt"), "ext4, gpt"),
        (lsblk(children=[{"name": "sda1", "mountpoints": [None], "type": "part"}]), NOTHING, "partitions"),
    ],
)
def test_a_used_disk_needs_the_word_wipe(disk: str, found: str, why: str) -> None:
    with pytest.raises(BuildError, match=why) as refusal:
        check_free(DISK, disk, found, Existing.REFUSE)
    assert "--wipe" in refusal.value.hint
    check_free(DISK, disk, found, Existing.WIPE)


@pytest.mark.parametrize(
    ("disk", "what"),
    [
        (lsblk(children=[{"name": "sda1", "mountpoints": ["/home"], "type": "part"}]), "in use"),
        (lsblk(children=[{"name": "md0", "mountpoints": [None], "type": "raid1"}]), "in use"),
        (lsblk(type="part"), "is a partition"),
        (lsblk(size=MINIMUM - 1), "too small"),
    ],
)
def test_some_disks_are_refused_even_with_wipe(disk: str, what: str) -> None:
    with pytest.raises(BuildError, match=what):
        check_free(DISK, disk, NOTHING, Existing.WIPE)


def partition_table(*types: str) -> bytes:
    """The first 17 KiB of a disk whose partitions begin at sectors 2048, 4096, ..."""
    header = bytearray(512)
    header[:8] = b"EFI PART"
    struct.pack_into("<QII", header, 72, 2, 128, 128)
    entries = bytearray(128 * 128)
    for number, kind in enumerate(types):
        entries[number * 128 : number * 128 + 16] = uuid.UUID(kind).bytes_le
        struct.pack_into("<Q", entries, number * 128 + 32, 2048 * (number + 1))
    return bytes(512) + header + entries


USR_VERITY = "77ff5f63-e7b6-4633-acf4-1565b864c0e6"
ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


def test_the_esp_is_found_by_type() -> None:
    assert esp_offset(partition_table(USR_VERITY, ESP)) == 4096 * 512


@pytest.mark.parametrize("start", [partition_table(USR_VERITY), bytes(17 << 10), b""])
def test_a_disk_without_esp_is_no_image(start: bytes) -> None:
    with pytest.raises(BuildError, match="no EFI system partition"):
        esp_offset(start)


def test_a_public_key_is_taken_and_a_private_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "id"
    file.write_text(f"# mine\n{KEY}\n")
    assert identity(file, "box-1").credentials() == {
        "ssh.authorized_keys.root": f"{KEY}\n",
        "system.hostname": "box-1",
    }
    file.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(BuildError, match="no SSH public key"):
        identity(file, None)
    with pytest.raises(BuildError, match="cannot be read"):
        identity(tmp_path / "absent", None)


def test_a_network_is_taken_as_it_is_and_something_else_refused(tmp_path: Path) -> None:
    key, file = tmp_path / "id.pub", tmp_path / "static.network"
    key.write_text(f"{KEY}\n")
    text = "[Match]\nType=ether\n[Network]\nAddress=192.0.2.10/24"
    file.write_text(text)
    assert identity(key, None, file).credentials()["network.network.50-hatchery"] == f"{text}\n"
    assert "network.network.50-hatchery" not in identity(key, None).credentials()
    for bad in ("", "192.0.2.10", "[Network]\nDHCP=yes\n"):
        file.write_text(bad)
        with pytest.raises(BuildError, match="describes no network"):
            identity(key, None, file)
    with pytest.raises(BuildError, match="cannot be read"):
        identity(key, None, tmp_path / "absent")


@pytest.mark.parametrize("name", ["", "-a", "a b", "Ä", "a" * 64, "a.b", "UP"])
def test_bad_host_names_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "id.pub"
    file.write_text(f"{KEY}\n")
    with pytest.raises(BuildError, match="no host name"):
        identity(file, name)
