"""Whether the drives of the settings still answer, asked of each by reading one block past all caches.

An idle array does not notice that a disk died. A drive that hangs must not hold up who asks: each is asked in a thread
of its own, and one that has not answered in time counts as silent until it does.
"""

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable

from appliance.config import Config

_PIECE = 4096


def of(config: Config) -> tuple[str, ...]:
    """All drives that the settings name."""
    nvme = config.nvme.devices if config.nvme is not None else ()
    disks = config.backend.disks if config.backend is not None else ()
    return (*nvme, *disks)


def answers(path: str) -> bool:
    """Whether the first block of a drive can be read; false when there is none of that name."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, _PIECE) as buffer:
                return os.preadv(fd, [buffer], 0) == _PIECE
        finally:
            os.close(fd)
    except OSError:
        return False


class Drives:
    """The drives that are asked again and again. For one caller at a time."""

    def __init__(self, ask: Callable[[str], bool] = answers) -> None:
        self._ask = ask
        self._asking: dict[str, threading.Thread] = {}
        self._answered: dict[str, bool] = {}

    def silent(self, paths: Iterable[str], patience: float = 1.0) -> frozenset[str]:
        """Those that do not answer within ``patience`` seconds, or with an error."""
        asked = list(paths)
        for path in asked:
            running = self._asking.get(path)
            if running is None or not running.is_alive():
                self._answered[path] = False
                self._asking[path] = threading.Thread(target=self._keep, args=(path,), name="drive", daemon=True)
                self._asking[path].start()
        end = time.monotonic() + patience
        for path in asked:
            self._asking[path].join(max(0.0, end - time.monotonic()))
        return frozenset(path for path in asked if not self._answered[path])

    def _keep(self, path: str) -> None:
        self._answered[path] = self._ask(path)
