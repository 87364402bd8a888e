"""Where clones are found from the machine that measures."""

import ipaddress
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from appliance.client import Client
from appliance.errors import CannotTell, InvalidInput, NotReady
from appliance.measure import credentials
from appliance.measure.guest import NbdTarget
from appliance.remote import forwarded
from appliance.run import Runner
from appliance.schema import LOCAL_CLIENT, ClientView, CloneView


@dataclass(frozen=True, slots=True)
class Access:
    """How this machine comes to clones: those of ``client``, or None to choose one.

    ``nbd`` is HOST:PORT where the client's port is found from here, if that is not where the appliance says;
    ``certificates`` is the folder of this machine's certificate.
    """

    client: str | None = None
    nbd: str | None = None
    certificates: Path = credentials.FOLDER


@contextmanager
def reachable(clone: CloneView, access: Access, host: str | None, runner: Runner) -> Iterator[NbdTarget]:
    """Where the clone is found from here; ``host`` is the appliance's SSH destination.

    Raises CannotTell when the clone is not attached, InvalidInput.
    """
    if clone.uri is None:
        raise CannotTell(
            f"clone {clone.name} has no address",
            why="it is not attached",
            hint=f"attach it: `hatchery clone attach {clone.name}`",
        )
    target = NbdTarget.parse(clone.uri)
    if target.certificates:
        target = replace(target, certificates=str(access.certificates.absolute()))
    if access.nbd is not None:
        where, _, port = access.nbd.rpartition(":")
        if not where or not port.isdigit():
            raise InvalidInput(
                f"{access.nbd!r} is not an address", why="it does not end in a colon and a port", hint="give HOST:PORT"
            )
        # Whatever leads there, the certificate that is shown at its end is that of the address that it listens on.
        known_as = target.host if target.certificates and not everywhere(target.host) else ""
        yield replace(target, host=where.strip("[]"), port=int(port), socket="", known_as=known_as)
    elif target.socket and host is not None:
        with forwarded(host, Path(target.socket), runner) as local:
            yield replace(target, socket=str(local))
    elif not target.socket and host is not None and everywhere(target.host):
        name = urlsplit(f"ssh://{host}").hostname or host
        # The certificate has all addresses of the appliance, but only one of the names that it may have here.
        yield replace(target, host=_address(name) if target.certificates else name)
    else:
        yield target


@contextmanager
def all_reachable(
    clones: Sequence[CloneView], access: Access, host: str | None, runner: Runner
) -> Iterator[tuple[NbdTarget, ...]]:
    """Where clones of one client are found: one address has them all. Raises as ``reachable``."""
    with reachable(clones[0], access, host, runner) as first:
        yield tuple(replace(first, export=NbdTarget.parse(clone.uri or "").export) for clone in clones)


def everywhere(host: str) -> bool:
    """Whether an address means all addresses of the appliance, and so is none to connect to."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _address(name: str) -> str:
    try:
        return str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return name


def choose_client(client: Client, access: Access, host: str | None, note: Callable[[str], None]) -> str:
    """The client whose clones the guests use; ``note`` is told why it is not the one that one would expect.

    That is the one which is asked for; the one whose certificate this machine has; the only one over TCP, if it takes
    none; else ``local``, whose unix socket is found on the appliance, and through SSH from anywhere.
    Raises NotFound, NotReady when this machine does not get in to the one that is asked for, or whose port is named.
    """
    if access.client is not None:
        view = client.client(access.client)
        if why := _shut(view, access):
            raise _no_way(view.name, why)
        return view.name
    over_tcp = [view for view in client.clients() if view.transport == "tcp"]
    shut = {view.name: _shut(view, access) for view in over_tcp}
    certified = [view.name for view in over_tcp if not view.plain and not shut[view.name]]
    if len(certified) == 1:
        return certified[0]
    if len(over_tcp) != 1:
        return LOCAL_CLIENT
    only = over_tcp[0]
    if only.plain:
        return only.name
    if access.nbd is not None:
        raise _no_way(only.name, shut[only.name])
    way = "its unix socket" if host is None else "SSH, which takes time of its own"
    note(f"the clones were reached over {way}, for client {only.name} takes a certificate: {shut[only.name]}")
    return LOCAL_CLIENT


def _shut(view: ClientView, access: Access) -> str:
    """Why the client's clones cannot be reached with what this machine has; empty when they can."""
    tls = view.transport == "tcp" and not view.plain
    return credentials.missing(view, access.certificates) if tls else ""


def _no_way(client: str, why: str) -> NotReady:
    return NotReady(
        f"clones of client {client} cannot be reached from here",
        why=f"it takes TLS and a certificate; {why}",
        hint=f"name the folder that `hatchery client certificate {client}` wrote with --certificates,"
        f" or measure with --client {LOCAL_CLIENT}",
    )
