"""The running kernel: its version (rule 12) and its modules."""

import os
import re
from collections.abc import Sequence

from appliance.errors import CannotTell, Refused
from appliance.run import Runner

MINIMUM = (6, 12, 100)
"""The oldest kernel with the fixes for raid1 write-mostly data loss, bcache's use-after-free and dm-thin metadata."""

MODULES = (
    "dm_mod",
    "dm_thin_pool",
    "dm_multipath",
    "dm_round_robin",
    "raid1",
    "raid10",
    "raid456",
    "bcache",
    "nbd",
    "ext4",
)
"""What the store needs, loaded ahead, so that nothing has to be loaded while a system disk dies."""


def parse_release(release: str) -> tuple[int, int, int]:
    """The first three numbers of ``uname -r``: ``6.12.117+deb13-amd64``. Raises CannotTell."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if found is None:
        raise CannotTell("the kernel's version cannot be read", why=repr(release))
    return int(found.group(1)), int(found.group(2)), int(found.group(3) or 0)


def require(release: str | None = None) -> None:
    """Raise Refused when the kernel is older than the store can be trusted on (rule 12)."""
    release = release or os.uname().release
    if parse_release(release) < MINIMUM:
        raise Refused(
            f"the kernel {release} is too old for the store",
            why="it lacks fixes without which data is lost",
            hint=f"boot {'.'.join(map(str, MINIMUM))} or a newer one",
        )


def load_modules(runner: Runner, names: Sequence[str] = MODULES) -> None:
    """Load modules; those that are built in are fine. Raises CommandFailed."""
    runner.run(["modprobe", "--all", *names])
