"""Clients: who may attach clones, and where their storage daemon listens."""

import ipaddress
import logging
from dataclasses import replace

from appliance.catalog import Client
from appliance.errors import HatcheryError, InUse, InvalidInput, NotReady, Refused
from appliance.host import netlink
from appliance.model import check_name
from appliance.schema import FIRST_PORT, LOCAL_CLIENT, ClientSpec
from appliance.service.core import Core
from appliance.service.exports import Exports
from appliance.service.remotes import PREFIX
from appliance.service.stills import DAEMON

log = logging.getLogger(__name__)


def check(name: str, spec: ClientSpec) -> Client:
    """The client that a request describes, without a port if none is said. Raises InvalidInput, Refused. Pure."""
    check_name(name, "client name")
    if name == DAEMON or name.startswith(PREFIX):
        raise Refused(
            f"no client can be named {name}",
            why="what is copied in and out has storage daemons of that name",
            hint="choose another name",
        )
    if spec.transport == "unix":
        if spec.address is not None or spec.port is not None or spec.plain:
            raise InvalidInput(
                "a unix client has no address, port or plain",
                why="it is reached by a socket on this machine",
                hint="leave them out, or use the transport tcp",
            )
        return Client(name, "unix", max_connections=spec.max_connections)
    if name == LOCAL_CLIENT:
        raise Refused(
            f"client {LOCAL_CLIENT} is this machine",
            why="it is always reached by its unix socket",
            hint="register another client, for example by the host's name",
        )
    if spec.address is None:
        raise InvalidInput(
            "a tcp client needs an address",
            why="its storage daemon listens there",
            hint="give one, or use the transport unix for this machine",
        )
    try:
        address = ipaddress.ip_address(spec.address)
    except ValueError as error:
        raise InvalidInput(f"{spec.address!r} is not an IP address", why=str(error)) from error
    return Client(name, "tcp", str(address), spec.port, plain=spec.plain, max_connections=spec.max_connections)


def check_address(client: Client) -> None:
    """Refuse an address that this machine does not have. Raises InvalidInput, CannotTell."""
    if client.address is None or ipaddress.ip_address(client.address).is_unspecified:
        return
    mine = netlink.addresses()
    if client.address not in mine:
        raise InvalidInput(
            f"{client.address} is not an address of this machine",
            why=f"it has {', '.join(sorted(mine))}",
            hint="choose one of them, or 0.0.0.0 for all",
        )


class Clients:
    """The verbs on clients."""

    def __init__(self, core: Core, exports: Exports) -> None:
        self._core = core
        self._exports = exports

    def put(self, name: str, spec: ClientSpec) -> bool:
        """Make the client, or change it to ``spec``; true when it is new. Raises InvalidInput, Refused, InUse.

        One over TCP that has no port gets the next that is free.
        """
        client = check(name, spec)
        with self._core.lock:
            catalog = self._core.catalog
            before = catalog.find_client(name)
            if client.transport == "tcp" and client.port is None:
                client = replace(client, port=self._port(client, before))
            if before == client:
                return False
            check_address(client)
            if client.tls:
                self._exports.credentials.check_covered(client)
            for other in catalog.clients():
                if other.name != name and client.port is not None and _collide(other, client):
                    raise InUse(
                        f"port {client.port} is taken",
                        why=f"client {other.name} listens on {other.address}:{other.port}",
                        hint="choose another port",
                    )
            for door in catalog.nvme_doors():
                if client.port is not None and door.port == client.port:
                    raise InUse(
                        f"port {client.port} is taken",
                        why=f"client {door.client} is reached there over NVMe/TCP",
                        hint="choose another port",
                    )
            catalog.put_client(client)
            try:
                if before is None:
                    self._exports.serve(client)
                else:
                    self._exports.restart(client)
            except HatcheryError as error:
                self._undo(client, before)
                if not isinstance(error, NotReady):
                    raise
                raise NotReady(
                    f"client {name} cannot be served",
                    why=error.why or error.what,
                    hint=error.hint or "is its port taken by another program?",
                ) from error
        how = "plain NBD over TCP" if client.plain else "TLS" if client.tls else "a unix socket"
        log.info("client %s is reached by %s", name, how)
        return before is None

    def _port(self, client: Client, before: Client | None) -> int:
        """Where a client listens that did not say it: where it did before, or the first port that is free."""
        if before is not None and before.address == client.address and before.port is not None:
            return before.port
        catalog = self._core.catalog
        others = [other for other in catalog.clients() if other.name != client.name]
        doors = {door.port for door in catalog.nvme_doors()}
        for port in range(FIRST_PORT, 65536):
            if port not in doors and not any(_collide(other, replace(client, port=port)) for other in others):
                return port
        raise InUse(f"no port of {client.address} is free", why="clients listen on all of them", hint="remove some")

    def _undo(self, client: Client, before: Client | None) -> None:
        if before is None:
            self._exports.dismiss(client.name)
            self._core.catalog.drop_client(client.name)
        else:
            self._core.catalog.put_client(before)
            self._exports.restart(before)

    def remove(self, name: str) -> bool:
        """Remove a client; false when there was none. Raises InUse while clones are attached, Refused for `local`."""
        if name == LOCAL_CLIENT:
            raise Refused(
                f"client {LOCAL_CLIENT} cannot be removed",
                why="it is this machine",
                hint="detach its clones instead: `hatchery clone detach`",
            )
        with self._core.lock:
            if self._core.catalog.find_client(name) is None:
                return False
            self._core.catalog.drop_client(name)
            self._exports.dismiss(name)
        log.info("removed client %s", name)
        return True


def _collide(one: Client, other: Client) -> bool:
    if one.port != other.port or one.address is None or other.address is None:
        return False
    either = (ipaddress.ip_address(one.address), ipaddress.ip_address(other.address))
    return one.address == other.address or any(address.is_unspecified for address in either)
