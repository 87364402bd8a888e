"""Packets of netlink's multicast groups, by which the kernel tells what happens."""

import errno
import socket

_LARGEST = 64 * 1024


def drain(listening: socket.socket) -> list[bytes] | None:
    """What the kernel has sent to a socket that does not block; None when some of it was lost. Raises OSError."""
    packets: list[bytes] = []
    while True:
        try:
            packet, sender = listening.recvfrom(_LARGEST)
        except BlockingIOError:
            return packets
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return None
            raise
        # Port 0 is the kernel; another process could only pretend to be it.
        if sender[0] == 0:
            packets.append(packet)
