"""The log as systemd's journal takes it: one entry a line, with what it is about in fields of its own.

    journalctl -u hatcheryd HATCHERY_CLONE=web
    journalctl -u hatcheryd HATCHERY_OPERATION=6b0c0798-2 -o json

What is done for somebody is begun with ``about``, and all that is logged meanwhile has these fields; a line that knows
better says so by ``extra={"about": {...}}``. Without a journal the lines go to standard error, as they are.
Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
"""

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeAlias

SOCKET = Path("/run/systemd/journal/socket")

NAME = b"hatcheryd"
"""What stands before the lines where people read them."""

MOST = 48 * 1024
"""Bytes of a message that is sent whole; a datagram has not much more room."""

PATIENCE = 1.0
"""Seconds that the journal may take for a line."""

Fields: TypeAlias = Mapping[str, str | Sequence[str]]
"""What a line is about: ``clone``, ``template``, ``client`` or ``operation``, by name or id; or several of a kind."""

_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""syslog's numbers; what is less is 7."""

_about: ContextVar[Fields | None] = ContextVar("about", default=None)


@contextmanager
def about(**fields: str | Sequence[str]) -> Iterator[None]:
    """All that this thread, or task, logs within is about these things, too."""
    before = _about.set({**(_about.get() or {}), **fields})
    try:
        yield
    finally:
        _about.reset(before)


def fields_of(record: logging.LogRecord) -> Fields:
    """What a line is about."""
    return {**(_about.get() or {}), **getattr(record, "about", {})}


def entry(message: str, level: int, fields: Fields) -> bytes:
    """A line as the journal's native protocol has it. Pure."""
    priority = next((number for least, number in _PRIORITIES if level >= least), 7)
    content = message.encode("utf-8", errors="replace")[:MOST]
    lines = [_field("MESSAGE", content), _field("PRIORITY", str(priority).encode()), _field("SYSLOG_IDENTIFIER", NAME)]
    for name, value in fields.items():
        each = (value,) if isinstance(value, str) else value
        lines.extend(_field(f"HATCHERY_{name.upper()}", one.encode("utf-8", errors="replace")) for one in each)
    return b"".join(lines)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"


class Handler(logging.Handler):
    """Sends lines to the journal; what it does not take goes to standard error."""

    def __init__(self, path: Path = SOCKET) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        # A journal that hangs holds nobody up for long.
        self._socket.settimeout(PATIENCE)
        self._plain = logging.StreamHandler()

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        try:
            self._socket.sendto(entry(self.format(record), record.levelno, fields_of(record)), str(self._path))
        except OSError:
            self._plain.handle(record)

    def close(self) -> None:
        """See ``logging.Handler``."""
        self._socket.close()
        super().close()


def is_there() -> bool:
    """Whether standard error is the journal's (systemd.exec(5), JOURNAL_STREAM), so that lines may go there as well."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def handler() -> logging.Handler:
    """Where a service's lines go."""
    if is_there():
        made: logging.Handler = Handler()
        made.setFormatter(logging.Formatter("%(message)s"))
        return made
    made = logging.StreamHandler()
    made.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    return made
