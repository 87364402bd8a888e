"""What goes over the API: one definition for the server, the client, the CLI, the roles and the tests.

HTTP over a unix socket, everything below ``/v1``. Sizes and offsets are bytes, times are seconds since the epoch
(UTC), latencies are microseconds. Errors are ``application/problem+json`` with the body ``ProblemDetails``.

    GET    /status                          -> Status
    GET    /counters                        -> Counters
    POST   /cache/cold                      -> Operation (202)
    POST   /histograms                      -> HistogramsStarted (201); in-use when they run already
    DELETE /histograms                      -> Histograms (stops them); not-found when none run
    GET    /operations                      -> OperationList, newest first
    GET    /operations/{id}                 -> Operation
    GET    /templates                       -> TemplateList
    POST   /templates          TemplateCreate -> Operation (202)
    PUT    /templates/{name}/content  octets  -> Operation, after the last byte was taken in; for an upload
    GET    /templates/{ref}                 -> TemplateView
    DELETE /templates/{ref}                 -> Removal; in-use while clones of it exist
    POST   /templates/{ref}/warm            -> Operation (202)
    GET    /clones                          -> CloneList
    POST   /clones             CloneCreate  -> CloneList (201), exactly the new ones
    GET    /clones/{name}                   -> CloneView
    DELETE /clones/{name}?force=BOOL        -> Removal; in-use while somebody is connected, unless forced
    PUT    /clones/{name}/attachment  Attachment -> CloneView; in-use when another client has it
    DELETE /clones/{name}/attachment?force=BOOL  -> CloneView
    GET    /clients                         -> ClientList
    PUT    /clients/{name}     ClientSpec   -> ClientView (201 when new, 200 when changed or as it was)
    DELETE /clients/{name}                  -> Removal; in-use while clones are attached to it

Upload of a template: ``POST /templates`` with ``source.kind = "upload"`` and the size; then ``PUT .../content`` with
exactly that many bytes; then follow the operation. A short or aborted upload leaves nothing behind.
DELETE of what is not there succeeds with ``removed = false``.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from appliance.model import CloneKind, CloneState, Health, ImageFormat, TemplateState

API_PREFIX = "/v1"
"""All paths begin with it."""

LOCAL_CLIENT = "local"
"""The client that always exists: this machine, over a unix socket."""

PROBLEM_TYPE = "application/problem+json"
"""Media type of errors (RFC 9457)."""


class Model(BaseModel):
    """Base of all bodies: immutable, and unknown fields are an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# --- errors and operations


class ProblemDetails(Model):
    """An error: ``type`` is the stable code of ``appliance.errors``; what failed, why, and what to do."""

    type: str
    title: str
    detail: str = ""
    hint: str = ""
    status: int


class OperationError(Model):
    """Why an operation failed; the same words as in ``ProblemDetails``."""

    code: str
    what: str
    why: str = ""
    hint: str = ""


OperationKind = Literal["import", "warm", "cold"]
OperationState = Literal["running", "succeeded", "failed"]


class Operation(Model):
    """A job that outlives its request. Kept for the daemon's life, the oldest finished ones dropped."""

    id: str
    kind: OperationKind
    subject: str = Field(description="What it works on, for example a template reference")
    state: OperationState
    phase: str = Field(description="What it is doing now, in words")
    done_bytes: int = 0
    total_bytes: int | None = Field(default=None, description="None while unknown")
    started: float
    finished: float | None = None
    error: OperationError | None = None


class OperationList(Model):
    """Operations, newest first."""

    operations: tuple[Operation, ...]


class Removal(Model):
    """Answer to DELETE: whether there was something to remove."""

    name: str
    removed: bool


# --- templates


class UploadSource(Model):
    """The image comes as the body of ``PUT /templates/{name}/content``; ``TemplateCreate.size`` is required."""

    kind: Literal["upload"] = "upload"


class UrlSource(Model):
    """The appliance fetches the image from an http or https URL."""

    kind: Literal["url"] = "url"
    url: str


class PathSource(Model):
    """The image is a file on the appliance."""

    kind: Literal["path"] = "path"
    path: str


Source = Annotated[UploadSource | UrlSource | PathSource, Field(discriminator="kind")]


class TemplateCreate(Model):
    """A template to import. ``size`` is the image file's own size, required for uploads, else checked when given."""

    name: str
    format: ImageFormat
    source: Source
    size: int | None = Field(default=None, gt=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="Of the image file as it is sent")


class TemplateView(Model):
    """A template version."""

    ref: str = Field(description="NAME@VERSION")
    name: str
    version: int
    state: TemplateState
    size: int = Field(description="Virtual size: what a guest sees; 0 until known")
    mapped_bytes: int | None = Field(description="Space that it occupies in the pool; None while it is not active")
    format: ImageFormat = Field(description="Format of the source")
    source: str = Field(description="Where it came from, in words: 'upload', a URL or a path")
    sha256: str | None = Field(description="Of the source's bytes; None until imported")
    created: float
    clones: int = Field(description="How many clones depend on it")
    device: str


class TemplateList(Model):
    """Templates by name and version."""

    templates: tuple[TemplateView, ...]


# --- clones


class CloneCreate(Model):
    """Clones to make: NAME, or with ``count`` NAME-1 to NAME-COUNT: all of them or none."""

    name: str
    template: str = Field(description="NAME or NAME@VERSION")
    count: int | None = Field(default=None, ge=1, le=1000)
    client: str | None = Field(default=LOCAL_CLIENT, description="Who may attach it; None: nobody yet")


class CloneView(Model):
    """A clone, and how to reach it."""

    name: str
    template: str = Field(description="NAME@VERSION")
    kind: CloneKind
    state: CloneState
    size: int
    created: float
    client: str | None = Field(description="The client it is exported to; None: detached")
    uri: str | None = Field(description="NBD URI; None while detached")
    qemu: tuple[str, ...] = Field(description="QEMU command line words for this disk (-blockdev and -device)")
    device: str = Field(description="Its block device on the appliance; exists while it is attached")
    mapped_bytes: int | None = Field(description="Blocks mapped, those shared with the template included")
    written_bytes: int | None = Field(description="Written by its guest since the clone was activated")


class CloneList(Model):
    """Clones by name."""

    clones: tuple[CloneView, ...]


class Attachment(Model):
    """The client that a clone is exported to."""

    client: str


# --- clients

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


# --- status


class ProblemView(Model):
    """Something an operator should know."""

    severity: Health
    what: str
    hint: str = ""


class MemberView(Model):
    """A member of an array."""

    device: str
    state: str


class ArrayView(Model):
    """An md array: the backend, or the metadata mirror."""

    health: Health
    name: str
    level: str
    state: str
    size: int
    sync_action: str = Field(description="idle, resync, recover, check, ...")
    sync_percent: float | None = Field(description="None when nothing is being synchronised")
    members: tuple[MemberView, ...]


class CacheView(Model):
    """The cache over the backend."""

    health: Health
    attached: bool
    mode: str
    size: int
    settings_ok: bool = Field(description="Whether the settings of rule 1 were read back as set")
    bypassed_bytes: int = Field(description="Must not grow (rule 1)")
    available_percent: int | None = Field(description="Cache space without dirty data; None while not attached")


class PoolView(Model):
    """A thin pool: ``durable`` or ``fast``."""

    health: Health
    name: str
    mode: str
    data_used: int
    data_total: int
    metadata_used: int
    metadata_total: int
    block_bytes: int
    transaction_id: int


class StoreView(Model):
    """The kernel stack. A part that could not be read is None, and ``Status.problems`` says why.

    ``pool`` is the durable pool, ``fast`` the one of ephemeral clones: None also where there is none.
    """

    backend: ArrayView | None
    meta: ArrayView | None
    cache: CacheView | None
    pool: PoolView | None
    fast: PoolView | None = None


class Status(Model):
    """The appliance in one look. ``health`` is the worst of its parts."""

    version: str
    kernel: str
    health: Health
    problems: tuple[ProblemView, ...]
    store: StoreView
    clients: tuple[ClientView, ...]
    templates: int
    clones: int


# --- measurement


class DeviceCounters(Model):
    """Block statistics of one device since it appeared; exact at once. Compare two readings."""

    name: str = Field(description="Kernel name, for example nvme0n1p3 or dm-7")
    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    discards: int


class CacheCounters(Model):
    """What bcache counts (requests; a partial hit is a miss). Lags by some seconds."""

    hits: int
    misses: int
    bypass_hits: int
    bypass_misses: int
    bypassed_bytes: int


class Counters(Model):
    """All counters, read one right after the other. A device that is missing (a dead drive) is None."""

    taken: float = Field(description="Seconds of the monotonic clock")
    cache: DeviceCounters | None = Field(description="The cache's partition")
    cached: DeviceCounters = Field(description="bcache0: what the pool asks for")
    backend: DeviceCounters = Field(description="The backend's data partition: what the cache could not answer")
    meta: DeviceCounters | None = Field(description="The metadata mirror")
    disks: tuple[DeviceCounters, ...] = Field(description="The backend's disks")
    cache_stats: CacheCounters
    clones: dict[str, DeviceCounters] = Field(description="By clone name; those that are active")


class HistogramView(Model):
    """Latencies in power-of-two microseconds: ``counts[0]`` is 0 to 1, ``counts[i]`` is 2**i to 2**(i+1) - 1."""

    counts: tuple[int, ...]


class HistogramsStarted(Model):
    """Histograms run from now on."""

    started: float


class DiskHistogram(Model):
    """Latencies of one disk's requests."""

    role: Literal["cache", "backend", "other"]
    disk: str
    histogram: HistogramView


class CloneHistogram(Model):
    """Latencies of one clone's requests, reads and writes together, as its device saw them."""

    clone: str
    histogram: HistogramView


class Histograms(Model):
    """Latencies between start and stop."""

    seconds: float
    disks: tuple[DiskHistogram, ...]
    disks_missing: str = Field(default="", description="Why there are none per disk, in words; empty: there are")
    clones: tuple[CloneHistogram, ...]
