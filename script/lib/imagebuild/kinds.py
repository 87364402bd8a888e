"""What can be built, from which inputs, and where the result is kept."""

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from imagebuild import contents, sbom, usr
from imagebuild.command import BuildError, need_tools, run, say
from imagebuild.inputs import digest
from imagebuild.mkosi import Mkosi

ROOT = Path(__file__).resolve().parents[3]
KEEP = 3


@dataclass(frozen=True)
class Kind:
    """One image: its inputs (paths below the checkout), mkosi's arguments (with `{root}` for the inputs' place), its
    result's name, the host programs, with their Debian packages, that it needs, and what else it depends on.
    """

    name: str
    summary: str
    inputs: tuple[str, ...]
    arguments: tuple[str, ...]
    result: str
    tools: Mapping[str, str] = field(default_factory=dict)
    facts: tuple[str, ...] = ()


_BASE = "mkosi.conf.d/00-base.conf"

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "lab",
            "Debian 13 tree with the appliance's tools and User-Mode Linux, for the kernel tests",
            (_BASE, "mkosi.conf.d/10-packages.conf", "mkosi.images/lab"),
            ("--directory", "{root}/mkosi.images/lab", "--include", f"{{root}}/{_BASE}", "--output", "tree"),
            "tree",
        ),
        Kind(
            "guest",
            "sample template: a Debian 13 server guest, raw and qcow2",
            (_BASE, "mkosi.images/guest"),
            ("--directory", "{root}/mkosi.images/guest", "--include", f"{{root}}/{_BASE}", "--output", "guest"),
            "guest.raw",
            {"qemu-img": "qemu-utils"},
        ),
        Kind(
            "hypervisor",
            "Debian 13 tree with libvirt, for the tests of a host of guests",
            (_BASE, "mkosi.images/hypervisor"),
            ("--directory", "{root}/mkosi.images/hypervisor", "--include", f"{{root}}/{_BASE}", "--output", "tree"),
            "tree",
        ),
        Kind(
            "appliance",
            "the appliance's disk image",
            (
                "appliance",
                "mkosi.conf",
                "mkosi.conf.d",
                "mkosi.configure",
                "mkosi.extra",
                "mkosi.finalize.d",
                "mkosi.images/initrd",
                "mkosi.postinst.d",
                "mkosi.repart",
            ),
            ("--directory", "{root}", "--output", "appliance"),
            "appliance.raw",
        ),
    )
}


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one build at a time use the caches; another waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another build is running; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def place(kind: Kind, cache: Path, root: Path = ROOT) -> Path:
    """Return the directory in which the image of the inputs below `root` is kept, whether it exists or not."""
    return cache / "images" / f"{kind.name}-{digest(root, kind.inputs, kind.name, *kind.arguments, *kind.facts)}"


def build(kind: Kind, cache: Path, *, mkosi: Mkosi, fresh: bool) -> Path:
    """Build an image unless its inputs were built before; return the result's path.

    The result appears under its final name only when it is complete. With `fresh` it is built again, with the newest
    packages that the mirror has.

    Raises:
        BuildError: the build failed; an older result stays as it was.
    """
    home = place(kind, cache)
    # Looked at before the lock too: what is there does not wait for the build of another kind.
    if (home / kind.result).exists() and not fresh:
        return home / kind.result
    with _lock(cache / "images" / ".lock"):
        if (home / kind.result).exists() and not fresh:
            return home / kind.result
        need_tools(kind.tools)
        mkosi.prepare()
        if fresh:
            mkosi.forget(kind.name)
        say(f"building {kind.name}: {kind.summary}")
        scratch = Path(tempfile.mkdtemp(prefix=f".{kind.name}-", dir=cache / "images"))
        retired = scratch.with_name(f"{scratch.name}.old")
        inputs = Path(tempfile.mkdtemp(prefix=f".{kind.name}-inputs-", dir=cache / "images"))
        try:
            copy_inputs(kind, inputs)
            home = place(kind, cache, inputs)
            mkosi.build(kind.name, [word.format(root=inputs) for word in kind.arguments], output=scratch)
            finish(kind, scratch)
            if not (scratch / kind.result).exists():
                why = f"mkosi made no {kind.result}"
                raise BuildError(f"{kind.name} was not built", why, "read its messages above")
            scratch.chmod(0o755)
            if home.exists():
                home.rename(retired)
            scratch.rename(home)
        finally:
            for leftover in (scratch, retired, inputs):
                shutil.rmtree(leftover, ignore_errors=True)
        _prune(kind, cache, home)
        return home / kind.result


def tools_tree(cache: Path, *, mkosi: Mkosi) -> Path:
    """Return mkosi's tools tree, built if need be.

    Raises:
        BuildError: it could not be built.
    """
    with _lock(cache / "images" / ".lock"):
        mkosi.prepare()
    return mkosi.tools_tree


def copy_inputs(kind: Kind, into: Path) -> None:
    """Copy an image's inputs out of the checkout, so that editing there does not disturb the build or its digest."""
    for name in kind.inputs:
        source, copy = ROOT / name, into / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy2(source, copy)


def finish(kind: Kind, scratch: Path) -> None:
    """Make what a kind offers beside mkosi's own output, and check what it promises.

    Raises:
        BuildError: the appliance's /usr or initrd is too large, it or the guest holds a compiler, or something that
            belongs beside an image cannot be made.
    """
    if kind.name in ("guest", "appliance"):
        contents.check(scratch / f"{kind.name}.manifest")
    if kind.name == "guest":
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", scratch / "guest.raw", scratch / "guest.qcow2"])
    if kind.name == "appliance":
        taken = usr.check(scratch)
        say(f"/usr takes {taken / 1e6:.0f} MB of {usr.MOST / 1e6:.0f} MB")
        initrd = contents.check_initrd(scratch / "initrd.cpio.zst")
        say(f"the initrd takes {initrd / 1e6:.0f} MB of {contents.MOST_INITRD / 1e6:.0f} MB")
        sbom.write(scratch / "appliance.manifest", scratch / "appliance.cdx.json")


def _prune(kind: Kind, cache: Path, current: Path) -> None:
    """Remove results of older inputs, all but the newest few."""
    others = [path for path in (cache / "images").glob(f"{kind.name}-*") if path != current and path.is_dir()]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for old in others[KEEP - 1 :]:
        say(f"removing {old.name}, which no longer matches the sources")
        shutil.rmtree(old, ignore_errors=True)
