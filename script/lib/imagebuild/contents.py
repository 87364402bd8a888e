"""What an image must not hold: a compiler, and an initrd of everything.

Whoever gets into an appliance finds no tools there to build others with; and what the initrd holds is loaded at each
start, and written to the EFI system partition with each update.
"""

import json
import re
from pathlib import Path

from imagebuild.command import BuildError

MOST_INITRD = 30_000_000
"""Bytes of the appliance's initrd, compressed."""

# Debian's gcc-N-base holds a licence and no program, and libgcc-s1 depends on it.
_COMPILER = re.compile(
    r"(gcc|g\+\+|cpp)(-\d+)?(-[a-z0-9-]*linux-gnu)?"
    r"|(clang|llvm|rustc|golang|tcc|gfortran|gnat)(-[\w.-]+)?"
    r"|binutils(-[\w.-]+)?|make|ninja-build|cmake|build-essential|dpkg-dev|libc6-dev|linux-libc-dev"
)


def compilers(manifest: str) -> list[str]:
    """The packages in mkosi's manifest that compile, assemble or link.

    Raises:
        ValueError: it is no manifest.
    """
    try:
        names = [str(package["name"]) for package in json.loads(manifest)["packages"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"it has no list of packages: {error!r}") from error
    return sorted(name for name in names if _COMPILER.fullmatch(name))


def check(manifest: Path) -> None:
    """Refuse an image with a compiler.

    Raises:
        BuildError: there is one, or what the image holds cannot be told.
    """
    try:
        found = compilers(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BuildError(
            "what the image holds cannot be told", str(error), "see ManifestFormat= in mkosi.conf"
        ) from error
    if found:
        hint = "find out which package depends on it: apt-get --simulate install in a tree of the same release"
        raise BuildError("the image holds a compiler", f"its packages include {', '.join(found)}", hint)


def check_initrd(file: Path, most: int = MOST_INITRD) -> int:
    """Return the size of an initrd in bytes.

    Raises:
        BuildError: there is none, or it has more than ``most`` bytes.
    """
    try:
        taken = file.stat().st_size
    except OSError as error:
        raise BuildError("the initrd was not kept", str(error), "see mkosi.images/initrd/mkosi.conf") from error
    if taken > most:
        why = f"{taken} bytes, and {most} are the most"
        hint = (
            "leave modules out in mkosi.conf.d/20-initrd-modules.conf, or raise MOST_INITRD in imagebuild/contents.py"
        )
        raise BuildError("the initrd is too large", why, hint)
    return taken
