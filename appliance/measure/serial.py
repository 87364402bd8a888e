"""A machine's serial console: its text with the time at which it came, and waiting for a word in it."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import DeadlineExceeded, Unhealthy

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][0-9A-B]|[=>cM78])")
"""Terminal control sequences (ECMA-48 and the few others that consoles send)."""


class MachineFault(Unhealthy):
    """The machine crashed, or ended, before it said what was awaited. ``fault`` is the text that told."""

    def __init__(self, what: str, *, why: str = "", fault: str = "") -> None:
        super().__init__(what, why=why)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Seen:
    """An awaited text: the offset just after it, and ``time.monotonic()`` of its arrival."""

    end: int
    at: float


class Serial:
    """Reads a console in a thread of its own, so that nothing it says is lost or timed late.

    A watch goes on from where the last one ended: a text that was awaited once is not found twice.
    """

    def __init__(self, connection: socket.socket, *, transcript: Path | None = None) -> None:
        self._connection = connection
        self._transcript = transcript
        self._change = threading.Condition()
        self._text = ""
        self._arrivals: list[tuple[int, float]] = []
        self._from = 0
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="serial console", daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        """All it has said so far, without terminal control sequences."""
        with self._change:
            return clean(self._text)

    def tail(self, lines: int = 20) -> str:
        """The last lines it said."""
        return "\n".join(self.text.splitlines()[-lines:])

    def send(self, text: str) -> None:
        """Type ``text``."""
        self._connection.sendall(text.encode())

    def wait_for(self, text: str, *, deadline: float, faults: Iterable[str] = ()) -> Seen:
        """Wait until it says ``text``, at most ``deadline`` seconds; skip what came before.

        Raises MachineFault as soon as it says one of ``faults`` instead, or ends; DeadlineExceeded.
        """
        end = time.monotonic() + deadline
        faults = tuple(faults)
        longest = max(len(word) for word in (text, *faults))
        with self._change:
            search = start = self._from
            while True:
                found = self._text.find(text, search)
                if found >= 0:
                    self._from = found + len(text)
                    return Seen(self._from, self._arrived(self._from))
                for fault in faults:
                    if self._text.find(fault, search) >= 0:
                        raise MachineFault(f"the machine said {fault!r}", why=self._about(start), fault=fault)
                if self._ended:
                    raise MachineFault(f"the machine ended before it said {text!r}", why=self._about(start))
                search = max(start, len(self._text) - longest + 1)
                left = end - time.monotonic()
                if left <= 0:
                    where = f"; all of it is in {self._transcript}" if self._transcript else ""
                    raise DeadlineExceeded(
                        f"waited {deadline:g} s for {text!r} on the console", why=self._about(start) + where
                    )
                self._change.wait(left)

    def close(self) -> None:
        """Stop reading."""
        with contextlib.suppress(OSError):  # the other end may have been faster
            self._connection.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._connection.close()

    def _read(self) -> None:
        while True:
            try:
                data = self._connection.recv(65536)
            except OSError:
                data = b""
            now = time.monotonic()
            with self._change:
                if data:
                    self._text += data.decode("ascii", errors="replace")
                    self._arrivals.append((len(self._text), now))
                else:
                    self._ended = True
                self._change.notify_all()
            if not data:
                return

    def _arrived(self, offset: int) -> float:
        return next(at for length, at in self._arrivals if length >= offset)

    def _about(self, start: int) -> str:
        said = clean(self._text[start:]).strip().splitlines()[-12:]
        return "it last said:\n" + "\n".join(said) if said else "it said nothing"


def clean(text: str) -> str:
    """The text without terminal control sequences and carriage returns."""
    return _ESCAPES.sub("", text).replace("\r", "")
