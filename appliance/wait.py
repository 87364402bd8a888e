"""Waiting for a condition with a deadline, for facts that the kernel offers no event for."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from appliance.errors import DeadlineExceeded, HatcheryError

T = TypeVar("T")


def until(probe: Callable[[], T | None], what: str, *, deadline: float, interval: float = 0.02) -> T:
    """Call ``probe`` until it returns something other than None or False, and return that.

    ``deadline`` and ``interval`` are seconds. Raises DeadlineExceeded, naming ``what`` was awaited.
    """
    end = time.monotonic() + deadline
    pause = threading.Event()
    while True:
        found = probe()
        if found is not None and found is not False:
            return found
        if time.monotonic() >= end:
            raise DeadlineExceeded(f"waited {deadline:g} s for {what}")
        pause.wait(interval)


@contextmanager
def watch(look: Callable[[], object], *, interval: float) -> Iterator[None]:
    """Call ``look`` every ``interval`` seconds, in a thread of its own, while the block runs, or until it fails."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(interval):
            try:
                look()
            except HatcheryError:
                return

    thread = threading.Thread(target=loop, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
