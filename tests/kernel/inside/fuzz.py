"""Nonsense for the doors of the appliance: the negotiation of NBD, and the API's bytes. Repeated by its seed.

What is sent begins as something right and is then spoiled, because pure noise does not get past the first look.
"""

import contextlib
import os
import random
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from appliance import wait
from appliance.client import connect
from appliance.config import Paths
from appliance.errors import DeadlineExceeded
from appliance.host.storage_daemon import Files
from appliance.model import KIB, MIB
from tests.kernel.inside import service
from tests.kernel.inside.bench_clones import resident
from tests.kernel.inside.nbd_client import NbdClient
from tests.kernel.inside.tls import exports

GROWTH = 24 * MIB
"""What a process may take besides in all that time: its allocator keeps what it has had once."""

WARM = 100
"""Attempts after which its memory is taken to be what it needs."""

PATIENCE = 10.0
"""Seconds within which a neighbour is answered: he has the same processor."""

_OPTION, _FLAGS, _REQUEST = 0x49484156454F5054, 3, 0x25609513
_EXPORT_NAME = struct.pack(">QI", _OPTION, 1)
_NUMBERS = (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 0x7FFFFFFF, 0xFFFFFFFF)
_LENGTHS = (0, 1, 3, 4, 7, 255, 4096, 4097, 65535, 1 << 20, 1 << 25, (1 << 25) + 1, 0x7FFFFFFF, 0xFFFFFFFF)


def nbd(port: int, name: str, neighbour: str, seconds: float, seed: int, *, tls: bool = False) -> dict[str, float]:
    """Spoil negotiations with a client's daemon for some seconds, while a neighbour reads from his own clone.

    Raises AssertionError when the daemon ended, took more and more, or the neighbour was not served.
    """
    dice, pid = random.Random(seed), service.daemon_pid("hv1")
    devices, end, attempts, longest = service.devices(), time.monotonic() + seconds, 0, 0.0
    memory, files = 0.0, _files(pid)
    with NbdClient(neighbour, deadline=PATIENCE) as friend:
        expected = friend.read(0, 4 * KIB)
        while time.monotonic() < end or attempts <= WARM:
            attempts += 1
            with contextlib.suppress(OSError):
                _negotiation(port, name, dice, tls=tls)
            if attempts % 25 == 0:
                begin = time.monotonic()
                assert friend.read(0, 4 * KIB) == expected
                longest = max(longest, time.monotonic() - begin)
                _forget(Files(Paths().nbd("hv1")).log)
            if attempts == WARM:
                memory = resident(pid)
    assert service.daemon_pid("hv1") == pid, "the daemon ended"
    assert _settled(pid, files + 2), f"it keeps {_files(pid)} files open"
    grown = resident(pid) - memory
    assert grown < GROWTH, f"it grew by {grown} bytes"
    assert service.devices() == devices
    return {"attempts": attempts, "longest": longest, "grown": grown}


def resets(port: int, name: str, neighbour: str, times: int) -> float:
    """Ask for an export in the oldest way and hang up before the answer, while a neighbour reads from his own clone.

    QEMU's server (seen: 7.2.22 and 10.0.13) has the connection counted among the export's only after that answer was
    sent, but takes it out of them in any case: it writes to address 0 and ends.

    Returns the longest that the neighbour waited, in seconds. Raises AssertionError when his daemon ended or did not
    answer, DeadlineExceeded when the client's did not serve again.
    """
    devices, own, longest = service.devices(), service.daemon_pid(), 0.0
    with NbdClient(neighbour, deadline=PATIENCE) as friend:
        expected = friend.read(0, 4 * KIB)
        for _ in range(times):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5) as stream:
                stream.recv(18)
                # Closing it sends a reset: nothing that is under way is answered any more.
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.sendall(struct.pack(">I", _FLAGS) + _option(1, name.encode()))
            begin = time.monotonic()
            assert friend.read(0, 4 * KIB) == expected
            longest = max(longest, time.monotonic() - begin)
            wait.until(lambda: _serves(port, name), "the client's clone to be served again", deadline=60)
    assert service.daemon_pid() == own, "the neighbour's daemon ended"
    assert service.devices() == devices
    return longest


def api(neighbour: str, seconds: float, seed: int) -> dict[str, float]:
    """Spoil requests to the API for some seconds, while a neighbour reads from his clone.

    Raises AssertionError when hatcheryd ended, took more and more, answered with an error of its own, or changed
    something.
    """
    dice, pid = random.Random(seed), peer(Paths().api_socket)
    before, volumes = _state(), service.volumes()
    end, attempts, failures = time.monotonic() + seconds, 0, 0
    memory, files = 0.0, _files(pid)
    with NbdClient(neighbour, deadline=PATIENCE) as friend:
        expected = friend.read(0, 4 * KIB)
        while time.monotonic() < end or attempts <= WARM:
            attempts += 1
            answer = b""
            with contextlib.suppress(OSError):
                answer = _request(dice)
            if answer.startswith(b"HTTP/1.1 500"):
                failures += 1
                print(answer.decode(errors="replace"), flush=True)
            if attempts % 25 == 0:
                assert friend.read(0, 4 * KIB) == expected
            if attempts == WARM:
                memory = resident(pid)
    assert peer(Paths().api_socket) == pid, "hatcheryd ended"
    assert failures == 0, f"{failures} requests met a bug"
    assert _settled(pid, files + 4), f"it keeps {_files(pid)} files open"
    grown = resident(pid) - memory
    assert grown < GROWTH, f"it grew by {grown} bytes"
    assert (_state(), service.volumes()) == (before, volumes)
    return {"attempts": attempts, "grown": grown}


# --- NBD


def _negotiation(port: int, name: str, dice: random.Random, *, tls: bool) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=0.5) as raw:
        raw.recv(18)
        stream: socket.socket = raw
        if tls and dice.random() < 0.5:
            raw.sendall(struct.pack(">I", _FLAGS) + _option(5, b""))
            raw.recv(20)
            if dice.random() < 0.5:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                stream = context.wrap_socket(raw)
        said = b""
        try:
            for piece in _talk(name, dice):
                said += piece
                stream.sendall(piece)
                if dice.random() < 0.3:
                    stream.settimeout(0.02)
                    with contextlib.suppress(TimeoutError):
                        stream.recv(65536)
                    stream.settimeout(0.5)
            if dice.random() < 0.5:
                stream.settimeout(0.02)
                with contextlib.suppress(TimeoutError):
                    stream.recv(65536)
        finally:
            if _EXPORT_NAME in said:
                _take_leave(stream)


def _serves(port: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        return name in exports(port, None, plain=True)
    return False


def _take_leave(stream: socket.socket) -> None:
    """Hear the server out before hanging up: see ``resets``."""
    with contextlib.suppress(OSError):
        stream.settimeout(PATIENCE)
        stream.shutdown(socket.SHUT_WR)
        while stream.recv(65536):
            pass


def _talk(name: str, dice: random.Random) -> Iterator[bytes]:
    """What a client says, some of it wrong."""
    yield _spoilt(struct.pack(">I", dice.choice((_FLAGS, _FLAGS, 0, 1, 2, 0xFFFFFFFF))), dice, 0.1)
    for _ in range(dice.randrange(5)):
        number = dice.choice(_NUMBERS)
        data = dice.choice(
            (b"", name.encode(), b"nobody's", os.fsencode("x" * 300), dice.randbytes(dice.randrange(64)))
        )
        if number in (6, 7):
            data = struct.pack(">I", len(data)) + data + struct.pack(">H", 1) + struct.pack(">H", dice.randrange(9))
        length = None if dice.random() < 0.7 else dice.choice(_LENGTHS)
        yield _spoilt(_option(number, data, length), dice, 0.3)
    if dice.random() < 0.5:
        yield _option(dice.choice((1, 7)), _go(name))
        for _ in range(dice.randrange(6)):
            yield _spoilt(_command(dice), dice, 0.3)


def _go(name: str) -> bytes:
    return struct.pack(">I", len(name)) + name.encode() + struct.pack(">H", 0)


def _option(number: int, data: bytes, length: int | None = None) -> bytes:
    return struct.pack(">QII", _OPTION, number, len(data) if length is None else length) + data


def _command(dice: random.Random) -> bytes:
    """A request on an export: never a write of more than it may lose."""
    kind = dice.choice((0, 0, 2, 3, 5, 6, 7, 9, 0xFFFF))
    offset = dice.choice((0, 4096, 1 << 20, (1 << 64) - 1, dice.getrandbits(64)))
    return struct.pack(
        ">IHHQQI", _REQUEST, dice.choice((0, 1, 0xFFFF)), kind, dice.getrandbits(64), offset, dice.choice(_LENGTHS)
    )


def _spoilt(data: bytes, dice: random.Random, share: float) -> bytes:
    """The same, or with bytes changed, left out, doubled, or cut short."""
    if dice.random() >= share or not data:
        return data
    changed, place = bytearray(data), dice.randrange(len(data))
    match dice.randrange(4):
        case 0:
            changed[place] = dice.randrange(256)
        case 1:
            del changed[place : place + dice.randrange(1, 5)]
        case 2:
            changed[place:place] = dice.randbytes(dice.randrange(1, 9))
        case _:
            del changed[place:]
    return bytes(changed)


# --- the API


_PATHS = (
    *("/v1/status", "/v1/clones", "/v1/clones/fuzz", "/v1/clones/fuzz/attachment", "/v1/clones/fuzz/seed", "/v1/moves"),
    *("/v1/clones/fuzz/limits", "/v1/templates", "/v1/templates/fuzz", "/v1/templates/fuzz/content", "/v1/operations"),
    *(
        "/v1/clients/fuzz/certificates",
        "/v1/clients/fuzz/revocations",
        "/v1/templates/fuzz/boot-set/file",
        "/v1/nothing",
    ),
    *("/v1/operations/fuzz", "/v1/clones/%00", "/v1/clones/..%2f..%2fetc", "/v1/clones/" + "a" * 5000, "*", ""),
)
_BODIES = (
    b"",
    b"{}",
    b"null",
    b"[" * 3000,
    b'{"name": "fuzz", "template": "fuzz", "count": 3}',
    b'{"name": "fuzz", "template": "fuzz@1", "seed": {"user_data": "#cloud-config"}}',
    b'{"client": "fuzz", "shared": true, "seconds": 1e308}',
    b'{"clones": ["fuzz"], "client": "fuzz"}',
    b'{"iops": 99999999999999999999999, "bandwidth": -1}',
    b'{"kind": "first", "seconds": 1e400, "request": "-----BEGIN"}',
    b'{"name": "\\ud800", "template": "\\u0000"}',
    b"\xff\xfe\x00{",
)
_HEADERS = (
    b"Content-Type: application/json",
    b"Content-Type: application/octet-stream",
    b"Transfer-Encoding: chunked",
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Expect: 100-continue",
    b"Connection: upgrade\r\nUpgrade: websocket",
    b"Last-Event-ID: \x00",
    b"X: " + b"y" * 70000,
)


def _request(dice: random.Random) -> bytes:
    method = dice.choice(("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "PRI"))
    path, body = dice.choice(_PATHS), dice.choice(_BODIES)
    query = dice.choice(("", "", "?force=true", "?force=maybe", "?client=%ff", "?" + "a=b&" * 500))
    lines = [f"{method} {path}{query} HTTP/{dice.choice(('1.1', '1.1', '1.0', '2.0', '9'))}".encode(), b"Host: x"]
    lines += dice.sample(_HEADERS, dice.randrange(3))
    if dice.random() < 0.6:
        lines.append(b"Content-Length: %d" % len(body))
    data = b"\r\n".join([*lines, b"", body])
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(2.0)
        stream.connect(str(Paths().api_socket))
        stream.sendall(_spoilt(data, dice, 0.5))
        if dice.random() < 0.3:
            stream.sendall(_spoilt(data, dice, 0.5))
        if dice.random() < 0.2:
            return b""
        stream.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            return stream.recv(65536)
    return b""


# --- what must not change


def _state() -> list[object]:
    with connect() as client:
        return [
            [(clone.name, clone.client) for clone in client.clones()],
            [template.ref for template in client.templates()],
            [(each.name, each.certificates) for each in client.clients()],
            [problem.what for problem in client.status().problems],
        ]


def peer(path: Path) -> int:
    """The process that listens on a unix socket."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(str(path))
        pid: int = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        return pid


def _files(pid: int) -> int:
    """How many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _settled(pid: int, most: int) -> bool:
    """Whether a process has so few files open again, once those of connections that ended are closed."""
    # A connection that says nothing more is cut off after ten seconds.
    try:
        wait.until(lambda: _files(pid) <= most, "files to be closed", deadline=20, interval=0.2)
    except DeadlineExceeded:
        return False
    return True


def _forget(log: Path) -> None:
    """Empty a log that is in memory, once it is large."""
    if log.exists() and log.stat().st_size > 4 * MIB:
        os.truncate(log, 0)
