"""Writing the appliance to a real disk, or to a file that a virtual machine uses as one.

The root user's SSH key, the host name and the network's settings travel as credentials on the EFI system partition:
systemd's boot stub hands the files of `/loader/credentials` to the system (systemd-stub(7)), and systemd puts them
where they belong at the first start (systemd.system-credentials(7)). They are sealed with the null key, since the new
machine has no key yet to open anything else; a public key is no secret.
"""

import json
import re
import shutil
import stat
import struct
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from imagebuild.command import BuildError, capture, need_tools, run, say

TOOLS = {"mcopy": "mtools", "wipefs": "util-linux", "lsblk": "util-linux", "dd": "coreutils"}
ESP_TYPE = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
SECTOR = 512
MINIMUM = 4 << 30
"""Bytes that a target must have: both slots of /usr and a root file system of 1 GiB."""
FILE_SIZE = 16 << 30
"""Bytes, of which few are really used, of a target that is a new file."""

_KEY = re.compile(r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh|ecdsa)-\S+) [A-Za-z0-9+/]+=*( .*)?")
_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Existing(Enum):
    """What to do with a target that holds something."""

    REFUSE = "refuse"
    WIPE = "wipe"


@dataclass(frozen=True)
class Identity:
    """What tells one box from another: whom it lets in as root, its name, and its network where DHCP is not enough."""

    authorized_keys: str
    hostname: str | None
    network: str | None = None

    def credentials(self) -> dict[str, str]:
        """Return systemd credentials by name."""
        found = {"ssh.authorized_keys.root": self.authorized_keys}
        if self.hostname is not None:
            found["system.hostname"] = self.hostname
        if self.network is not None:
            # Before 80-dhcp.network: the first that matches an interface is taken (systemd-network-generator(8)).
            found["network.network.50-hatchery"] = self.network
        return found


def identity(key_file: Path, hostname: str | None, network_file: Path | None = None) -> Identity:
    """Check and read what identifies the box.

    Raises:
        BuildError: the file holds no public key, or something else too, the host name is not one, or the network's file
            is not of the form of systemd.network(5).
    """
    try:
        text = key_file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{key_file} cannot be read", str(error), "give the path of an SSH public key") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines or not all(_KEY.fullmatch(line) for line in lines):
        raise BuildError(
            f"{key_file} holds no SSH public key",
            "each line must be one: type, key, comment",
            "give the .pub file, not the private key",
        )
    if hostname is not None and not _HOSTNAME.fullmatch(hostname):
        raise BuildError(
            f"{hostname!r} is no host name",
            "letters a to z, digits and inner hyphens, at most 63",
            "choose another name",
        )
    network = None if network_file is None else _network(network_file)
    return Identity("".join(f"{line}\n" for line in lines), hostname, network)


def _network(file: Path) -> str:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"{file} cannot be read", str(error), "give the path of a .network file") from error
    sections = {line.strip() for line in text.splitlines()}
    if not {"[Match]", "[Network]"} <= sections:
        raise BuildError(
            f"{file} describes no network",
            "it lacks the section [Match] or [Network]",
            "write it as systemd.network(5) says: [Match] Type=ether, [Network] Address=, Gateway=, DNS=",
        )
    return text if text.endswith("\n") else f"{text}\n"


def esp_offset(start: bytes) -> int:
    """Return where the EFI system partition begins, in bytes, from a disk's first 17 KiB (its partition table).

    The table's layout is that of the UEFI specification, 5.3 (GUID Partition Table), with sectors of 512 bytes.

    Raises:
        BuildError: there is no such table, or no such partition in it.
    """
    header = start[SECTOR : 2 * SECTOR]
    if header[:8] == b"EFI PART":
        first, count, size = struct.unpack_from("<QII", header, 72)
        for entry in range(first * SECTOR, first * SECTOR + count * size, size):
            kind = start[entry : entry + 16]
            if len(kind) == 16 and uuid.UUID(bytes_le=kind) == ESP_TYPE:
                (begin,) = struct.unpack_from("<Q", start, entry + 32)
                return int(begin) * SECTOR
    raise BuildError("the image has no EFI system partition", "its partition table lacks it", "build the image again")


def check_free(target: Path, lsblk_json: str, wipefs_json: str, existing: Existing) -> None:
    """Refuse a target that is in use, and one that holds anything unless told to wipe it.

    `lsblk_json` is the output of `lsblk --json --bytes -o NAME,SIZE,MOUNTPOINTS,TYPE` of a disk (empty for a file),
    `wipefs_json` that of `wipefs --no-act --json` (empty text when nothing was found).

    Raises:
        BuildError: it must not be written to.
    """
    if lsblk_json:
        [device] = json.loads(lsblk_json)["blockdevices"]
        below = [device]
        for one in below:
            below += one.get("children", [])
        if any(point for one in below for point in one.get("mountpoints", []) if point):
            raise BuildError(
                f"{target} is in use", "a file system on it is mounted", "unmount it, or name another disk"
            )
        if any(one["type"] not in {"disk", "part", "loop"} for one in below):
            raise BuildError(f"{target} is in use", "an array or mapping is built on it", "take that down first")
        if device["type"] == "part":
            raise BuildError(f"{target} is a partition", "the image has partitions itself", "name the whole disk")
        if int(device["size"]) < MINIMUM:
            raise BuildError(f"{target} is too small", f"it has {device['size']} bytes", f"it needs {MINIMUM}")
        if existing is Existing.REFUSE and device.get("children"):
            raise BuildError(f"{target} is not empty", "it has partitions", "to lose what is on it, say --wipe")
    found = json.loads(wipefs_json)["signatures"] if wipefs_json.strip() else []
    if found and existing is Existing.REFUSE:
        kinds = ", ".join(sorted({signature["type"] for signature in found}))
        raise BuildError(f"{target} is not empty", f"it holds: {kinds}", "to lose what is on it, say --wipe")


def write(image: Path, target: Path, files: Mapping[str, bytes], *, existing: Existing) -> None:
    """Put the appliance on a disk, or into a new file, with further files on its EFI system partition, by their paths.

    Raises:
        BuildError: the target is in use, not empty or too small, or copying failed.
    """
    need_tools(TOOLS)
    with image.open("rb") as opened:
        offset = esp_offset(opened.read(17 << 10))
    if target.exists() and stat.S_ISBLK(target.stat().st_mode):
        columns = "NAME,SIZE,MOUNTPOINTS,TYPE"
        check_free(
            target,
            capture(["lsblk", "--json", "--bytes", "-o", columns, target]),
            capture(["wipefs", "--no-act", "--json", target]),
            existing,
        )
        say(f"writing {image.name} to {target}")
        run(["wipefs", "--all", "--quiet", target])
        run(["dd", f"if={image}", f"of={target}", "bs=4M", "conv=fsync", "status=progress"])
        add(target, offset, files)
        return
    if target.exists():
        if not target.is_file():
            raise BuildError(f"{target} is neither disk nor file", "it cannot be written", "name a disk or a new file")
        check_free(target, "", capture(["wipefs", "--no-act", "--json", target]), existing)
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-") as scratch:
        run(["cp", "--sparse=always", image, scratch.name])
        scratch.truncate(FILE_SIZE)
        add(Path(scratch.name), offset, files)
        target.unlink(missing_ok=True)
        target.hardlink_to(scratch.name)
        target.chmod(0o644)


def add(disk: Path, offset: int, files: Mapping[str, bytes]) -> None:
    """Put files on the EFI system partition that begins at `offset` bytes of a disk."""
    esp = f"{disk}@@{offset}"
    with tempfile.TemporaryDirectory() as name:
        # -D s: skip what exists in the image. mmd fails when that is all that it was asked for, so each is made once.
        for folder in sorted({str(Path(path).parent) for path in files}):
            run(["mmd", "-i", esp, "-D", "s", f"::{folder}"])
        for path, content in files.items():
            file = Path(name, Path(path).name)
            file.write_bytes(content)
            run(["mcopy", "-o", "-i", esp, file, f"::{path}"])


def sealed(who: Identity, tools_tree: Path) -> dict[str, bytes]:
    """Return a box's credentials as files of the EFI system partition, by path.

    Raises:
        BuildError: systemd-creds failed.
    """
    found = who.credentials()
    return {f"/loader/credentials/{name}.cred": encrypt(name, value, tools_tree) for name, value in found.items()}


def encrypt(name: str, value: str, tools_tree: Path) -> bytes:
    """Pack a credential with the null key, using the systemd of mkosi's tools tree: the host's may be too old for it.

    Raises:
        BuildError: systemd-creds failed.
    """
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
    options = ["--with-key=null", f"--name={name}"]
    argv = [chroot or "chroot", str(tools_tree), "systemd-creds", "encrypt", *options, "-", "-"]
    done = subprocess.run(argv, check=False, input=value.encode(), capture_output=True)
    if done.returncode != 0:
        raise BuildError(
            f"the credential {name} could not be packed",
            done.stderr.decode(errors="replace").strip(),
            "run script/image write as root",
        )
    return done.stdout
