"""Counters before and after something, with those of bcache that lag."""

import time
from collections.abc import Callable

from appliance.client import Client
from appliance.errors import DeadlineExceeded
from appliance.measure.result import accounted, cache_requests
from appliance.schema import Counters
from appliance.wait import until

SETTLE = 12.0
"""Seconds in which bcache moves what it counted to its totals (about 10: 300 HZ / 32, drivers/md/bcache/stats.h)."""


class Readings:
    """Reads counters of a store that nobody else uses. ``note`` gets what could not be measured."""

    def __init__(self, client: Client, note: Callable[[str], None]) -> None:
        self._client = client
        self._note = note
        self._exact = False  # whether bcache's totals hold all that happened so far

    def disturbed(self) -> None:
        """Something used the store since the last reading."""
        self._exact = False

    def before(self) -> Counters:
        """Counters of a store at rest: bcache's totals have caught up with what went before."""
        if self._exact:
            return self._client.counters()
        last: list[tuple[float, Counters]] = []

        def still() -> Counters | None:
            now = self._client.counters()
            if not last or _activity(now) != _activity(last[0][1]):
                last[:] = [(time.monotonic(), now)]
            return now if time.monotonic() - last[0][0] >= SETTLE else None

        return until(still, "the cache to be at rest", deadline=180, interval=1)

    def after(self, before: Counters) -> Counters:
        """Counters of this moment, with bcache's lagging totals as soon as they hold all of it."""
        exact = self._client.counters()

        def complete() -> Counters | None:
            now = self._client.counters()
            return now if accounted(before, now) else None

        try:
            late = until(complete, "bcache's totals", deadline=3 * SETTLE, interval=1)
        except DeadlineExceeded:
            self._note("hits by requests are missing where bcache did not account for every read in time")
            self._exact = False
            return exact
        self._exact = True
        return exact.model_copy(update={"cache_stats": late.cache_stats, "cached": late.cached})


def _activity(counters: Counters) -> tuple[int, int]:
    """What changes while the cache is read: requests that bcache accounted for, and those it was sent."""
    return cache_requests(counters), counters.cached.reads
