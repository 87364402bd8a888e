"""The points of an operation at which the power may be cut: after each change, found by watching the changes happen.

Changes are: a commit of the catalog, a device-mapper request that changes something, a command to a storage daemon, a
write of an import, a discard, and before each step of a plan of the store. Nothing in the product knows of this: the
calls are wrapped. Where the disks are concerned, before a change is the same as after the one before it.
"""

import fcntl
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection
from typing import Any
from unittest.mock import patch

from appliance.catalog.database import Database
from appliance.host.dm import Dm
from appliance.host.dm_ioctl import Answer, Command
from appliance.host.qmp import Qmp
from appliance.images.volume import VolumeWriter
from tests.kernel.inside.agent import write_whole

REACHED = Path("/lab/reached")
"""Appears when the point to cut at is reached: the host then ends the machine."""

_CHANGES = frozenset(
    {
        Command.DEV_CREATE,
        Command.DEV_REMOVE,
        Command.DEV_SUSPEND,
        Command.TABLE_LOAD,
        Command.TABLE_CLEAR,
        Command.TARGET_MSG,
    }
)
_LASTING = ("create_thin", "create_snap", "delete", "set_transaction_id", "resume hatchery-pool")
_QMP = ("blockdev-add", "blockdev-del", "block-export-add", "block-export-del")
_BLKDISCARD = 0x1277


@dataclass(frozen=True, slots=True)
class Point:
    """A change that was made. A lasting one is on the disks, others end with the kernel."""

    label: str
    lasting: bool


@dataclass
class Points:
    """Counts the changes while it watches, and stops for ever at number ``cut`` (from 1)."""

    cut: int | None = None
    seen: list[Point] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def passed(self, label: str, lasting: bool) -> None:
        """A change was made."""
        with self._lock:
            self.seen.append(Point(label, lasting))
            if len(self.seen) != self.cut:
                return
        write_whole(REACHED, label)
        threading.Event().wait()

    @contextmanager
    def watch(self, *, steps: bool = False) -> Iterator[None]:
        """Watch the changes of all threads; with ``steps`` the steps of plans instead of what they consist of."""
        with ExitStack() as stack:
            if steps:
                stack.enter_context(self._steps())
            else:
                stack.enter_context(patch.object(Database, "_transaction", self._transaction()))
                stack.enter_context(patch.object(Dm, "_do", self._device_mapper()))
                stack.enter_context(patch.object(Qmp, "execute", self._storage_daemon()))
                stack.enter_context(patch.object(VolumeWriter, "_write_all", self._import()))
                stack.enter_context(patch.object(fcntl, "ioctl", self._discard()))
            yield

    def _transaction(self) -> Callable[[Database], Any]:
        transaction = Database._transaction

        @contextmanager
        def watched(database: Database) -> Iterator[Connection]:
            name = _caller()
            with transaction(database) as connection:
                yield connection
                self.passed(f"before the commit of {name}", False)
            self.passed(f"commit of {name}", True)

        return watched

    def _device_mapper(self) -> Callable[[Dm, Command, bytearray, str], Answer]:
        do = Dm._do

        def watched(dm: Dm, command: Command, request: bytearray, what: str) -> Answer:
            answer = do(dm, command, request, what)
            if command in _CHANGES:
                self.passed(what, any(word in what for word in _LASTING))
            return answer

        return watched

    def _storage_daemon(self) -> Callable[..., Any]:
        execute = Qmp.execute

        def watched(qmp: Qmp, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
            answer = execute(qmp, command, arguments)
            if command in _QMP:
                self.passed(command, False)
            return answer

        return watched

    def _import(self) -> Callable[[VolumeWriter, int, int], None]:
        write = VolumeWriter._write_all

        def watched(writer: VolumeWriter, start: int, stop: int) -> None:
            write(writer, start, stop)
            self.passed("write to a template", True)

        return watched

    def _discard(self) -> Callable[..., Any]:
        ioctl = fcntl.ioctl

        def watched(fd: int, request: int, *arguments: Any) -> Any:
            answer = ioctl(fd, request, *arguments)
            if request == _BLKDISCARD:
                self.passed("discard", True)
            return answer

        return watched

    @contextmanager
    def _steps(self) -> Iterator[None]:
        handler = _Handler(self)
        logger = logging.getLogger("appliance.reconcile")
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _Handler(logging.Handler):
    """Plans log each step before they apply it."""

    def __init__(self, points: Points) -> None:
        super().__init__(logging.INFO)
        self._points = points

    def emit(self, record: logging.LogRecord) -> None:
        self._points.passed(f"before: {record.getMessage()}", True)


def _caller() -> str:
    """The method of the catalog that begins a transaction."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if f"{os.sep}catalog{os.sep}" in frame.f_code.co_filename:
            return frame.f_code.co_name
    return "?"
