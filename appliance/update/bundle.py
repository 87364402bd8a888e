"""Update bundles: a folder that ``script/image bundle`` made, signed by the appliance's owner.

    hatchery_VERSION.usr_UUID.raw.gz          the new /usr
    hatchery_VERSION.usr-verity_UUID.raw.gz   its hashes
    hatchery_VERSION.efi                      the kernel that starts it, with the root of those hashes
    hatchery_VERSION.manifest                 the list of packages
    bundle.json                               what an appliance asks before it takes the bundle
    SHA256SUMS                                of all files above, as sha256sum(1) writes them
    SHA256SUMS.sig                            an SSH signature of that (ssh-keygen(1), -Y sign)

Nothing that is in the folder is believed before the signature is, and nothing may lie in it that was not signed:
systemd picks files by their names.
"""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from appliance.errors import InvalidInput, NotFound, NotReady, Refused
from appliance.run import Runner
from appliance.update import version
from appliance.update.version import Version

ABOUT, SUMS, SIGNATURE = "bundle.json", "SHA256SUMS", "SHA256SUMS.sig"
NAMESPACE = "hatchery-update"
"""What the signature was made for: one that was made for something else does not count (PROTOCOL.sshsig)."""

_OWNER = "owner"
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([A-Za-z0-9._-]+)")
_KEY = re.compile(r"((?:sk-)?(?:ssh|ecdsa)-\S+) ([A-Za-z0-9+/]+=*)(?: .*)?")
_HEX = "[0-9a-f]{32}"


class Contents(Enum):
    """How much of a bundle is looked at."""

    VERIFY = "all files are there and are what was signed"
    IGNORE = "only what the bundle says about itself"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that its owner signed. Sizes in bytes, as they are on the appliance's disk.

    ``catalog`` is the form of the catalog that its release writes (``appliance.catalog.migrations``).
    """

    folder: Path
    version: Version
    catalog: int
    usr_size: int
    verity_size: int
    uki_size: int

    @property
    def uki(self) -> Path:
        """The kernel that starts it."""
        return self.folder / f"hatchery_{self.version}.efi"


def signers(own: Path, logins: Path) -> str:
    """The keys whose signatures count, in ssh-keygen's form (ssh-keygen(1), ALLOWED SIGNERS).

    They are those of the file ``own``; without such a file, those that may log in as root (``logins``), who could do as
    they please in any case. A key that is limited by options is passed over. Raises NotReady when there is none.
    """
    source = own if own.exists() else logins
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _nobody(own, str(error)) from error
    keys = [found for line in lines if (found := _KEY.fullmatch(line.strip()))]
    if not keys:
        raise _nobody(own, f"{source} names no public key")
    return "".join(f'{_OWNER} namespaces="{NAMESPACE}" {key[1]} {key[2]}\n' for key in keys)


def _nobody(own: Path, why: str) -> NotReady:
    return NotReady(
        "nobody is known whose updates count", why=why, hint=f"write the public key that signs your bundles to {own}"
    )


def read(folder: Path, allowed: str, runner: Runner, contents: Contents = Contents.VERIFY) -> Bundle:
    """Verify a bundle, and say what it is; ``allowed`` is what ``signers`` returned.

    Raises NotFound when there is none, Refused when the signature does not count, InvalidInput when it is incomplete or
    something in it is not what was signed.
    """
    for name in (SUMS, SIGNATURE, ABOUT):
        if not (folder / name).is_file():
            raise NotFound(
                f"{folder} is no update bundle",
                why=f"it has no {name}",
                hint="give the folder that `script/image bundle` made",
            )
    text = (folder / SUMS).read_text(encoding="utf-8", errors="replace")
    check_signature(folder, text, allowed, runner)
    sums = parse_sums(text)
    _verify(folder, sums, [ABOUT])
    try:
        values = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidInput(f"the bundle's {ABOUT} cannot be read", why=str(error)) from error
    made = parse_about(folder, values)
    check_names(made.version, sums)
    if contents is Contents.VERIFY:
        unsigned = sorted(file.name for file in folder.iterdir() if file.name not in {*sums, SUMS, SIGNATURE})
        if unsigned:
            raise InvalidInput(
                "the bundle holds what its owner did not sign",
                why=", ".join(unsigned),
                hint="take it out of the folder",
            )
        _verify(folder, sums, sums)
    return made


def check_signature(folder: Path, text: str, allowed: str, runner: Runner) -> None:
    """Check that one of the ``allowed`` signed ``text``. Raises Refused."""
    with tempfile.NamedTemporaryFile("w", prefix="hatchery-signers-") as file:
        file.write(allowed)
        file.flush()
        words = ["-f", file.name, "-I", _OWNER, "-n", NAMESPACE, "-s", str(folder / SIGNATURE)]
        done = runner.run(["ssh-keygen", "-Y", "verify", *words], stdin=text, check=False)
    if done.returncode != 0:
        raise Refused(
            "the bundle was not signed by this appliance's owner",
            why=" ".join((done.stderr + done.stdout).split()),
            hint="sign it with a key of /etc/hatchery/update-signers, or of root's login where there is no such file",
        )


def parse_sums(text: str) -> dict[str, str]:
    """Names and digests of a SHA256SUMS. Raises InvalidInput for a line that is not one, or a path."""
    sums: dict[str, str] = {}
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None or found[2] in sums:
            raise InvalidInput(f"the bundle's {SUMS} is damaged", why=f"a line is {line[:200]!r}")
        sums[found[2]] = found[1]
    if ABOUT not in sums:
        raise InvalidInput(f"the bundle's {SUMS} is damaged", why=f"it does not name {ABOUT}")
    return sums


def parse_about(folder: Path, values: Any) -> Bundle:
    """The content of bundle.json. Raises InvalidInput."""
    numbers = ("catalog", "usr_size", "verity_size", "uki_size")
    if not isinstance(values, dict) or not isinstance(values.get("version"), str):
        raise InvalidInput(
            f"the bundle's {ABOUT} names no version",
            why="it is not what `script/image bundle` writes",
            hint="make the bundle anew",
        )
    wrong = [name for name in numbers if type(values.get(name)) is not int or values[name] <= 0]
    if wrong:
        raise InvalidInput(f"the bundle's {ABOUT} is damaged", why=f"no number is given for {', '.join(wrong)}")
    return Bundle(folder, version.parse(values["version"]), *(values[name] for name in numbers))


def check_names(wanted: Version, names: Iterable[str]) -> None:
    """Check that a bundle of this version consists of the files that an update is made of. Raises InvalidInput."""
    stem = re.escape(f"hatchery_{wanted}")
    parts = (
        rf"{stem}\.usr_{_HEX}\.raw\.gz",
        rf"{stem}\.usr-verity_{_HEX}\.raw\.gz",
        rf"{stem}\.efi",
        rf"{stem}\.manifest",
        re.escape(ABOUT),
    )
    left = list(names)
    for part in parts:
        found = [name for name in left if re.fullmatch(part, name)]
        if len(found) != 1:
            raise InvalidInput(
                f"the bundle is none of version {wanted}", why=f"{len(found)} files in it are named {part}"
            )
        left.remove(found[0])
    if left:
        raise InvalidInput(f"the bundle is none of version {wanted}", why=f"it also names {', '.join(sorted(left))}")


def _verify(folder: Path, sums: Mapping[str, str], names: Iterable[str]) -> None:
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InvalidInput(f"the bundle lacks {name}", why=str(error), hint="copy the bundle again") from error
        if found != sums[name]:
            raise InvalidInput(
                f"{name} is not what was signed",
                why="it was changed, or not copied whole",
                hint="copy the bundle again",
            )
