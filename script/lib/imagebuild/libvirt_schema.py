"""Obtaining libvirt's own schema of domains, against which the disks are checked that the appliance hands out.

It is a few files of one package of Debian 13. Nothing is installed: they are kept in the cache.
"""

import sys
from pathlib import Path

from imagebuild import package_part
from imagebuild.cache import cache_directory
from imagebuild.command import BuildError, say


def place(cache: Path) -> Path:
    """Where the schema of domains is, or would be; others that it needs lie beside it."""
    return cache / "libvirt-schema" / "schemas" / "domain.rng"


def fetch(cache: Path) -> Path:
    """Have the schema in the cache; return where. Quick when it is there.

    Raises:
        BuildError: something that the host must have is missing, or the download failed.
    """
    target = place(cache)
    why = "fetching libvirt's schema from Debian 13: the disks for libvirt are checked against it"
    package_part.fetch("libvirt-common", "usr/share/libvirt/schemas", target.parent, why)
    return target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch(cache_directory())}\n")
    except BuildError as error:
        say(str(error))
        sys.exit(1)
