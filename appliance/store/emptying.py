"""Emptying a volume in pieces, so that nobody's writes wait for one long delete (rule 14). Sizes in bytes."""

import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from appliance.errors import Unhealthy
from appliance.model import MIB

PIECE = 64 * MIB
_BLKDISCARD = 0x1277


def discard(path: Path, length: int, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Discard the first ``length`` bytes of a device, a piece at a time; false when ``go_on`` said no in between.

    Raises Unhealthy.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for offset in range(0, length, PIECE):
            if offset and not go_on():
                return False
            fcntl.ioctl(fd, _BLKDISCARD, struct.pack("=QQ", offset, min(PIECE, length - offset)))
    except OSError as error:
        raise Unhealthy(f"cannot empty {path}", why=error.strerror or str(error)) from error
    finally:
        os.close(fd)
    return True
