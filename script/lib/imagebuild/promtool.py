"""Obtaining promtool, which checks and tests the alert rules.

Debian 13 packages it alone; Debian 12 has it in the package prometheus, which starts a server on the machine that it is
installed on. So it is fetched as mkosi is, on every host alike, and kept in the cache; nothing is installed.
"""

import sys
import tempfile
from pathlib import Path

from imagebuild.apt import PrivateApt, host_proxy, host_sources, pick_mirrors, render_sources
from imagebuild.cache import cache_directory
from imagebuild.command import BuildError, need_tools, run, say

_TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "gpgv": "gpgv"}


def place(cache: Path) -> Path:
    """Where promtool is, or would be."""
    return cache / "promtool" / "promtool"


def fetch(cache: Path) -> Path:
    """Have promtool in the cache; return where. Quick when it is there.

    Raises:
        BuildError: something that the host must have is missing, or the download failed.
    """
    target = place(cache)
    if target.exists():
        return target
    need_tools(_TOOLS)
    say("fetching promtool from Debian 13: it checks the alert rules")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        scratch = Path(name)
        apt = PrivateApt(scratch / "apt", render_sources(pick_mirrors(host_sources())), host_proxy())
        package = apt.download("promtool", scratch)
        run(["dpkg-deb", "-x", package, scratch / "tree"])
        (scratch / "tree/usr/bin/promtool").rename(target)
    return target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch(cache_directory())}\n")
    except BuildError as error:
        say(str(error))
        sys.exit(1)
