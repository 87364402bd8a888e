"""What went past the cache (rule 1), apart from what came while the cache was being taken away.

bcache lets requests past a cache that it is about to let go of, and counts them as it counts those that went past a
cache in use (``check_should_bypass`` in drivers/md/bcache/request.c). They do no harm, for nothing that such a cache
holds is used again, but the counter keeps them. So when a device in use gets its cache back, the counter begins anew.
"""

import time
from pathlib import Path

from appliance.config import Paths
from appliance.store import marks

SETTLE = 15.0
"""Seconds until bcache has moved what it counted to its totals (about 10: drivers/md/bcache/stats.h)."""


def forgive(paths: Paths) -> None:
    """The cache was just given back: what was counted until then is no alarm."""
    marks.write(_mark(paths), f"{time.monotonic()}")


def alarming(paths: Paths, total: int) -> int:
    """Bytes that went past the cache while it was in use; ``total`` is bcache's counter, in bytes.

    0 for the first seconds after the cache was given back, in which the counter still lags.
    """
    text = marks.read(_mark(paths))
    try:
        since, *base = (float(word) for word in (text or "").split())
    except ValueError:
        return total
    if base:
        return max(0, total - int(base[0]))
    if time.monotonic() - since >= SETTLE:
        marks.write(_mark(paths), f"{since} {total}")
    return 0


def _mark(paths: Paths) -> Path:
    # On a tmpfs: the kernel's counter begins anew with each boot, and so does the clock.
    return paths.run / "cache.returned"
