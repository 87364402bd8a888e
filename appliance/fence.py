"""Stops ephemeral clones the moment that their pool or its NVMe drive dies (rule 15). Runs inside hatchery-retry.

Such a clone reads what it has never written from its template, which lies elsewhere and goes on working. When the
pool dies it can forget what was written last, and then those blocks, too, would read as the template: old data, and
no error. So each of these devices gets a table that answers everything with an error. Taking the exports away and
telling people is the daemon's part; this one needs no daemon, no file and no process, as its neighbour.

How a death is seen, whichever comes first: device-mapper's event when the pool changes its mode, the kernel's event
when a drive goes, and a look every second, which reads a block at both ends of the pool's two devices.
"""

import logging
import mmap
import os
import select
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from appliance.errors import HatcheryError, NotFound
from appliance.host import thin
from appliance.host.dm import Dm, Entry, Flush, Target
from appliance.host.thin import PoolMode
from appliance.host.uevent import Uevents

log = logging.getLogger(__name__)

POOL = "hatchery-pool-fast"
DEVICES = ("hatchery-pool-fast-meta", "hatchery-pool-fast-data")
"""What the pool lies on; concatenated drives, the first at the beginning and the last at the end."""

UUID_PREFIX = "HATCHERY-ephemeral-"
"""Device-mapper uuids of ephemeral clones begin with it."""

_LOOK_SECONDS = 1.0
_PAUSE_SECONDS = 0.05
_PIECE = 4096
_STACK = 512 * 1024


def verdict(mode: PoolMode, needs_check: bool, readable: Sequence[Sequence[bool]]) -> str:
    """Why the pool counts as dead; empty while it lives.

    ``readable`` says for each end of the pool's devices which of them could be read there: one bad sector is not a
    dead drive, but a drive that fails in both places is. A full pool lives; a read-only one has thrown away what was
    not committed.
    """
    if mode in (PoolMode.FAILED, PoolMode.READ_ONLY) or needs_check:
        return f"the pool is {mode}"
    if any(end and not any(end) for end in readable):
        return "its drive cannot be read"
    return ""


class Fence:
    """The ephemeral clones of this machine, and their pool."""

    def __init__(self, dm: Dm, read: Callable[[Dm, str, int], bool] | None = None) -> None:
        self._dm = dm
        self._read = read or readable

    def guard(self) -> str:
        """Look at the pool, and stop all ephemeral clones when it is dead. Returns why, or nothing."""
        entries = [entry for entry in self._dm.list() if entry.uuid.startswith(UUID_PREFIX)]
        open_entries = [entry for entry in entries if not self._stopped(entry)]
        if not open_entries:
            return ""
        why = self.look()
        if why:
            log.error("%s: ephemeral clones are stopped", why)
            for entry in open_entries:
                self._stop(entry)
        return why

    def look(self) -> str:
        """Why the pool counts as dead; empty while it lives."""
        try:
            (target,) = self._dm.status(POOL)
            line = thin.parse_pool_status(target.params)
            why = verdict(line.mode, line.needs_check, ())
            return why or verdict(line.mode, line.needs_check, self._ends())
        except (NotFound, ValueError):
            return "the pool is gone"

    def _ends(self) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        sizes = {name: sum(target.length for target in self._dm.table(name)) * 512 for name in DEVICES}
        first = tuple(self._read(self._dm, name, 0) for name in DEVICES)
        last = tuple(self._read(self._dm, name, size // _PIECE * _PIECE - _PIECE) for name, size in sizes.items())
        return first, last

    def _stopped(self, entry: Entry) -> bool:
        try:
            return all(target.kind == "error" for target in self._dm.table(entry.name))
        except NotFound:
            return True

    def _stop(self, entry: Entry) -> None:
        """Answer all requests with an error. What is in flight is not waited for: it ends below, or comes back here."""
        try:
            length = sum(target.length for target in self._dm.table(entry.name))
            self._dm.reload(entry.name, [Target(0, length, "error", "")], flush=Flush.NO_FLUSH)
            log.error("%s: stopped", entry.name)
        except NotFound:
            return
        except HatcheryError as error:
            log.error("%s: %s", entry.name, error)  # noqa: TRY400 - a traceback would read source files


def readable(dm: Dm, name: str, offset: int) -> bool:
    """Whether a block of a device can be read, past all caches."""
    try:
        fd = os.open(dm.path(name), os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, _PIECE) as buffer:
                return os.preadv(fd, [buffer], offset) == _PIECE
        finally:
            os.close(fd)
    except OSError:
        return False


def serve() -> NoReturn:
    """Guard until the process ends."""
    with Dm() as dm, Uevents() as events:
        fence = Fence(dm)
        while True:
            dm.arm_events()
            try:
                fence.guard()
            except HatcheryError as error:
                log.error("ephemeral clones are not guarded: %s", error)  # noqa: TRY400 - as above
            select.select([dm.fileno(), events.fileno()], [], [], _LOOK_SECONDS)
            # In a storm of events a look now and then is enough, and others need the processor.
            select.select([], [], [], _PAUSE_SECONDS)
            events.receive()


def start() -> None:
    """Guard in a thread of this process; a drive that hangs must not keep others from their work."""

    def work() -> None:
        try:
            serve()
        finally:
            # A guard that ended must not look alive: the service manager starts the process again.
            os._exit(1)

    threading.stack_size(_STACK)
    threading.Thread(target=work, name="fence", daemon=True).start()
