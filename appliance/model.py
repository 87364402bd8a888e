"""The words of the project as small frozen values: names, references, extents and states."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from appliance.errors import InvalidInput

SECTOR = 512
"""Bytes in a sector, the unit of device-mapper tables and block statistics whatever the disk's own size is."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

MAX_THIN_ID = (1 << 24) - 1
"""Largest device id in a thin pool (Documentation/admin-guide/device-mapper/thin-provisioning.rst)."""

MAX_CONNECTIONS = 1000
"""How many NBD connections a client may have open at a time, unless something else is said."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


class TemplateState(StrEnum):
    """Life of a template version. FETCHING: it is cloned already, while its rest comes from another server."""

    IMPORTING = "importing"
    FETCHING = "fetching"
    READY = "ready"

    @property
    def usable(self) -> bool:
        """Whether clones are made of it."""
        return self is not TemplateState.IMPORTING


class CloneState(StrEnum):
    """Life of a clone. LOST is never recorded: it is what a clone is whose volume is gone with its drive."""

    CREATING = "creating"
    READY = "ready"
    LOST = "lost"


class PoolName(StrEnum):
    """The pools: data on the cached backend, or on NVMe alone."""

    DURABLE = "durable"
    FAST = "fast"


class CloneKind(StrEnum):
    """Where a clone's writes live: on the RAID, or on the NVMe drive alone."""

    DURABLE = "durable"
    EPHEMERAL = "ephemeral"

    @property
    def pool(self) -> PoolName:
        """The pool that such a clone's volume is in."""
        return PoolName.FAST if self is CloneKind.EPHEMERAL else PoolName.DURABLE


class Protocol(StrEnum):
    """How an attached clone is offered: by its client's storage daemon, or by the kernel's NVMe target."""

    NBD = "nbd"
    NVME_TCP = "nvme-tcp"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a clone may do in a second, reads and writes together: requests, and bytes. None is no limit."""

    iops: int | None = None
    bandwidth: int | None = None

    def __str__(self) -> str:
        each = ((self.iops, "requests"), (self.bandwidth, "bytes"))
        return " and ".join(f"{most} {what}" for most, what in each if most is not None) or "any number of requests"


NO_LIMITS = Limits()
"""What a clone has unless something else is said."""


class ImageFormat(StrEnum):
    """Formats of template images. Stated by the caller, never probed."""

    RAW = "raw"
    QCOW2 = "qcow2"


class Compression(StrEnum):
    """How a template's image is packed; the values are what files' names end in.

    What is in it is never told so: an image's format is stated by the caller.
    """

    GZIP = "gz"
    XZ = "xz"
    ZSTD = "zst"


class Access(StrEnum):
    """How a volume is activated."""

    READ_ONLY = "read-only"
    READ_WRITE = "read-write"


class Health(StrEnum):
    """Health of one part of the store, worst last."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an operator should know: how bad, what it is, what to do; which rule of the data path it concerns."""

    severity: Health
    what: str
    hint: str = ""
    rule: int | None = None
    part: str = ""
    """What it is about, in one word: see ``schema.PARTS``."""


def check_name(name: str, kind: str = "name") -> str:
    """Return ``name`` if it may name a template, clone or client, else raise InvalidInput.

    1 to 63 characters of a-z, 0-9, dot, underscore and hyphen, beginning and ending with a letter or digit: safe in
    a path, in a URI, in a unit's instance name and on a command line.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is not a valid {kind}",
            why="it must have 1 to 63 characters of a-z, 0-9, '.', '_' and '-', a letter or digit at both ends",
            hint="choose another name",
        )
    return name


@dataclass(frozen=True, slots=True)
class TemplateRef:
    """A template version (``debian-13@3``) or, without a version, the newest ready one (``debian-13``)."""

    name: str
    version: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME`` or ``NAME@VERSION``. Raises InvalidInput."""
        name, at, version = text.partition("@")
        check_name(name, "template name")
        if not at:
            return cls(name)
        if not version.isascii() or not version.isdigit() or version.startswith("0"):
            raise InvalidInput(
                f"{text!r} is not a template reference",
                why="the version after '@' is a whole number from 1",
                hint="write NAME or NAME@VERSION, for example debian-13@3",
            )
        return cls(name, int(version))

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A run of bytes on a volume: where it begins and how long it is."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.offset + self.length


def joined(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """The same bytes, each once, in as few extents as there can be, ascending."""
    found: list[Extent] = []
    for extent in sorted(extents):
        if found and extent.offset <= found[-1].end:
            last = found.pop()
            extent = Extent(last.offset, max(last.end, extent.end) - last.offset)
        found.append(extent)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Latencies in power-of-two microseconds: ``counts[0]`` is 0 to 1, ``counts[i]`` is 2**i to 2**(i+1) - 1.

    Trailing zeros carry no meaning. ``seconds`` is the time that all of them took together; None where nobody adds it
    up.
    """

    counts: tuple[int, ...] = ()
    seconds: float | None = None

    def __sub__(self, earlier: "Histogram") -> "Histogram":
        """What was counted since ``earlier``. A counter that was reset meanwhile counts from zero."""
        width = max(len(self.counts), len(earlier.counts))
        now = self.counts + (0,) * (width - len(self.counts))
        then = earlier.counts + (0,) * (width - len(earlier.counts))
        if any(a < b for a, b in zip(now, then, strict=True)):
            return self
        took = self._took(), earlier._took()
        # Two sums that were rounded must not come out as less than nothing.
        seconds = None if took[0] is None or took[1] is None else max(0.0, took[0] - took[1])
        return Histogram(tuple(a - b for a, b in zip(now, then, strict=True)), seconds)

    def __add__(self, other: "Histogram") -> "Histogram":
        """Both together."""
        width = max(len(self.counts), len(other.counts))
        mine = self.counts + (0,) * (width - len(self.counts))
        theirs = other.counts + (0,) * (width - len(other.counts))
        took = self._took(), other._took()
        seconds = None if took[0] is None or took[1] is None else took[0] + took[1]
        return Histogram(tuple(a + b for a, b in zip(mine, theirs, strict=True)), seconds)

    def _took(self) -> float | None:
        """Nothing takes no time, whoever counted it."""
        return self.seconds if self.seconds is not None or self.total else 0.0

    @property
    def total(self) -> int:
        """How many requests were counted."""
        return sum(self.counts)

    def bound(self, share: float) -> int | None:
        """Microseconds within which that share of all (0 to 1) was done: an upper bound; None of none."""
        reached = 0
        for slot, count in enumerate(self.counts):
            reached += count
            if count and reached >= share * self.total:
                return 1 << (slot + 1)
        return None
