"""Recorded boots, replayed over NBD without a guest: the time that storage takes alone, for one client or for many.

Each client has one request under way at a time, as a guest that boots mostly has; all of them run in one thread on
libnbd's asynchronous calls (libnbd(3), "Asynchronous (low level) API"), so that fifty cost little more processor time
than they must. libnbd is a package of the system (Debian: python3-libnbd), not of PyPI.
"""

import select
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

from appliance.bootset.trace import Read
from appliance.errors import InvalidInput, NotReady

PATIENCE = 120.0
"""Seconds without any answer after which a replay is given up."""

TOLD_SECONDS = 0.5
"""Seconds from one word of how far it is to the next: each takes processor time that the replay may need."""


@dataclass(frozen=True, slots=True)
class Replay:
    """Seconds of each client from the common begin to its last answer; bytes and requests of all together."""

    seconds: tuple[float, ...]
    bytes: int
    requests: int


def replay(uris: Sequence[str], reads: Sequence[Read], told: Callable[[int], None] = lambda _: None) -> Replay:
    """Connect a client to every export, then let all begin at once. ``told`` hears now and then of the bytes read.

    Raises NotReady when libnbd is missing, an export cannot be reached or stops answering; InvalidInput when the trace
    reads past the end of one.
    """
    nbd = _libnbd()
    buffers = _buffers(nbd, reads)
    clients: list[_Client] = []
    try:
        clients.extend(_Client(nbd, uri, reads, buffers) for uri in uris)
        begin = time.perf_counter()
        _run(clients, told)
    except nbd.Error as error:
        hint = "is the export there, and nobody else's?"
        raise NotReady("the replay broke off", why=str(error), hint=hint) from error
    finally:
        for client in clients:
            client.close()
    seconds = tuple(client.end - begin for client in clients)
    return Replay(seconds, sum(read.length for read in reads) * len(clients), len(reads) * len(clients))


def _libnbd() -> ModuleType:
    try:
        import nbd
    except ImportError as error:
        raise NotReady(
            "boots cannot be replayed here",
            why="Python's libnbd is missing",
            hint="install it from the distribution: `apt install python3-libnbd`, and use the distribution's Python",
        ) from error
    module: ModuleType = nbd
    return module


def _run(clients: Sequence["_Client"], told: Callable[[int], None]) -> None:
    poll = select.poll()
    waiting = {client.fd: client for client in clients}
    for client in clients:
        client.ask()
        poll.register(client.fd, client.wanted())
    look = time.monotonic() + TOLD_SECONDS
    while waiting:
        if time.monotonic() >= look:
            told(sum(client.read for client in clients))
            look = time.monotonic() + TOLD_SECONDS
        found = poll.poll(PATIENCE * 1000)
        if not found:
            raise NotReady("the replay broke off", why=f"no answer came for {PATIENCE:.0f} s")
        for fd, events in found:
            client = waiting[fd]
            if client.go_on(events):
                poll.modify(fd, client.wanted())
            else:
                poll.unregister(fd)
                del waiting[fd]
    told(sum(client.read for client in clients))


def _buffers(nbd: ModuleType, reads: Sequence[Read]) -> Mapping[int, Any]:
    """A buffer for each length. All are in one place, for all clients: nobody looks at what is read."""
    longest = max(read.length for read in reads)
    memory = _memory(1 << (longest - 1).bit_length())
    return {length: nbd.Buffer.from_buffer(memory[:length]) for length in {read.length for read in reads}}


@cache
def _memory(length: int) -> memoryview:
    """So many bytes, the same ones in each replay: libnbd holds on to what was read into."""
    return memoryview(bytearray(length))


class _Client:
    """One connection, and how far it is."""

    def __init__(self, nbd: ModuleType, uri: str, reads: Sequence[Read], buffers: Mapping[int, Any]) -> None:
        self._nbd = nbd
        self._handle = nbd.NBD()
        # The address is ours, and so is the folder of certificates that it may name; some versions ask for leave.
        self._handle.set_uri_allow_local_file(True)
        self._handle.connect_uri(uri)
        size, end = self._handle.get_size(), max(read.offset + read.length for read in reads)
        if end > size:
            raise InvalidInput(
                "the trace belongs to a larger disk", why=f"it reads up to byte {end}, {uri} has {size} bytes"
            )
        self._reads = iter(reads)
        self._buffers = buffers
        self._cookie = 0
        self._asked = 0
        self.read = 0
        self.fd: int = self._handle.aio_get_fd()
        self.end = 0.0

    def ask(self) -> bool:
        """Send the next request; False when there is none."""
        self.read += self._asked
        read = next(self._reads, None)
        if read is None:
            self.end = time.perf_counter()
            return False
        self._asked = read.length
        self._cookie = self._handle.aio_pread(self._buffers[read.length], read.offset)
        return True

    def wanted(self) -> int:
        """The events to wait for."""
        direction = self._handle.aio_get_direction()
        return (select.POLLIN if direction & self._nbd.AIO_DIRECTION_READ else 0) | (
            select.POLLOUT if direction & self._nbd.AIO_DIRECTION_WRITE else 0
        )

    def go_on(self, events: int) -> bool:
        """Work on what has happened; False when the last answer has come."""
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self._handle.aio_notify_read()
        elif events & select.POLLOUT:
            self._handle.aio_notify_write()
        return self.ask() if self._handle.aio_command_completed(self._cookie) else True

    def close(self) -> None:
        """Disconnect, if the server has not."""
        with suppress(self._nbd.Error):
            self._handle.shutdown()
