"""Events that the kernel broadcasts about devices, straight from its netlink socket, with or without udev.

Source of the format: ``lib/kobject_uevent.c`` and ``drivers/md/dm-uevent.c`` of Linux 6.12: a header
``ACTION@DEVPATH`` and then ``KEY=VALUE`` strings, each ended by a zero byte. Group 1 is the kernel's own voice; group 2
is udev's.
"""

import select
import socket
from types import TracebackType
from typing import Self

from appliance.host import kernel_events

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER = 4 * 1024 * 1024


def parse(packet: bytes) -> dict[str, str]:
    """The event's properties; empty for a packet that is not the kernel's (udev's begin with ``libudev``)."""
    head, *fields = packet.split(b"\0")
    if b"@" not in head:
        return {}
    pairs = (field.decode("utf-8", "replace").partition("=") for field in fields if field)
    return {key: value for key, equals, value in pairs if equals}


class Uevents:
    """The kernel's events from the moment of opening on."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT
        )
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        self._socket.bind((0, _KERNEL_GROUP))

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def wait(self, seconds: float) -> bool:
        """Wait until there is an event to receive; False when there was none in that time."""
        return bool(select.select([self._socket], [], [], max(0.0, seconds))[0])

    def receive(self) -> list[dict[str, str]] | None:
        """All events that wait; None when some were lost, because more came than the buffer holds."""
        packets = kernel_events.drain(self._socket)
        return None if packets is None else [parse(packet) for packet in packets]

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
