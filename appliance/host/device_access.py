"""Who besides root may open a device's node: an access control list on it.

Storage daemons are in no group that owns disks. Each may open what its client was given, and the kernel refuses
everything else. The node goes with the device, and the list with it, so that nothing is left to take back. udev only
looks at the node's mode, which is the list's mask: what it asks for is what stands here, so it lets the list alone.

Source: acl(5); the attribute's form is linux/posix_acl_xattr.h.
"""

import errno
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from appliance.errors import Unhealthy
from appliance.model import Access

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.pack("<I", 2)
_ENTRY = struct.Struct("<HHI")
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_READ, _WRITE = 4, 2


def grant(device: Path, users: Mapping[int, Access]) -> bool:
    """Let these users open a device, and no others but root and the group that udev gives it to.

    False when the device is not there. Raises Unhealthy.
    """
    try:
        os.setxattr(device, _ATTRIBUTE, render(users))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unhealthy(
            f"nobody can be let at {device}",
            why=os.strerror(error.errno or 0),
            hint="/dev must hold access control lists (CONFIG_TMPFS_POSIX_ACL)",
        ) from error
    return True


def let_in(device: Path, user: int, access: Access) -> None:
    """Let one user more open a device; nothing when it is not there. Raises Unhealthy."""
    grant(device, {**_known(device), user: access})


def shut_out(device: Path, user: int) -> None:
    """Let a user open a device no more, and leave the others. Raises Unhealthy."""
    grant(device, {number: access for number, access in _known(device).items() if number != user})


def _known(device: Path) -> dict[int, Access]:
    try:
        return granted(device)
    except FileNotFoundError:
        return {}


def granted(device: Path) -> dict[int, Access]:
    """The users who may open a device. Raises FileNotFoundError."""
    try:
        found = os.getxattr(device, _ATTRIBUTE)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        return {}
    entries = _ENTRY.iter_unpack(found[len(_VERSION) :])
    return {
        number: Access.READ_WRITE if rights & _WRITE else Access.READ_ONLY
        for kind, rights, number in entries
        if kind == _USER
    }


def render(users: Mapping[int, Access]) -> bytes:
    """The attribute's value. The order of the entries is the kernel's to demand."""
    both = _READ | _WRITE
    named = [(_USER, both if users[number] is Access.READ_WRITE else _READ, number) for number in sorted(users)]
    entries = [
        (_OWNER, both, _NOBODY),
        *named,
        (_GROUP, both, _NOBODY),
        (_MASK, both, _NOBODY),
        (_OTHERS, 0, _NOBODY),
    ]
    return _VERSION + b"".join(_ENTRY.pack(*entry) for entry in entries)
