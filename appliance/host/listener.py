"""The socket that a storage daemon listens on: made before the daemon, and kept by systemd when it ends.

Who connects while a daemon restarts waits in the socket's queue, and is served by the next one, instead of being
refused. systemd keeps it in the unit's store of file descriptors (sd_pid_notify_with_fds(3)) and gives it back at the
next start. A unix socket's file goes with a daemon that ends in order: QEMU removes it. Then there is a new one, as
there is after a change of the address, and wherever there is no service manager.
"""

import ipaddress
import socket

from appliance.host import notify
from appliance.host.storage_daemon import Listen

NAME = "nbd"
"""What the socket is called in the store."""


def take(where: Listen) -> socket.socket:
    """The socket for that place, which a daemon can be given: the one that was kept, or a new one. Raises OSError."""
    kept: socket.socket | None = None
    for name, found in notify.stored_sockets():
        if kept is None and name == NAME and _listens_on(found, where):
            kept = found
        else:
            found.close()
    if kept is not None:
        return kept
    notify.forget_stored(NAME)
    made = _listen(where)
    notify.store(made, NAME)
    return made


def _listens_on(found: socket.socket, where: Listen) -> bool:
    if where.path is not None:
        return found.family == socket.AF_UNIX and found.getsockname() == str(where.path) and where.path.is_socket()
    wanted = (_family(where), str(where.address), where.port)
    return found.family != socket.AF_UNIX and (found.family, *found.getsockname()[:2]) == wanted


def _listen(where: Listen) -> socket.socket:
    if where.path is not None:
        where.path.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.bind(str(where.path))
    else:
        family = _family(where)
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is every address, of both kinds.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind((str(where.address), where.port or 0))
    made.listen(socket.SOMAXCONN)
    return made


def _family(where: Listen) -> socket.AddressFamily:
    version = ipaddress.ip_address(str(where.address)).version
    return socket.AF_INET6 if version == 6 else socket.AF_INET
