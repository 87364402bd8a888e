"""The owner's keys for Secure Boot: making them, finding them, and what they add to the build of the appliance.

They are kept outside of the checkout and of every image. Without them nothing is signed, and an image is the same as if
there were no such thing.
"""

import dataclasses
import hashlib
import os
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from imagebuild.command import BuildError, capture, need_tools, say
from imagebuild.kinds import ROOT, Kind
from imagebuild.mkosi import Mkosi

VARIABLE = "HATCHERY_SECURE_BOOT"
KEY, CERTIFICATE = "mkosi.key", "mkosi.crt"
"""What `mkosi genkey` calls them."""

TOOLS = {"openssl": "openssl"}
DAYS = 3650
"""How long a certificate lasts. Firmware never looks at it: it is a reminder to make others, box by box."""

NAME = "Secure Boot of a Hatchery"
SOON = 60 * 86400
"""Seconds before the end in which a build says that it is near."""


@dataclass(frozen=True)
class Keys:
    """A private key and its certificate, as files; `digest` is that of the certificate."""

    key: Path
    certificate: Path
    digest: str


def home() -> Path:
    """Return the folder of the keys: HATCHERY_SECURE_BOOT, or one below the user's configuration."""
    if given := os.environ.get(VARIABLE):
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config").absolute() / "hatchery/secure-boot"


def find(folder: Path, now: float, root: Path = ROOT) -> Keys | None:
    """Return the owner's keys, or None when there are none; `now` is seconds since the epoch.

    Raises:
        BuildError: half of them is missing, they do not belong together, the certificate has ended, or they lie in the
            checkout.
    """
    key, certificate = folder / KEY, folder / CERTIFICATE
    missing = [file.name for file in (key, certificate) if not file.exists()]
    if len(missing) == 2:
        if os.environ.get(VARIABLE):
            raise BuildError(
                "there are no keys for Secure Boot",
                f"{VARIABLE} names {folder}, which holds none",
                "make them: script/image keys; to go on without Secure Boot, unset it",
            )
        return None
    if missing:
        raise BuildError(
            "the keys for Secure Boot are incomplete",
            f"{folder} has no {missing[0]}",
            "put it there from your backup; to go on without Secure Boot, move the other file away",
        )
    _outside(folder, root)
    need_tools(TOOLS)
    if capture(["openssl", "x509", "-in", certificate, "-noout", "-pubkey"]) != capture(
        ["openssl", "pkey", "-in", key, "-pubout"]
    ):
        raise BuildError(
            "the keys for Secure Boot do not belong together",
            f"{certificate} is not the certificate of {key}",
            "put the pair there that was made together",
        )
    end = _end(certificate)
    if end <= now:
        raise BuildError(
            "the certificate for Secure Boot has ended",
            f"{certificate} was good until {time.strftime('%d %B %Y', time.gmtime(end))}",
            "make new keys and enrol them: docs/security.md; what was signed with the old ones goes on starting",
        )
    if end - now < SOON:
        say(f"the certificate for Secure Boot ends on {time.strftime('%d %B %Y', time.gmtime(end))}")
    text = certificate.read_text()
    return Keys(key, certificate, hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest())


def _end(certificate: Path) -> int:
    return ssl.cert_time_to_seconds(
        capture(["openssl", "x509", "-in", certificate, "-noout", "-enddate"]).strip().removeprefix("notAfter=")
    )


def _outside(folder: Path, root: Path) -> None:
    if folder.resolve().is_relative_to(root.resolve()):
        raise BuildError(
            f"{folder} is no place for private keys",
            "it lies in the checkout",
            f"name another folder with {VARIABLE}, or leave it to the default",
        )


def make(folder: Path, mkosi: Mkosi, root: Path = ROOT) -> Keys:
    """Make the owner's keys in a folder, which only their owner can enter.

    Raises:
        BuildError: there are some, or they could not be made.
    """
    _outside(folder, root)
    if folder.exists() and any(folder.iterdir()):
        raise BuildError(
            "there are keys for Secure Boot already",
            f"{folder} is not empty",
            f"keep them while a box trusts them; to make others, move them away or name another folder with {VARIABLE}",
        )
    need_tools(TOOLS)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as name:
        scratch = Path(name, "keys")
        scratch.mkdir(mode=0o700)
        mkosi.prepare()
        mkosi.genkey(scratch, name=NAME, days=DAYS)
        (scratch / KEY).chmod(0o600)
        scratch.rename(folder)
    made = find(folder, time.time(), root)
    if made is None:
        raise BuildError("no keys were made", f"mkosi left none in {folder}", "read its messages above")
    return made


def signed(kind: Kind, keys: Keys | None) -> Kind:
    """Return the same kind, signed with the owner's keys when there are some and it is one that boxes start.

    A signed image lies apart from one that is not, and from one of other keys.
    """
    if keys is None or kind.name != "appliance":
        return kind
    words = (
        *("--secure-boot=yes", "--secure-boot-auto-enroll=yes"),
        *("--secure-boot-key", _literal(keys.key), "--secure-boot-certificate", _literal(keys.certificate)),
    )
    return dataclasses.replace(kind, arguments=(*kind.arguments, *words), facts=(*kind.facts, keys.digest))


def _literal(path: Path) -> str:
    """A path as a word of a kind's arguments, in which braces mean something."""
    return str(path).replace("{", "{{").replace("}", "}}")
