"""Clones."""

from pydantic import Field

from appliance.model import KIB, MIB, CloneKind, CloneState, Limits, Protocol
from appliance.schema.base import LOCAL_CLIENT, Model, Revealed
from appliance.schema.measure import HistogramView

LEAST_IOPS, MOST_IOPS = 10, 10_000_000
LEAST_BANDWIDTH, MOST_BANDWIDTH = MIB, KIB * KIB * MIB
"""What a limit may be. With less, a request may take so long that a guest takes its disk for dead."""


SHARED_SECONDS, MOST_SHARED_SECONDS = 3600.0, 86400.0
"""How long two clients may write to a clone, unless something else is said; and at most."""


class CloneLimits(Model):
    """What a clone may do in a second, reads and writes together. None: no limit."""

    iops: int | None = Field(default=None, ge=LEAST_IOPS, le=MOST_IOPS, description="Requests")
    bandwidth: int | None = Field(
        default=None, ge=LEAST_BANDWIDTH, le=MOST_BANDWIDTH, description="Bytes; of a TRIM, those that it is about"
    )

    def value(self) -> Limits:
        """As the other parts know it."""
        return Limits(self.iops, self.bandwidth)


class SeedSpec(Model):
    """What the guest of a clone is told by cloud-init when it first boots."""

    hostname: str | None = Field(
        default=None, description="None: the clone's name; of many clones, numbered as they are: NAME-1 to NAME-COUNT"
    )
    ssh_keys: tuple[str, ...] = Field(default=(), description="Lines as in authorized_keys")
    user_data: Revealed | None = Field(
        default=None,
        description="Begins with #cloud-config, with #! or as MIME; at most 64 KiB. None: made of the others. It is not"
        " shown again",
    )


class SeedView(Model):
    """A clone's seed, without the user data, which may be secret."""

    instance: str = Field(description="cloud-init's instance-id: another one for each seed")
    hostname: str
    ssh_keys: tuple[str, ...]
    user_data_bytes: int | None = Field(description="None: there is none but what is made of the others")
    uri: str | None = Field(description="NBD URI, read-only; None while the clone is detached")


class CloneCreate(Model):
    """Clones to make: NAME, or with ``count`` NAME-1 to NAME-COUNT: all of them or none."""

    name: str
    template: str = Field(description="NAME or NAME@VERSION")
    count: int | None = Field(default=None, ge=1, le=1000)
    client: str | None = Field(default=LOCAL_CLIENT, description="Who may attach it; None: nobody yet")
    kind: CloneKind = Field(
        default=CloneKind.DURABLE, description="ephemeral: fast, and gone with the NVMe drive that it is on"
    )
    expires_in: float | None = Field(default=None, gt=0, description="Seconds until it is removed; None: never")
    limits: CloneLimits = Field(default=CloneLimits(), description="Of each of them")
    seed: SeedSpec | None = Field(default=None, description="For cloud-init, of each of them; None: no seed")
    learn: bool = Field(
        default=True, description="Whether its boot may teach the template's boot set; false for what is no boot of it"
    )


class SharedView(Model):
    """The second client of a clone whose guest migrates, and how it is reached from there."""

    client: str
    until: float = Field(description="When a client that is not connected loses the clone")
    uri: str
    qemu: tuple[str, ...] = Field(description="QEMU command line words, as for the first client")
    libvirt: str = Field(description="The disk's XML for libvirt, as for the first client")


class NvmeView(Model):
    """How a client's host connects to a clone."""

    nqn: str = Field(description="The clone's subsystem; another one after a reset")
    address: str
    port: int
    host_nqn: str
    connect: tuple[str, ...] = Field(description="nvme-cli's words, without the key")
    device: str = Field(description="Where the disk is on that host once it is connected")


class CloneView(Model):
    """A clone, and how to reach it."""

    name: str
    template: str = Field(description="NAME@VERSION")
    kind: CloneKind
    state: CloneState = Field(description="lost: its NVMe drive is gone; it can be reset or removed")
    size: int
    created: float
    expires: float | None = Field(description="When it is removed, whoever uses it then; None: never")
    client: str | None = Field(description="The client it is exported to; None: detached")
    protocol: Protocol = Field(default=Protocol.NBD, description="How it is exported")
    uri: str | None = Field(description="NBD URI; None while detached, and over NVMe/TCP")
    qemu: tuple[str, ...] = Field(
        description="QEMU command line words for this disk and its seed (-blockdev and -device, with TLS -object)"
    )
    libvirt: str | None = Field(
        default=None, description="The disk's XML for libvirt, and after it its seed's; None while detached"
    )
    nvme: NvmeView | None = Field(default=None, description="None while detached, and over NBD")
    seed: SeedView | None = None
    shared: SharedView | None = Field(default=None, description="A second writer, for a time; None: there is none")
    device: str = Field(description="Its block device on the appliance; exists while it is attached")
    mapped_bytes: int | None = Field(description="Blocks mapped, those shared with the template included")
    written_bytes: int | None = Field(description="Written by its guest since the clone was activated")
    limits: CloneLimits = CloneLimits()
    latencies: HistogramView | None = Field(
        default=None,
        description="Of its requests since it was attached; None while detached, and where many clones are listed",
    )


class CloneList(Model):
    """Clones by name."""

    clones: tuple[CloneView, ...]


class Attachment(Model):
    """The client that a clone is exported to, or a second one for as long as its guest migrates."""

    client: str
    protocol: Protocol = Field(
        default=Protocol.NBD, description="nvme-tcp: by the kernel's NVMe target, to the client's host; without limits"
    )
    shared: bool = Field(default=False, description="Another client has it, and goes on writing meanwhile")
    seconds: float = Field(
        default=SHARED_SECONDS, gt=0, le=MOST_SHARED_SECONDS, description="How long that is declared for, if shared"
    )


class Move(Model):
    """Clones that are given to another client: all of them or none."""

    clones: tuple[str, ...] = Field(min_length=1, max_length=1000)
    client: str


class Resize(Model):
    """A clone's new size in bytes, not smaller than the one that it has."""

    size: int = Field(gt=0)


class Lease(Model):
    """How long a clone stays from now on."""

    seconds: float | None = Field(gt=0, description="None: for ever")


class Promotion(Model):
    """A clone that becomes a template version."""

    template: str | None = Field(default=None, description="The template's name; None: that of the clone's own one")
