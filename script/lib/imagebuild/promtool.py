"""Obtaining promtool, which checks and tests the alert rules.

Debian 13 packages it alone; Debian 12 has it in the package prometheus, which starts a server on the machine that it is
installed on. So it is fetched as mkosi is, on every host alike, and kept in the cache; nothing is installed.
"""

import sys
from pathlib import Path

from imagebuild import package_part
from imagebuild.cache import cache_directory
from imagebuild.command import BuildError, say


def place(cache: Path) -> Path:
    """Where promtool is, or would be."""
    return cache / "promtool" / "promtool"


def fetch(cache: Path) -> Path:
    """Have promtool in the cache; return where. Quick when it is there.

    Raises:
        BuildError: something that the host must have is missing, or the download failed.
    """
    target = place(cache)
    package_part.fetch(
        "promtool", "usr/bin/promtool", target, "fetching promtool from Debian 13: it checks the alert rules"
    )
    return target


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{fetch(cache_directory())}\n")
    except BuildError as error:
        say(str(error))
        sys.exit(1)
