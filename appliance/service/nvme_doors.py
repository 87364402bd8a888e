"""The clients' doors for NVMe/TCP: where the kernel's target listens for a client, its host's name, and that one's key.

A door has one host, and a host one key: another key holds from the next connection on. Connections that are open stay,
as with certificates; but who comes back after a moment without network is asked for the new key.
"""

import base64
import ipaddress
import logging
import re
import secrets
import zlib

from appliance.catalog import Client, NvmeDoor
from appliance.errors import AlreadyExists, HatcheryError, InUse, InvalidInput, NotReady, Refused
from appliance.schema import LOCAL_CLIENT, CertificateKind, NvmeSpec
from appliance.service.clients import check_address
from appliance.service.core import Core
from appliance.service.exports import Exports

log = logging.getLogger(__name__)

LOWEST_PORT = 1024
"""Ports below are root's, and the unit that makes the kernel listen has no such right."""

_NQN = re.compile(r"nqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9.-]+(:[!-.0-~]+)?")
_NQN_MOST = 223


def check_nqn(nqn: str) -> str:
    """A host's NQN, as it is (NVM Express Base 2.0, 4.5). It names a folder: it has no slash. Raises InvalidInput."""
    if len(nqn) > _NQN_MOST or not _NQN.fullmatch(nqn):
        raise InvalidInput(
            f"{nqn!r} is not the NQN of a host",
            why=f"it begins with nqn.YEAR-MONTH.DOMAIN and has {_NQN_MOST} characters at most",
            hint="on the host, /etc/nvme/hostnqn has it; `nvme gen-hostnqn` makes one",
        )
    return nqn


def new_key() -> str:
    """A secret of 32 bytes for DH-HMAC-CHAP with SHA-256, in NVMe's own form: with its CRC-32 behind it."""
    secret = secrets.token_bytes(32)
    checked = secret + zlib.crc32(secret).to_bytes(4, "little")
    return f"DHHC-1:01:{base64.b64encode(checked).decode('ascii')}:"


class NvmeDoors:
    """The verbs on them."""

    def __init__(self, core: Core, exports: Exports) -> None:
        self._core = core
        self._exports = exports

    def put(self, client: str, spec: NvmeSpec) -> bool:
        """Give a client a door, or change it, which cuts off who is connected; whether anything changed.

        Another host has no key yet. Raises NotFound, InvalidInput, Refused, InUse for a port, AlreadyExists for a host
        that another client is, NotReady where the kernel does not listen there.
        """
        check_nqn(spec.host_nqn)
        if client == LOCAL_CLIENT:
            raise Refused(
                f"client {LOCAL_CLIENT} has no door for NVMe/TCP",
                why="it is this machine",
                hint="give it to another client; clones are attached here by NBD",
            )
        with self._core.lock:
            catalog = self._core.catalog
            catalog.client(client)
            before = catalog.nvme_door(client)
            address = self._place(client, spec)
            if before is not None and (before.address, before.port, before.host_nqn) == (
                address,
                spec.port,
                spec.host_nqn,
            ):
                return False
            attached = [clone.name for clone in catalog.clones_by_nvme() if clone.client == client]
            if attached and before is not None and before.host_nqn != spec.host_nqn:
                raise InUse(
                    f"client {client} cannot be another host now",
                    why=f"{len(attached)} clone(s) are attached to it over NVMe/TCP: {', '.join(attached[:5])}",
                    hint="detach them first",
                )
            catalog.put_nvme_door(client, address, spec.port, spec.host_nqn)
            self._change(before)
        log.info(
            "client %s is reached over NVMe/TCP at %s port %d, by host %s", client, address, spec.port, spec.host_nqn
        )
        return True

    def _place(self, client: str, spec: NvmeSpec) -> str:
        """The address of a door, which is this machine's, its port nobody else's. Raises InvalidInput, InUse."""
        try:
            address = str(ipaddress.ip_address(spec.address))
        except ValueError as error:
            raise InvalidInput(f"{spec.address!r} is not an IP address", why=str(error)) from error
        check_address(Client(client, "tcp", address, spec.port))
        for other in self._core.catalog.nvme_doors():
            if other.client == client:
                continue
            if other.host_nqn == spec.host_nqn:
                raise AlreadyExists(
                    f"client {client} cannot be the host {spec.host_nqn}",
                    why=f"client {other.client} is that one",
                    hint="a host is one client's: attach its clones to that client",
                )
            if other.port == spec.port:
                raise _taken(spec.port, other.client)
        for each in self._core.catalog.clients():
            if each.port == spec.port:
                raise _taken(spec.port, each.name)
        return address

    def _change(self, before: NvmeDoor | None) -> None:
        """Have the target follow a door that changed; it is as it was where that cannot be. Raises NotReady."""
        try:
            self._exports.nvme.sync(strictly=True)
        except HatcheryError:
            if before is not None:
                self._core.catalog.restore_nvme_door(before)
                self._exports.nvme.sync()
            raise

    def remove(self, client: str) -> bool:
        """Reach a client over NVMe/TCP no more; false when it was not. Raises NotFound, InUse while clones are."""
        with self._core.lock:
            catalog = self._core.catalog
            catalog.client(client)
            if catalog.nvme_door(client) is None:
                return False
            attached = [clone.name for clone in catalog.clones_by_nvme() if clone.client == client]
            if attached:
                raise InUse(
                    f"client {client} is reached over NVMe/TCP",
                    why=f"{len(attached)} clone(s) are attached to it so: {', '.join(attached[:5])}",
                    hint="detach them first",
                )
            catalog.drop_nvme_door(client)
        return True

    def issue(self, client: str, kind: CertificateKind) -> NvmeDoor:
        """Make the key of a client's host, a first one or another; the door with it.

        Raises NotFound, NotReady without a door, AlreadyExists when a first one is not the first.
        """
        with self._core.lock:
            catalog = self._core.catalog
            catalog.client(client)
            before = catalog.nvme_door(client)
            if before is None:
                raise NotReady(
                    f"client {client} is not reached over NVMe/TCP",
                    why="it has no door, so that no key would let anybody in",
                    hint=f"hatchery client nvme {client} --listen ADDRESS:PORT --host-nqn NQN",
                )
            if kind == "first" and before.key is not None:
                raise AlreadyExists(
                    f"client {client} has a key for NVMe/TCP",
                    why="another one takes its place, and its host needs it when it connects next",
                    hint=f"hatchery client rotate {client} DIRECTORY --nvme",
                )
            catalog.set_nvme_key(client, new_key(), self._core.now())
            self._change(before)
            made = catalog.nvme_door(client)
        log.info("made a key for client %s over NVMe/TCP", client)
        return made or before


def _taken(port: int, client: str) -> InUse:
    return InUse(f"port {port} is taken", why=f"client {client} has it", hint="choose another port")
