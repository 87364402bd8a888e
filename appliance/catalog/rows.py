"""Rows of the catalog as frozen values. Sizes are bytes, times are seconds since the epoch."""

from dataclasses import dataclass, field

from appliance.model import (
    MAX_CONNECTIONS,
    NO_LIMITS,
    CloneKind,
    CloneState,
    ImageFormat,
    Limits,
    PoolName,
    Protocol,
    TemplateState,
)


@dataclass(frozen=True, slots=True)
class Client:
    """An identity that clones are exported to. ``address`` and ``port`` belong to TCP, which is ``plain`` or TLS.

    ``max_connections`` are open at a time, to all of its clones together.
    """

    name: str
    transport: str
    address: str | None = None
    port: int | None = None
    plain: bool = False
    max_connections: int = MAX_CONNECTIONS

    @property
    def tls(self) -> bool:
        """Whether it needs a certificate."""
        return self.transport == "tcp" and not self.plain


@dataclass(frozen=True, slots=True)
class NvmeDoor:
    """Where a client reaches clones over NVMe/TCP, and the host that it is: no other one is let in.

    ``key`` is that host's for DH-HMAC-CHAP, ``made`` then; None before there is one. A number is never used twice.
    """

    number: int
    client: str
    address: str
    port: int
    host_nqn: str
    key: str | None = field(default=None, repr=False)
    made: float | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate of a client. It lets nobody in once it was ``revoked``.

    One from outside has a ``name`` of its own, which others of the same client may have as well; of those that were
    made here client and serial number are the name.
    """

    serial: str
    client: str
    issued: float
    expires: float
    revoked: float | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class AuthorityRow:
    """Who signs certificates, as PEM. An operator's own one (``given``) may have no key here, and then has what the
    storage daemons show instead. Keys are secret."""

    certificate: str
    key: str = field(repr=False)
    given: bool = False
    chain: str = ""
    server_certificate: str | None = None
    server_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PoolRow:
    """What the catalog knows of a pool.

    ``transaction_id`` is what both agreed on last (rule 9), None before the first change. ``identity`` names the
    drives that the pool is on, None when that was never recorded.
    """

    name: PoolName
    transaction_id: int | None
    identity: str | None


@dataclass(frozen=True, slots=True)
class NewTemplate:
    """A template version that is about to be imported, or made of a clone."""

    name: str
    format: ImageFormat
    source: str
    created: float


@dataclass(frozen=True, slots=True)
class Template:
    """A template version. ``size`` is 0 and ``sha256`` None until they are known.

    A ``retired`` one is cloned no more and goes with the last of its clones.
    """

    thin_id: int
    name: str
    version: int
    state: TemplateState
    size: int
    format: ImageFormat
    source: str
    sha256: str | None
    created: float
    retired: bool = False

    @property
    def ref(self) -> str:
        """``NAME@VERSION``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a client shows and believes over TLS, in PEM: its certificate, its key, and the authority of servers."""

    authority: str
    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fetch:
    """A template's rest that is being fetched over NBD. All before the byte ``fetched`` is in, and durable."""

    template: int
    uri: str
    fetched: int = 0
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """A template that a client may read, and the boot set that goes with it. Its number is never used for another."""

    number: int
    template: int
    ref: str
    client: str
    boot_set: str | None


@dataclass(frozen=True, slots=True)
class NewSeed:
    """What the guest of a clone is told when it first boots. ``user_data`` may hold secrets, so no log shows it."""

    hostname: str
    ssh_keys: tuple[str, ...] = ()
    user_data: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class StoredSeed:
    """The seed of a clone. Its number is never used for another one."""

    number: int
    clone: str
    given: NewSeed


@dataclass(frozen=True, slots=True)
class NewClone:
    """A clone that is about to be made. ``expires`` is when its lease ends, None for never."""

    name: str
    client: str | None
    created: float
    kind: CloneKind = CloneKind.DURABLE
    expires: float | None = None
    limits: Limits = NO_LIMITS
    seed: NewSeed | None = None


@dataclass(frozen=True, slots=True)
class Clone:
    """A clone; ``template`` is the thin id of the version that it came from, ``seed`` the number of its seed.

    ``shared`` is a second client who may write to it until ``shared_until``, while its guest is migrated.
    An ``overlay`` is a durable clone that was made while its template was fetched: its volume is no snapshot, and what
    was never written is read from the template's device, as with an ephemeral one.
    """

    thin_id: int
    name: str
    template: int
    template_ref: str
    kind: CloneKind
    state: CloneState
    size: int
    client: str | None
    created: float
    expires: float | None = None
    limits: Limits = NO_LIMITS
    seed: int | None = None
    shared: str | None = None
    shared_until: float | None = None
    overlay: bool = False
    protocol: Protocol = Protocol.NBD

    @property
    def clients(self) -> tuple[str, ...]:
        """Who may write to it: nobody, one, or two for a time."""
        return tuple(client for client in (self.client, self.shared) if client is not None)

    @property
    def by_nvme(self) -> bool:
        """Whether it is attached over NVMe/TCP."""
        return self.client is not None and self.protocol is Protocol.NVME_TCP

    @property
    def pool(self) -> PoolName:
        """Where its volume is."""
        return self.kind.pool


@dataclass(frozen=True, slots=True)
class StoredBootSet:
    """A boot set as text (``appliance.bootset.file``). A ``guessed`` one comes from other content than the template's.

    ``template`` is the thin id of the version that it belongs to, ``changed`` when it came to be.
    """

    template: int
    text: str
    guessed: bool
    changed: float


@dataclass(frozen=True, slots=True)
class BootRun:
    """A boot that was recorded, as the text of a trace (``appliance.bootset.trace``)."""

    template: int
    clone: str
    recorded: float
    trace: str


@dataclass(frozen=True, slots=True)
class Staging:
    """A volume that holds an image file while it is converted."""

    thin_id: int
    template: int


@dataclass(frozen=True, slots=True)
class Garbage:
    """A volume that is to be deleted, or that a change which did not end has left: why, and since when."""

    thin_id: int
    pool: PoolName
    why: str
    since: float


@dataclass(frozen=True, slots=True)
class Open:
    """The intents that were recorded and not finished: after a crash they are settled by looking into the pools."""

    templates: tuple[Template, ...]
    clones: tuple[Clone, ...]
    stagings: tuple[Staging, ...]

    def __bool__(self) -> bool:
        return bool(self.templates or self.clones or self.stagings)
