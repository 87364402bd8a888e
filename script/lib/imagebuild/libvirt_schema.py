"""Obtaining libvirt's own schema of domains, against which the disks are checked that the appliance hands out.

It is a few files of one package of Debian 13. Nothing is installed: they are kept in the cache.
"""

import sys
import tempfile
from pathlib import Path

from imagebuild.apt import PrivateApt, host_proxy, host_sources, pick_mirrors, render_sources
from imagebuild.cache import cache_directory
from imagebuild.command import BuildError, need_tools, run, say

_TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "gpgv": "gpgv"}


def place(cache: Path) -> Path:
    """Where the schema of domains is, or would be; others that it needs lie beside it."""
    return cache / "libvirt-schema" / "schemas" / "domain.rng"


def fetch(cache: Path) -> Path:
    """Have the schema in the cache; return where. Quick when it is there.

    Raises:
        BuildError: something that the host must have is missing, or the download failed.
    """
    target = place(cache)
    if target.exists():
        return target
    need_tools(_TOOLS)
    say("fetching libvirt's schema from Debian 13: the disks for libvirt are checked against it")
    target.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as name:
        scratch = Path(name)
        apt = PrivateApt(scratch / "apt", render_sources(pick_mirrors(host_sources())), host_proxy())
        package = apt.download("libvirt-common", scratch)
        run(["dpkg-deb", "-x", package, scratch / "tree"])
        (scratch / "tree/usr/share/libvirt/schemas").rename(target.parent)
    return target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch(cache_directory())}\n")
    except BuildError as error:
        say(str(error))
        sys.exit(1)
