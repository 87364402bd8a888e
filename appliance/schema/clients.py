"""Clients."""

from typing import Literal

from pydantic import Field

from appliance.model import MAX_CONNECTIONS, Health
from appliance.schema.base import Model, Revealed

Transport = Literal["unix", "tcp"]

CertificateKind = Literal["first", "rotation"]
"""A first one is refused while there is another that is good."""

RevocationKind = Literal["all", "older", "named"]
"""Which certificates: all, all but the newest that was not revoked, or those that are named."""

CERTIFICATE_SECONDS = 365 * 86400.0
"""How long a client's certificate is good for unless something else is said."""


PEM_MOST = 65536
"""Characters of what is given in PEM."""

FIRST_PORT = 10809
"""NBD's own (IANA): where ports are looked for when none is said."""

MOST_CONNECTIONS = 10_000
"""How many connections a client may be given: each takes one of the files that its daemon may open."""


class ClientSpec(Model):
    """A client to make or change. TCP takes an address, and TLS and a certificate unless ``plain``: then plain NBD."""

    transport: Transport
    address: str | None = Field(default=None, description="An address of this machine to listen on (tcp)")
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description=f"(tcp) None: the one that it has at that address, or else the first from {FIRST_PORT} on that no"
        " client has",
    )
    plain: bool = False
    max_connections: int = Field(
        default=MAX_CONNECTIONS,
        ge=1,
        le=MOST_CONNECTIONS,
        description="Open at a time, to all of its clones together; others wait. Whoever is connected is cut off when"
        " it is changed, and connects anew",
    )


class ConnectionView(Model):
    """An open connection, over NBD or NVMe/TCP."""

    peer: str = Field(description="ADDRESS:PORT, or 'pid N (NAME)' for a unix socket")
    since: float = Field(description="When it was first seen: up to ten seconds late, or when hatcheryd came back")
    received_bytes: int | None = Field(description="From the client; None: a unix socket, of which nobody counts them")
    sent_bytes: int | None = Field(description="To the client")


class CertificateView(Model):
    """A client's certificate, without what is secret."""

    serial: str = Field(description="40 hexadecimal digits")
    name: str | None = Field(default=None, description="What lets in one that was signed elsewhere; None: made here")
    issued: float
    expires: float
    revoked: float | None = Field(description="None: it was not")


class NvmeSpec(Model):
    """Where the kernel's NVMe target listens for a client, and the one host that it lets in there."""

    address: str = Field(description="An address of this machine to listen on")
    port: int = Field(ge=1024, le=65535, description="TCP; of this client alone")
    host_nqn: str = Field(max_length=223, description="The host's NQN, as in its /etc/nvme/hostnqn")


class NvmeDoorView(Model):
    """How a client reaches clones over NVMe/TCP, without the key. Neither is what goes over it encrypted."""

    address: str
    port: int
    host_nqn: str
    key_made: float | None = Field(description="None: there is no key yet, and nothing can be attached")
    connections: tuple[ConnectionView, ...] | None = Field(description="To its port; None: could not tell")


class ClientView(Model):
    """A client and its storage daemon."""

    name: str
    transport: Transport
    address: str | None
    port: int | None
    plain: bool
    max_connections: int = MAX_CONNECTIONS
    state: Health = Field(description="Of its storage daemon")
    detail: str = Field(description="The storage daemon's state in words")
    uri: str = Field(description="Where its clones are, without a clone's name")
    clones: tuple[str, ...]
    connections: tuple[ConnectionView, ...] | None = Field(description="None: could not tell")
    certificates: tuple[CertificateView, ...] = Field(default=(), description="The newest first")
    nvme: NvmeDoorView | None = Field(default=None, description="None: it is not reached over NVMe/TCP")


class ClientList(Model):
    """Clients by name."""

    clients: tuple[ClientView, ...]


class CertificateRequest(Model):
    """A certificate to make for a client that is reached over TLS."""

    kind: CertificateKind = "first"
    seconds: float = Field(
        default=CERTIFICATE_SECONDS, ge=60, le=10 * CERTIFICATE_SECONDS, description="How long it is good for"
    )

    request: str | None = Field(
        default=None, max_length=PEM_MOST, description="PKCS #10 in PEM: it is for that key, which stays where it is"
    )
    signed: str | None = Field(
        default=None, max_length=PEM_MOST, description="In PEM: the operator's own authority signed it already"
    )


class AuthoritySpec(Model):
    """An operator's own authority, in PEM. With its key it signs as the appliance's own does."""

    certificate: str = Field(max_length=PEM_MOST)
    key: Revealed | None = Field(default=None, description="None: all certificates are signed elsewhere")
    chain: str = Field(default="", max_length=PEM_MOST, description="The certificates above it")
    server_certificate: str | None = Field(
        default=None, max_length=PEM_MOST, description="What the storage daemons show, if nothing is signed here"
    )
    server_key: Revealed | None = None


class AuthorityView(Model):
    """Who signs certificates, without what is secret."""

    subject: str
    expires: float
    given: bool = Field(description="An operator's; else the appliance's own")
    signs: bool = Field(description="Whether its key is here")
    certificate: str
    chain: str
    server_expires: float | None = Field(description="Of what the storage daemons show, if it was signed elsewhere")


class CertificateBundle(Model):
    """A new certificate with its key, which is nowhere else, and with its authority's; all as PEM."""

    client: str
    serial: str
    issued: float
    expires: float
    authority: str
    certificate: str
    key: Revealed = Field(description="Shown as it is in JSON and nowhere else; empty: it never was here")


class NvmeKeyRequest(Model):
    """A key to make for a client's host. Another one holds from its next connection on."""

    kind: CertificateKind = "first"


class NvmeKey(Model):
    """The key of a client's host for DH-HMAC-CHAP. It is not shown again."""

    client: str
    host_nqn: str
    made: float
    key: Revealed = Field(description="DHHC-1:..., as nvme-cli takes it; shown as it is in JSON and nowhere else")


class Revocation(Model):
    """Certificates that shall let nobody in any more."""

    which: RevocationKind
    serials: tuple[str, ...] = Field(default=(), description="Of those that are named")
