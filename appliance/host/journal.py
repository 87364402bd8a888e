"""Lines in the journal that have fields (systemd's native protocol): for what is to be found again by more than words.

Source: https://systemd.io/JOURNAL_NATIVE_PROTOCOL/. Where there is no journal, nothing is sent.
"""

import socket
import struct
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
"""Where the journal listens."""


def send(fields: Mapping[str, str], where: Path = SOCKET) -> bool:
    """Send a line with these fields; MESSAGE is what people read. False when nobody listens."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            # Who writes to the journal must never be held up by it.
            sender.setblocking(False)
            sender.sendto(render(fields), str(where))
    except OSError:
        return False
    return True


def render(fields: Mapping[str, str]) -> bytes:
    """Fields as the journal reads them: a value with a line's end in it goes by its length."""
    lines = []
    for name, value in fields.items():
        data = value.encode("utf-8", errors="replace")
        if b"\n" in data:
            lines.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            lines.append(name.encode() + b"=" + data + b"\n")
    return b"".join(lines)
