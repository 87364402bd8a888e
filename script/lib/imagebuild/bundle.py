"""Update bundles: what an appliance of an older version needs to become a newer one, signed by its owner.

`appliance/update/bundle.py` reads them, and describes the files.
"""

import ast
import dataclasses
import gzip
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

from imagebuild.command import BuildError, need_tools, run, say
from imagebuild.kinds import KINDS, ROOT, Kind

NAMESPACE = "hatchery-update"
TOOLS = {"ssh-keygen": "openssh-client"}
_VERSION = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_LONGEST = 20
_PIECE = 1 << 20


def version(wanted: str | None, root: Path = ROOT) -> str:
    """Return the version that a bundle gets: the one that is wanted, or that of mkosi.conf.

    Raises:
        BuildError: it is none.
    """
    if wanted is None:
        found = re.search(r"^ImageVersion=(\S+)$", (root / "mkosi.conf").read_text(), re.MULTILINE)
        wanted = found[1] if found else ""
    if len(wanted) > _LONGEST or not _VERSION.fullmatch(wanted):
        raise BuildError(
            f"{wanted!r} is no version",
            f"it is whole numbers with dots between them, {_LONGEST} characters at most",
            "for example 0.2.0",
        )
    return wanted


def kind(of: str) -> Kind:
    """Return the appliance's image with a version of its own."""
    plain = KINDS["appliance"]
    return dataclasses.replace(plain, arguments=(*plain.arguments, "--image-version", of))


def check_key(key: Path) -> None:
    """Check that there is a key to sign with, before anything is built.

    Raises:
        BuildError: there is none.
    """
    need_tools(TOOLS)
    if not key.is_file():
        raise BuildError(f"{key} cannot sign", "there is no such file", "give the path of an SSH key")


def catalog_form(root: Path = ROOT) -> int:
    """Return the form of the catalog that the checkout's release writes: how many migrations there are.

    Raises:
        BuildError: the list of them is not where it was.
    """
    file = root / "appliance/catalog/migrations.py"
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "STEPS":
            if isinstance(node.value, ast.Tuple) and node.value.elts:
                return len(node.value.elts)
            break
    raise BuildError("the catalog's form cannot be told", f"{file} has no tuple STEPS", "update imagebuild/bundle.py")


def make(image: Path, of: str, key: Path, target: Path) -> Path:
    """Make the bundle of an image that was built with the version `of`, as the folder `target`; return that.

    It appears under its name only when it is complete; a bundle that is there already is replaced.

    Raises:
        BuildError: the target holds something else, or signing failed.
    """
    if target.exists() and not (target / "SHA256SUMS").is_file():
        raise BuildError(f"{target} is no bundle", "it exists and holds something else", "name a new folder")
    say(f"making the bundle of version {of}")
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fill(image, of, scratch)
        sign(scratch, key)
        scratch.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        scratch.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def fill(image: Path, of: str, folder: Path) -> None:
    """Put the parts of an image into a folder, under the names that systemd-sysupdate looks for, with their sums."""
    stem, name = f"hatchery_{of}", image.stem
    sizes = {}
    for part in ("usr", "usr-verity"):
        source = _only(image.parent, f"{name}.{part}_*.raw")
        suffix = source.name.removeprefix(f"{name}.")
        sizes[part] = source.stat().st_size
        # Most of a partition is empty. No name and no time goes in: equal partitions give equal files.
        with (
            source.open("rb") as plain,
            (folder / f"{stem}.{suffix}.gz").open("wb") as raw,
            gzip.GzipFile("", "wb", 1, raw, mtime=0) as packed,
        ):
            shutil.copyfileobj(plain, packed, _PIECE)
    uki = image.with_suffix(".efi")
    shutil.copyfile(uki, folder / f"{stem}.efi")
    shutil.copyfile(image.with_suffix(".manifest"), folder / f"{stem}.manifest")
    about = {
        "version": of,
        "catalog": catalog_form(),
        "usr_size": sizes["usr"],
        "verity_size": sizes["usr-verity"],
        "uki_size": uki.stat().st_size,
    }
    (folder / "bundle.json").write_text(json.dumps(about, indent=2) + "\n")
    lines = []
    for file in sorted(folder.iterdir()):
        with file.open("rb") as opened:
            lines.append(f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {file.name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


def sign(folder: Path, key: Path) -> None:
    """Sign the list of sums, with a key file or, for a public key, through the agent.

    Raises:
        BuildError: the key cannot sign.
    """
    run(["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", NAMESPACE, folder / "SHA256SUMS"])


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise BuildError(
            "the image's parts are not there", f"{len(found)} files are named {pattern}", "build the image again"
        )
    return found[0]
