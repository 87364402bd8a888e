"""Where clones are found from the machine that measures."""

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from appliance.client import Client
from appliance.errors import CannotTell, InvalidInput
from appliance.measure.guest import NbdTarget
from appliance.remote import forwarded
from appliance.run import Runner
from appliance.schema import LOCAL_CLIENT, CloneView


@contextmanager
def reachable(clone: CloneView, nbd: str | None, host: str | None, runner: Runner) -> Iterator[NbdTarget]:
    """Where the clone is found from here. ``nbd``: HOST:PORT to use instead; ``host``: the appliance's SSH destination.

    Raises CannotTell when the clone is not attached, InvalidInput.
    """
    if clone.uri is None:
        raise CannotTell(f"clone {clone.name} has no address", why="it is not attached")
    target = NbdTarget.parse(clone.uri)
    if nbd is not None:
        where, _, port = nbd.rpartition(":")
        if not where or not port.isdigit():
            raise InvalidInput(f"{nbd!r} is not an address", hint="give HOST:PORT")
        yield replace(target, host=where.strip("[]"), port=int(port), socket="")
    elif target.socket and host is not None:
        with forwarded(host, Path(target.socket), runner) as local:
            yield replace(target, socket=str(local))
    elif not target.socket and host is not None and everywhere(target.host):
        yield replace(target, host=urlsplit(f"ssh://{host}").hostname or host)
    else:
        yield target


@contextmanager
def all_reachable(
    clones: Sequence[CloneView], nbd: str | None, host: str | None, runner: Runner
) -> Iterator[tuple[NbdTarget, ...]]:
    """Where clones of one client are found: one address has them all. Raises as ``reachable``."""
    with reachable(clones[0], nbd, host, runner) as first:
        yield tuple(replace(first, export=NbdTarget.parse(clone.uri or "").export) for clone in clones)


def everywhere(host: str) -> bool:
    """Whether an address means all addresses of the appliance, and so is none to connect to."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def choose_client(client: Client) -> str:
    """The client whose port the guests use: the one over TCP if there is exactly one, else ``local``."""
    names = [view.name for view in client.clients() if view.transport == "tcp"]
    return names[0] if len(names) == 1 else LOCAL_CLIENT
