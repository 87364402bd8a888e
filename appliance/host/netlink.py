"""Who is connected to which listener, by socket diagnosis; and this machine's addresses.

Sources: sock_diag(7), rtnetlink(7); pyroute2 speaks both. It is loaded when it is asked for the first time: it is
large, and a service's start does not need it.
"""

import errno
import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import CannotTell

_COUNTERS = 1 << 1
"""Asks for TCP's counters: INET_DIAG_INFO, whose number is 2 (linux/inet_diag.h)."""


@dataclass(frozen=True, slots=True)
class Connection:
    """An open connection: ``peer`` is ADDRESS:PORT, or 'pid N (NAME)' of the process behind a unix socket.

    ``identity`` is the number that the kernel gave its socket (SO_COOKIE of socket(7)): no other socket has it until
    the machine starts anew. ``received`` and ``sent`` are bytes that came from the
    peer and that it has acknowledged; the kernel counts those of TCP, TLS's own included, and of no unix socket.
    """

    peer: str
    identity: str
    received: int | None = None
    sent: int | None = None


def tcp_connections(port: int) -> tuple[Connection, ...]:
    """Established TCP connections to a local port. Raises CannotTell."""
    found: list[Connection] = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for sock in _dump(family):
            if sock["idiag_sport"] == port:
                address = ipaddress.ip_address(sock["idiag_dst"])
                if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
                    address = address.ipv4_mapped
                shown = f"[{address}]" if address.version == 6 else str(address)
                peer, counted = f"{shown}:{sock['idiag_dport']}", sock.get_attr("INET_DIAG_INFO")
                received, sent = (
                    (None, None) if counted is None else (counted["tcpi_bytes_received"], counted["tcpi_bytes_acked"])
                )
                found.append(Connection(peer, str(sock["idiag_cookie"]), received, sent))
    return tuple(sorted(found, key=lambda each: each.peer))


def unix_connections(path: Path) -> tuple[Connection, ...]:
    """Established connections to a listening unix socket. Raises CannotTell."""
    name = str(path).encode()
    peers: dict[int, int] = {}
    for sock in _dump(socket.AF_UNIX):
        # An accepted socket carries its listener's name.
        if _bytes(sock.get_attr("UNIX_DIAG_NAME")) == name:
            peer = sock.get_attr("UNIX_DIAG_PEER")
            peers[int(sock["udiag_cookie"])] = int(peer) if peer is not None else 0
    owners = _socket_owners(set(peers.values())) if peers else {}
    hidden = "a process that is gone or hidden"
    return tuple(Connection(owners.get(peer, hidden), str(cookie)) for cookie, peer in sorted(peers.items()))


def _dump(family: int) -> list[Any]:
    from pyroute2 import DiagSocket
    from pyroute2.netlink.diag import SS_ESTABLISHED, UDIAG_SHOW_NAME, UDIAG_SHOW_PEER
    from pyroute2.netlink.exceptions import NetlinkError

    show = UDIAG_SHOW_NAME | UDIAG_SHOW_PEER if family == socket.AF_UNIX else 0
    try:
        with DiagSocket() as diag:
            diag.bind()
            wanted = 0 if family == socket.AF_UNIX else _COUNTERS
            states = 1 << SS_ESTABLISHED
            return list(diag.get_sock_stats(family=family, states=states, show=show, extensions=wanted))
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return []  # the kernel has no sockets of this family
        raise CannotTell("who is connected cannot be told", why=str(error)) from error
    except OSError as error:
        raise CannotTell("who is connected cannot be told", why=str(error)) from error


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value.rstrip(b"\0")
    return str(value).encode().rstrip(b"\0") if value is not None else b""


def _socket_owners(inodes: set[int]) -> dict[int, str]:
    """The processes that hold sockets, as 'pid N (NAME)', by the sockets' inode numbers."""
    owners: dict[int, str] = {}
    links = {f"socket:[{inode}]": inode for inode in inodes}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                inode = links.get(str(descriptor.readlink()))
                if inode is not None:
                    name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                    owners[inode] = f"pid {process.name} ({name})"
        except OSError:
            continue  # it ended meanwhile
    return owners


def addresses() -> frozenset[str]:
    """The IP addresses of this machine. Raises CannotTell."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            return frozenset(
                str(address) for found in route.get_addr() if (address := found.get_attr("IFA_ADDRESS")) is not None
            )
    except (NetlinkError, OSError) as error:
        raise CannotTell("this machine's addresses cannot be told", why=str(error)) from error
