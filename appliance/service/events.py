"""What changes, as it changes: operations, clones, templates, and problems that come and go.

A ring in memory keeps the last of it. Who tells of something never waits for those who read: a reader has a place in
the ring and nothing else, so that one who is slow costs nothing. When the ring has gone over his place he is told that
he missed something, and is cut off.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

from appliance.errors import InUse
from appliance.schema import Event, EventKind

KEPT = 4096
"""Events that are remembered."""

READERS = 32
"""Readers at a time."""

BATCH = 100
"""Events that a reader takes at once, at most."""

ASKED: ContextVar[bool] = ContextVar("asked", default=False)
"""Whether what is done now is what a request of the API asked for."""

_MISSED = "some events are missing: look at everything anew"


class Events:
    """The ring. Thread-safe. ``unasked`` hears of what no request of the API did."""

    def __init__(self, kept: int = KEPT) -> None:
        self._lock = threading.Lock()
        self._ring: deque[Event] = deque(maxlen=kept)
        # The start time keeps ids of one process apart from those of the next.
        self._began = f"{int(time.time()):x}"
        self._count = 0
        self._readers: set[Reader] = set()
        self.unasked: Callable[[EventKind, str, str, str], object] = lambda *_: None
        self._closed = False

    def tell(self, kind: EventKind, subject: str, state: str, words: str = "") -> None:
        """Something has changed. Takes no time."""
        if not ASKED.get():
            self.unasked(kind, subject, state, words)
        with self._lock:
            self._count += 1
            self._ring.append(self._event(kind, subject, state, words))
            woken = [reader for reader in self._readers if reader.waits]
            for reader in woken:
                reader.waits = False
        for reader in woken:
            reader.wake()

    def join(self, wake: Callable[[], None], after: str | None = None) -> "Reader":
        """A reader who begins after the event of that id, or with all that is remembered.

        ``wake`` is called, from any thread, when there is something for a reader who found nothing. Raises InUse when
        there are too many.
        """
        with self._lock:
            if len(self._readers) >= READERS:
                raise InUse(
                    "the events have too many readers",
                    why=f"{READERS} programs read them at this moment",
                    hint="end one of them, or try again later",
                )
            reader = Reader(self, wake, self._place(after))
            self._readers.add(reader)
            return reader

    def close(self) -> None:
        """Let all readers end."""
        with self._lock:
            self._closed = True
            readers = list(self._readers)
        for reader in readers:
            reader.wake()

    @property
    def closed(self) -> bool:
        """Whether there will be no more."""
        return self._closed

    # --- for readers

    def take(self, reader: "Reader") -> tuple[Event, ...]:
        """See ``Reader.take``."""
        with self._lock:
            oldest = self._count - len(self._ring)
            if reader.place is None or reader.place < oldest:
                # One who comes with an id that is not known begins anew; one who was too slow is done with.
                reader.ended = reader.place is not None
                reader.place = self._count
                return (self._event("reset", "events", "missed", _MISSED),)
            first = reader.place - oldest
            found = tuple(self._ring[at] for at in range(first, min(first + BATCH, len(self._ring))))
            reader.place += len(found)
            reader.waits = not found
            return found

    def leave(self, reader: "Reader") -> None:
        """See ``Reader.leave``."""
        with self._lock:
            self._readers.discard(reader)

    def _event(self, kind: EventKind, subject: str, state: str, words: str) -> Event:
        identity = f"{self._began}-{self._count}"
        return Event(id=identity, time=time.time(), kind=kind, subject=subject, state=state, words=words)

    def _place(self, after: str | None) -> int | None:
        """How many events have been before that place; None when that is not known."""
        if after is None:
            return self._count - len(self._ring)
        began, _, number = after.partition("-")
        if began != self._began or not (number.isascii() and number.isdigit() and len(number) < 20):
            return None
        place = int(number)
        return place if self._count - len(self._ring) <= place <= self._count else None


class Reader:
    """A place in the ring, for one reader. ``ended``: he missed something, and gets nothing more."""

    def __init__(self, events: Events, wake: Callable[[], None], place: int | None) -> None:
        self._events = events
        self.wake = wake
        self.place = place
        self.waits = False
        self.ended = False

    def take(self) -> tuple[Event, ...]:
        """The next events; none when there are none now."""
        return self._events.take(self)

    def leave(self) -> None:
        """No more are wanted."""
        self._events.leave(self)
