"""What identifies a box whose image is signed: its credentials in an addon of the boot stub's, signed like the image.

With Secure Boot on and a TPM in the box, systemd refuses credentials that are sealed with the null key, for anybody
could have put them there (systemd-creds(1)). So they travel as kernel arguments in a signed file on the EFI system
partition, which firmware verifies for the boot stub (systemd-stub(7), `/loader/addons`).
"""

import base64
import tempfile
from pathlib import Path

from imagebuild import package_part
from imagebuild.command import BuildError
from imagebuild.disk import Identity
from imagebuild.mkosi import Mkosi
from imagebuild.secure_boot import Keys

PLACE = "/loader/addons/hatchery.addon.efi"
STUB = "addonx64.efi.stub"
MOST = 1700
"""Characters. The kernel takes 2047 in all (COMMAND_LINE_SIZE), and the image's own arguments need some 250."""


def arguments(who: Identity) -> str:
    """Return the kernel arguments that hand a box its credentials (systemd(1)).

    Raises:
        BuildError: they are too long.
    """
    words = [
        f"systemd.set_credential_binary={name}:{base64.b64encode(value.encode()).decode()}"
        for name, value in who.credentials().items()
    ]
    line = " ".join(words)
    if len(line) > MOST:
        raise BuildError(
            "the keys and settings are too long for a signed image",
            f"as kernel arguments they take {len(line)} characters, and {MOST} are the most",
            "give one SSH key, best of the type ed25519, and add others to /root/.ssh/authorized_keys on the box",
        )
    return line


def files(who: Identity, keys: Keys, mkosi: Mkosi, cache: Path) -> dict[str, bytes]:
    """Return what is to lie on the EFI system partition, by path.

    Raises:
        BuildError: the arguments are too long, or the addon could not be made.
    """
    line = arguments(who)
    stub = cache / "systemd-stub" / STUB
    why = "fetching systemd's boot stub from Debian 13: it carries what identifies the box"
    package_part.fetch("systemd-boot-efi", f"usr/lib/systemd/boot/efi/{STUB}", stub, why)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "cmdline").write_text(line)
        mkosi.tool(
            [
                *("ukify", "build", "--stub", "/given/stub", "--cmdline", "@cmdline", "--output", "made.efi"),
                *("--signtool", "systemd-sbsign"),
                *("--secureboot-private-key", "/given/key", "--secureboot-certificate", "/given/certificate"),
            ],
            work=work,
            files={"stub": stub, "key": keys.key, "certificate": keys.certificate},
        )
        return {PLACE: (work / "made.efi").read_bytes()}
