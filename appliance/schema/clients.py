"""Clients."""

from typing import Literal

from pydantic import Field

from appliance.model import Health
from appliance.schema.base import Model

Transport = Literal["unix", "tcp"]


class ClientSpec(Model):
    """A client to make or change. TCP is plain, unencrypted NBD: it must be accepted by ``plain = true``."""

    transport: Transport
    address: str | None = Field(default=None, description="An address of this machine to listen on (tcp)")
    port: int | None = Field(default=None, ge=1, le=65535, description="(tcp)")
    plain: bool = False


class ConnectionView(Model):
    """An open NBD connection."""

    peer: str = Field(description="ADDRESS:PORT, or 'pid N (NAME)' for a unix socket")


class ClientView(Model):
    """A client and its storage daemon."""

    name: str
    transport: Transport
    address: str | None
    port: int | None
    plain: bool
    state: Health = Field(description="Of its storage daemon")
    detail: str = Field(description="The storage daemon's state in words")
    uri: str = Field(description="Where its clones are, without a clone's name")
    clones: tuple[str, ...]
    connections: tuple[ConnectionView, ...] | None = Field(description="None: could not tell")


class ClientList(Model):
    """Clients by name."""

    clients: tuple[ClientView, ...]
