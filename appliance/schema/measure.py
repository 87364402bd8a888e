"""Counters and histograms."""

from typing import Literal

from pydantic import Field

from appliance.schema.base import Model


class DeviceCounters(Model):
    """Block statistics of one device since it appeared; exact at once. Compare two readings."""

    name: str = Field(description="Kernel name, for example nvme0n1p3 or dm-7")
    reads: int
    read_bytes: int
    writes: int
    write_bytes: int
    discards: int
    busy_millis: int = Field(
        default=0,
        description="Milliseconds in which a request was under way, in 32 bits; several devices' are added up."
        " 0 also from an appliance that does not count them",
    )


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
    fast: DeviceCounters | None = Field(
        default=None, description="What the fast pool keeps its data on; None where there is no such pool"
    )
    disks: tuple[DeviceCounters, ...] = Field(description="The backend's disks")
    cache_stats: CacheCounters
    clones: dict[str, DeviceCounters] = Field(description="By clone name; those that are active")


class HistogramView(Model):
    """Latencies in power-of-two microseconds: ``counts[0]`` is 0 to 1, ``counts[i]`` is 2**i to 2**(i+1) - 1."""

    counts: tuple[int, ...]
    seconds: float | None = Field(
        default=None, description="The time that all of them took together; None where nobody adds it up"
    )


class HistogramsRequest(Model):
    """Who wants histograms, and for how long at most: who is killed cannot stop them."""

    owner: str = Field(default="", max_length=200, description="In words; shown to who finds them running")
    seconds: float = Field(default=3600.0, gt=0, le=86400, description="After so long they end by themselves")


class HistogramsStarted(Model):
    """Histograms run."""

    started: float
    ends: float = Field(description="When they end by themselves")
    owner: str = ""


class DiskHistogram(Model):
    """Latencies of one disk's requests."""

    role: Literal["cache", "backend", "other"]
    disk: str
    histogram: HistogramView


class CloneHistogram(Model):
    """Latencies of one clone's requests, reads and writes together, as its device saw them."""

    clone: str
    histogram: HistogramView


class CloneLatencies(Model):
    """Latencies of clones that are attached, each since it was; what took 16.8 s or more is in the last bucket."""

    clones: tuple[CloneHistogram, ...] = Field(description="By name; without those that cannot be read")
    next: str | None = Field(default=None, description="After whom to go on; None: these were the last")


class Histograms(Model):
    """Latencies between start and stop."""

    seconds: float
    disks: tuple[DiskHistogram, ...]
    disks_missing: str = Field(
        default="", description="Why the disks' requests were not traced, in words: `disks` is coarse then; empty: were"
    )
    clones: tuple[CloneHistogram, ...]
