"""The service manager: telling it how it goes (sd_notify(3)), and taking the sockets that it opened.

Without a service manager telling does nothing.
"""

import os
import socket
from collections.abc import Iterator, Sequence

from appliance.errors import NotReady


def notify(*assignments: str) -> None:
    """Send assignments such as ``READY=1`` to the service manager, one datagram for all of them."""
    _send("\n".join(assignments).encode(), ())


def _send(words: bytes, descriptors: Sequence[int]) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # '@' stands for the leading zero byte of an abstract address.
        sender.connect(address.replace("@", "\0", 1) if address[0] == "@" else address)
        if descriptors:
            socket.send_fds(sender, [words], descriptors)
        else:
            sender.send(words)


def watchdog_seconds() -> float | None:
    """How often the service manager wants to hear ``WATCHDOG=1``: half its limit (sd_watchdog_enabled(3)); or None."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    if not limit.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(limit) / 1_000_000 / 2


FIRST_PASSED = 3
"""The service manager passes its sockets from this file descriptor on (sd_listen_fds(3))."""


def passed_sockets() -> list[socket.socket]:
    """The sockets that the service manager opened for this process. Raises NotReady when there are none."""
    numbers = _passed()
    if not numbers:
        raise NotReady(
            "there is no socket to listen on", why="the service manager passed none", hint="start its .socket"
        )
    return [socket.socket(fileno=number) for number in numbers]


def _passed() -> range:
    count = os.environ.get("LISTEN_FDS", "")
    mine = count.isdigit() and os.environ.get("LISTEN_PID") == str(os.getpid())
    return range(FIRST_PASSED, FIRST_PASSED + int(count)) if mine else range(0)


def store(kept: socket.socket, name: str) -> None:
    """Have the service manager keep a socket under a name while the service restarts (FDSTORE=1 of sd_notify(3)).

    It is given back at the next start, whatever becomes of who used it meanwhile (FDPOLL=0).
    """
    _send(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0".encode(), [kept.fileno()])


def forget_stored(name: str) -> None:
    """Have the service manager let go of what it keeps under a name."""
    notify("FDSTOREREMOVE=1", f"FDNAME={name}")


def stored_sockets() -> Iterator[tuple[str, socket.socket]]:
    """What the service manager kept, by name; nothing without one, and at the first start."""
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    for name, number in zip(names, _passed(), strict=False):
        yield name, socket.socket(fileno=number)
