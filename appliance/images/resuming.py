"""Bytes from a URL that go on where a connection broke off, as long as the server still has the same file."""

import logging
import threading
from collections.abc import Iterator

from appliance.errors import BadImage, NotReady, Refused
from appliance.images.sources import Manner, Opener, WebSource
from appliance.redact import shown_url

log = logging.getLogger(__name__)

PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Seconds before each try. All of them are there again once a byte came."""


class ResumingSource:
    """See ``sources.Source``."""

    def __init__(self, url: str, open_url: Opener, pauses: tuple[float, ...] = PAUSES) -> None:
        """Nothing is asked of the server yet. Raises InvalidInput."""
        self._url = url
        self._shown = shown_url(url)
        self._open_url = open_url
        self._pauses = pauses
        self._source: WebSource = open_url(url)
        self._closed = threading.Event()
        self._size: int | None = None
        self._first: str | None = None
        """The mark of the first answer; None before it."""

    def size(self) -> int | None:
        """See Source."""
        if self._first is not None:
            return self._size
        # Of the first answer: those after it have the rest.
        self._size, self._first = self._source.size(), self._source.mark()
        return self._size

    def chunks(self) -> Iterator[bytes]:
        """See Source. Raises BadImage when it broke off too often, Refused when the file is another one by now."""
        size, mark = self.size(), self._first or ""
        taken, pauses, broken = 0, iter(self._pauses), False
        while True:
            try:
                if broken:
                    self._reopen(taken, size, mark)
                for chunk in _behind(self._source, taken):
                    yield chunk
                    taken += len(chunk)
                    pauses = iter(self._pauses)
            except (BadImage, NotReady) as error:
                pause = next(pauses, None)
                if pause is None or self._closed.wait(pause):
                    raise
                log.info("%s: going on behind %d bytes: %s", self._shown, taken, error)
                broken = True
            else:
                return

    def close(self) -> None:
        """See Source."""
        self._closed.set()
        self._source.close()

    def _reopen(self, taken: int, size: int | None, mark: str) -> None:
        """Ask again, for what is missing."""
        self._source.close()
        self._source = self._open_url(self._url, Manner(begin=taken, mark=mark))
        if self._closed.is_set():
            self._source.close()
        left, begins = self._source.size(), self._source.begins()
        same_size = size is None or left is None or begins + left == size
        if self._source.mark() != mark or not same_size:
            why = "the server has another file there by now"
            raise Refused(f"{self._shown} broke off, and cannot be gone on with", why=why, hint="import it again")


def _behind(source: WebSource, taken: int) -> Iterator[bytes]:
    """The bytes behind ``taken``: a server that begins anew sends what is there already once more."""
    skip = taken - source.begins()
    for chunk in source.chunks():
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        yield chunk[skip:]
        skip = 0
