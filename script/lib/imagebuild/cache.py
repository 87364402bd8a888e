"""Where everything is kept that can be made again."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return it: HATCHERY_CACHE, or `hatchery` below the user's cache."""
    if given := os.environ.get("HATCHERY_CACHE"):
        return Path(given).resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "hatchery"
