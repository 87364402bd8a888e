"""A file or folder out of a package of Debian 13, kept in the cache, for checks whose tools the host may not have."""

import tempfile
from pathlib import Path

from imagebuild.apt import PrivateApt, host_proxy, host_sources, pick_mirrors, render_sources
from imagebuild.command import need_tools, run, say

_TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "gpgv": "gpgv"}


def fetch(package: str, part: str, target: Path, why: str) -> None:
    """Have ``part`` of a package, a path without its first slash, at ``target``. Quick when it is there.

    ``why`` is told while it is fetched.

    Raises:
        BuildError: something that the host must have is missing, or the download failed.
    """
    if target.exists():
        return
    need_tools(_TOOLS)
    say(why)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        scratch = Path(name)
        apt = PrivateApt(scratch / "apt", render_sources(pick_mirrors(host_sources())), host_proxy())
        run(["dpkg-deb", "-x", apt.download(package, scratch), scratch / "tree"])
        (scratch / "tree" / part).rename(target)
