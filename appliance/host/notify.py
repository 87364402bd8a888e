"""The service manager: telling it how it goes (sd_notify(3)), and taking the sockets that it opened.

Without a service manager telling does nothing.
"""

import os
import socket

from appliance.errors import NotReady


def notify(*assignments: str) -> None:
    """Send assignments such as ``READY=1`` to the service manager, one datagram for all of them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # '@' stands for the leading zero byte of an abstract address.
        sender.sendto("\n".join(assignments).encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)


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
    count = os.environ.get("LISTEN_FDS", "")
    if not count.isdigit() or int(count) < 1 or os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise NotReady(
            "there is no socket to listen on", why="the service manager passed none", hint="start its .socket"
        )
    return [socket.socket(fileno=number) for number in range(FIRST_PASSED, FIRST_PASSED + int(count))]
