"""Seeds: what a guest's cloud-init finds on a small disk of its own, and that disk's content. Pure.

Source: cloud-init's documentation of its data source NoCloud and of the formats of user data. A seed is an ISO 9660
image with the label CIDATA that holds two files, ``meta-data`` and ``user-data``. JSON is YAML, so nothing is quoted
by hand. What is in user data is the guest's business: it is looked at for its first line, its length and its coding.
"""

import io
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from appliance.errors import InvalidInput

LABEL = "CIDATA"
"""The label by which cloud-init finds the disk."""

MOST_USER_DATA = 64 * 1024
"""Bytes."""

MOST_KEYS = 100
MOST_KEY = 16 * 1024
"""Characters in a line with a key; the largest RSA keys have some 3,000."""

BEGINNINGS = ("#cloud-config", "#!", "content-type:", "mime-version:")
"""How user data may begin, in lower case: settings, a script, or either of the first lines of MIME."""

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_KEY = re.compile(r"(ssh|ecdsa|sk-ssh|sk-ecdsa)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]{16,}={0,2}( .*)?")


@dataclass(frozen=True, slots=True)
class Seed:
    """What a guest is told. ``user_data`` may hold secrets: it is not shown where a seed is printed."""

    instance: str
    hostname: str
    ssh_keys: tuple[str, ...] = ()
    user_data: str | None = field(default=None, repr=False)


def hostname_of(clone: str) -> str:
    """The hostname of a guest whose seed names none: its clone's name, without what no hostname may have."""
    labels = (label.strip("-") for label in clone.replace("_", "-").split("."))
    return ".".join(label for label in labels if label)


def check_hostname(text: str) -> str:
    """Return ``text`` if a machine may have that name, with a domain or without. Raises InvalidInput."""
    if len(text) > 64 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise InvalidInput(
            f"{text[:80]!r} is not a hostname",
            why="it has letters, digits, '-' and between its parts '.', and no more than 64 characters",
            hint="for example web-1 or web-1.example.com",
        )
    return text


def check_keys(lines: Iterable[str]) -> tuple[str, ...]:
    """The public keys of lines as in ``authorized_keys``, empty ones and comments left out. Raises InvalidInput."""
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if any("PRIVATE KEY" in key for key in keys):
        raise InvalidInput(
            "a private key is no key for a guest",
            why="it belongs to its owner alone",
            hint="give the file ending in .pub",
        )
    for key in keys:
        if len(key) > MOST_KEY or not key.isprintable() or not _KEY.fullmatch(key):
            raise InvalidInput(
                f"{key[:40]!r} is not a public key of SSH",
                why="it is a kind, the key in base64, and a comment, on one line",
                hint="for example the content of ~/.ssh/id_ed25519.pub",
            )
    if len(keys) > MOST_KEYS:
        raise InvalidInput(f"{len(keys)} keys are too many", why=f"a seed has {MOST_KEYS} at most")
    return tuple(dict.fromkeys(keys))


def check_user_data(text: str) -> str:
    """Return ``text`` if cloud-init takes it. No error tells what is in it. Raises InvalidInput."""
    if not text.lower().startswith(BEGINNINGS):
        raise InvalidInput(
            "cloud-init would not take this user data",
            why="it begins neither with #cloud-config, nor with #!, nor as MIME (Content-Type: or MIME-Version:)",
            hint="put #cloud-config into its first line, or give a script or what `cloud-init devel make-mime` makes",
        )
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidInput("the user data is no text", why="it is not UTF-8") from error
    if size > MOST_USER_DATA:
        raise InvalidInput(
            f"user data of {size} bytes is too long",
            why=f"it may have {MOST_USER_DATA}",
            hint="have it fetch what is large (`#include` in MIME, or write_files with a source)",
        )
    if "\0" in text:
        raise InvalidInput("the user data is no text", why="there is a zero byte in it", hint="do not compress it")
    return text


def files(seed: Seed) -> dict[str, bytes]:
    """The files of a seed. Its keys come by one of them: by its own user data, or beside those that were given."""
    meta: dict[str, object] = {"instance-id": seed.instance, "local-hostname": seed.hostname}
    if seed.user_data is not None:
        if seed.ssh_keys:
            meta["public-keys"] = list(seed.ssh_keys)
        user_data = seed.user_data
    else:
        config: dict[str, object] = {"hostname": seed.hostname.partition(".")[0]}
        if "." in seed.hostname:
            config["fqdn"] = seed.hostname
        if seed.ssh_keys:
            config["ssh_authorized_keys"] = list(seed.ssh_keys)
        user_data = f"#cloud-config\n{json.dumps(config, indent=1)}\n"
    return {
        "meta-data": (json.dumps(meta, indent=1) + "\n").encode("ascii"),
        "user-data": user_data.encode("utf-8"),
    }


def image(seed: Seed) -> bytes:
    """The disk: ISO 9660, with the names as Linux (Rock Ridge) and as Windows (Joliet) read them."""
    from pycdlib.pycdlib import PyCdlib  # it takes a while, and most appliances have no seed

    disk = PyCdlib()
    disk.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for name, content in files(seed).items():
        short = name.upper().replace("-", "_")
        disk.add_fp(io.BytesIO(content), len(content), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    made = io.BytesIO()
    disk.write_fp(made)
    disk.close()
    return made.getvalue()
