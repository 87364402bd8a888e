"""Nothing but a sealed, read-only volume is read into the cache (rule 2)."""

import os
from pathlib import Path

from appliance.errors import Refused, Unhealthy


def check_sealed(device: Path) -> None:
    """Refuse to prefetch from anything but a sealed, read-only volume (rule 2). Raises Refused, Unhealthy."""
    number = device.stat().st_rdev
    flag = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/ro")
    try:
        sealed = flag.read_text(encoding="ascii").strip() == "1"
    except OSError as error:
        raise Unhealthy(f"{device} is gone", why=str(error)) from error
    if not sealed:
        raise Refused(
            f"{device} is not read into the cache",
            why="it can be written, and a read that races a write could leave stale data in the cache",
            hint="only sealed templates are prefetched",
        )
