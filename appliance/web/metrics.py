"""The API's answers as Prometheus metrics. Pure.

Names follow https://prometheus.io/docs/practices/naming/: base units (bytes, seconds), ``_total`` for what only grows.
Counters are the kernel's own and begin anew when their device does, which ``rate()`` knows how to take.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric

from appliance import schema
from appliance.model import Health, Protocol
from appliance.web.shapes import Labels, Shape, counter, gauge, histograms, states
from appliance.web.template_metrics import boots, templates
from appliance.web.totals import Work

MOST_LATENCIES = 200
"""Attached clones whose latencies are read in one scrape. While there are more, they are read in turns, and told by
template and by client alone: each clone would have a series for every power of two."""


_SEVERITIES = (Health.DEGRADED, Health.FAILED)


@dataclass(frozen=True, slots=True)
class Answers:
    """What one scrape asked the API for. ``counters`` is None while the store cannot be read.

    ``latencies`` are those of attached clones, if these are not too many. ``by_template`` and ``by_client`` are what
    their clones have done together.
    """

    status: schema.Status
    counters: schema.Counters | None
    templates: tuple[schema.TemplateView, ...]
    clones: tuple[schema.CloneView, ...]
    latencies: tuple[schema.CloneHistogram, ...] = ()
    measurements: tuple[schema.MeasurementView, ...] = ()
    by_template: Mapping[str, Work] = field(default_factory=dict)
    by_client: Mapping[str, Work] = field(default_factory=dict)


def text(answers: Answers) -> bytes:
    """All metrics in Prometheus' text format 0.0.4."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found(tuple(families(answers))))
    return generate_latest(registry)


class _Found:
    """Families that were made already, in the shape that the library collects from."""

    def __init__(self, found: Iterable[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        return self._found


def families(answers: Answers) -> Iterator[Metric]:
    """Every metric there is."""
    status = answers.status
    yield InfoMetricFamily("hatchery", "The appliance", {"version": status.version, "kernel": status.kernel})
    yield states("hatchery_health", "The worst of all parts' health", (), [((), status.health)], Health)
    yield gauge(
        "hatchery_problems",
        "Problems that an operator should know of, by severity",
        ("severity",),
        (
            ((severity.value,), sum(1 for problem in status.problems if problem.severity is severity))
            for severity in _SEVERITIES
        ),
    )
    yield _alarms(status.problems)
    yield from _arrays(status.store)
    yield gauge(
        "hatchery_backup_timestamp_seconds",
        "When the last whole backup of metadata and catalog was made; absent before the first",
        (),
        [((), status.store.last_backup)],
    )
    yield from _cache(status.store.cache)
    yield from _pools(status.store)
    yield from _clients(status.clients)
    yield from _disks(status.disks)
    yield from templates(answers.templates)
    yield from boots(answers.measurements)
    yield from _given_back(status.given_back)
    yield from _clones(answers.clones)
    yield _latencies(answers.latencies)
    if answers.counters is not None:
        yield from _counters(answers.counters)
    yield from _together(("template",), answers.by_template)
    yield from _together(("client",), answers.by_client)


def _alarms(problems: Sequence[schema.ProblemView]) -> Metric:
    # Each part is there while all is well, too, so that what is asked of it has an answer.
    found = Counter({(part, "", severity.value): 0 for part in schema.PARTS for severity in _SEVERITIES})
    for each in problems:
        found[each.part, "" if each.rule is None else str(each.rule), each.severity.value] += 1
    return gauge(
        "hatchery_alarms",
        "Problems by what they are about, and by the rule of the data path that is broken; empty: none of them",
        ("part", "rule", "severity"),
        found.items(),
    )


def _arrays(store: schema.StoreView) -> Iterator[Metric]:
    arrays = [array for array in (store.backend, store.meta) if array is not None]
    yield states(
        "hatchery_array_health", "Health of an md array", ("array",), [((a.name,), a.health) for a in arrays], Health
    )
    yield gauge(
        "hatchery_array_size_bytes", "Usable size of an array", ("array",), (((a.name,), a.size) for a in arrays)
    )
    yield gauge(
        "hatchery_array_members", "Devices of an array", ("array",), (((a.name,), len(a.members)) for a in arrays)
    )
    yield gauge(
        "hatchery_array_members_in_sync",
        "Devices of an array that have all data",
        ("array",),
        (((a.name,), sum("in-sync" in member.state for member in a.members)) for a in arrays),
    )
    yield gauge(
        "hatchery_array_members_missing",
        "Devices that an array lacks, or that do not have all data yet: more than 0 means less redundancy",
        ("array",),
        (((a.name,), a.missing) for a in arrays),
    )
    yield gauge(
        "hatchery_array_sync_ratio",
        "How far a resync, rebuild, check or reshape is, 0 to 1; absent when there is none",
        ("array", "action"),
        (((a.name, a.sync_action), None if a.sync_percent is None else a.sync_percent / 100) for a in arrays),
    )


def _cache(cache: schema.CacheView | None) -> Iterator[Metric]:
    known = [cache] if cache is not None else []
    yield gauge(
        "hatchery_cache_attached",
        "1 while the cache is in use, 0 while everything comes from the backend",
        (),
        (((), int(c.attached)) for c in known),
    )
    yield gauge(
        "hatchery_cache_settings_ok",
        "1 while the cache's settings read back as they must be",
        (),
        (((), int(c.settings_ok)) for c in known),
    )
    yield gauge("hatchery_cache_size_bytes", "Size of the cache", (), (((), c.size) for c in known))
    yield gauge(
        "hatchery_cache_available_ratio",
        "Share of the cache without dirty data, 0 to 1",
        (),
        (((), None if c.available_percent is None else c.available_percent / 100) for c in known),
    )
    yield counter(
        "hatchery_cache_bypassed_bytes",
        "Bytes that went past the cache; must not grow",
        (),
        (((), c.bypassed_bytes) for c in known),
    )


def _pools(store: schema.StoreView) -> Iterator[Metric]:
    pools = [pool for pool in (store.pool, store.fast) if pool is not None]
    yield states(
        "hatchery_pool_health", "Health of a thin pool", ("pool",), [((p.name,), p.health) for p in pools], Health
    )
    for name, help_, values in (
        ("data_size", "Space for data in a thin pool", [pool.data_total for pool in pools]),
        ("data_used", "Space that data takes in a thin pool", [pool.data_used for pool in pools]),
        ("metadata_size", "Space for metadata in a thin pool", [pool.metadata_total for pool in pools]),
        ("metadata_used", "Space that metadata takes in a thin pool", [pool.metadata_used for pool in pools]),
        ("reserve", "Space held back from a thin pool until it is released", [pool.reserve_bytes for pool in pools]),
    ):
        rows = (((pool.name,), value) for pool, value in zip(pools, values, strict=True))
        yield gauge(f"hatchery_pool_{name}_bytes", help_, ("pool",), rows)


def _given_back(found: schema.GivenBack) -> Iterator[Metric]:
    yield counter("hatchery_gc_volumes", "Volumes that were given back", (), [((), found.volumes)])
    yield counter(
        "hatchery_gc_volume_bytes",
        "Bytes that these volumes mapped; of that, what other volumes share stays in use",
        (),
        [((), found.bytes)],
    )
    yield counter("hatchery_gc_leases", "Clones that were removed because their lease ended", (), [((), found.leases)])
    yield gauge("hatchery_gc_waiting_volumes", "Volumes that are to be given back", (), [((), found.waiting)])


def _clients(clients: Sequence[schema.ClientView]) -> Iterator[Metric]:
    yield states(
        "hatchery_client_health",
        "Health of a client's storage daemon",
        ("client",),
        [((c.name,), c.state) for c in clients],
        Health,
    )
    yield gauge(
        "hatchery_client_clones",
        "Clones attached to a client",
        ("client",),
        (((c.name,), len(c.clones)) for c in clients),
    )
    yield gauge(
        "hatchery_client_connections",
        "Open connections of a client; absent when it cannot be told",
        ("client", "protocol"),
        (row for c in clients for row in _connections(c)),
    )
    yield gauge(
        "hatchery_client_certificate_expiry_timestamp_seconds",
        "When the last of a client's certificates ends that was not revoked; absent without one",
        ("client",),
        (((c.name,), _last_end(c)) for c in clients),
    )


def _connections(client: schema.ClientView) -> Iterator[tuple[tuple[str, str], int | None]]:
    yield (client.name, Protocol.NBD), None if client.connections is None else len(client.connections)
    if client.nvme is not None:
        found = client.nvme.connections
        yield (client.name, Protocol.NVME_TCP), None if found is None else len(found)


def _last_end(client: schema.ClientView) -> float | None:
    return max((each.expires for each in client.certificates if each.revoked is None), default=None)


def _disks(disks: Sequence[schema.DiskHistogram]) -> Iterator[Metric]:
    yield histograms(
        "hatchery_disk_latency_seconds",
        "Latency of a disk's requests since the service began; each counts as the mean of its few seconds",
        ("disk", "role"),
        (((each.disk, each.role), each.histogram) for each in disks),
    )


def _latencies(clones: Sequence[schema.CloneHistogram]) -> Metric:
    return histograms(
        "hatchery_clone_latency_seconds",
        f"Latency of a clone's requests since it was attached; while more than {MOST_LATENCIES} clones are, only by"
        " template and by client",
        ("clone",),
        (((each.clone,), each.histogram) for each in clones),
        Shape.OPEN,
    )


def _clones(clones: Sequence[schema.CloneView]) -> Iterator[Metric]:
    kinds: dict[tuple[str, str, str], int] = {}
    for clone in clones:
        key = (clone.template, clone.kind.value, clone.state.value)
        kinds[key] = kinds.get(key, 0) + 1
    yield gauge(
        "hatchery_clones", "Clones", ("template", "kind", "state"), ((key, count) for key, count in kinds.items())
    )
    info = InfoMetricFamily("hatchery_clone", "A clone, where it comes from and whose it is", labels=("clone",))
    for clone in clones:
        about = {"template": clone.template, "kind": clone.kind.value, "client": clone.client or ""}
        info.add_metric((clone.name,), about)
    yield info
    yield gauge(
        "hatchery_clone_mapped_bytes",
        "Space that a clone refers to in its pool, what it shares with its template included; absent while detached",
        ("clone",),
        (((c.name,), c.mapped_bytes) for c in clones),
    )


def _counters(counters: schema.Counters) -> Iterator[Metric]:
    stats = counters.cache_stats
    yield counter(
        "hatchery_cache_requests",
        "Requests as bcache counts them (a partial hit is a miss); lags by some seconds",
        ("result",),
        [
            (("hit",), stats.hits),
            (("miss",), stats.misses),
            (("bypass_hit",), stats.bypass_hits),
            (("bypass_miss",), stats.bypass_misses),
        ],
    )
    devices = [("cached", counters.cached), ("backend", counters.backend)]
    some = (("cache", counters.cache), ("meta", counters.meta), ("fast", counters.fast))
    devices += [(role, one) for role, one in some if one is not None]
    devices += [("disk", disk) for disk in counters.disks]
    yield from _io(
        "hatchery_device", "a device of the store", ("role", "device"), [((r, d.name), d) for r, d in devices]
    )
    pools = (("durable", counters.cached), ("fast", counters.fast))
    yield from _io("hatchery_pool", "a pool's data", ("pool",), [((p,), d) for p, d in pools if d is not None])
    clones = [((name,), device) for name, device in sorted(counters.clones.items())]
    yield from _io("hatchery_clone", "a clone that is attached", ("clone",), clones)


def _together(label: Labels, found: Mapping[str, Work]) -> Iterator[Metric]:
    [kind] = label
    rows = [((name,), work) for name, work in sorted(found.items())]
    yield from _io(f"hatchery_{kind}", f"a {kind}'s clones", label, rows, ", as seen since hatchery-status began")
    yield histograms(
        f"hatchery_{kind}_latency_seconds",
        f"Latency of requests of a {kind}'s clones; while more than {MOST_LATENCIES} are attached, these are looked at"
        " in turns, so many a scrape",
        label,
        ((key, schema.HistogramView(counts=w.latencies.counts, seconds=w.latencies.seconds)) for key, w in rows),
        Shape.OPEN,
    )


def _io(
    prefix: str,
    of: str,
    labels: Labels,
    found: Sequence[tuple[Labels, schema.DeviceCounters | Work]],
    remark: str = "",
) -> Iterator[Metric]:
    def each(name: str, text: str, value: Callable[[schema.DeviceCounters | Work], int]) -> Metric:
        return counter(f"{prefix}_{name}", text + remark, labels, ((key, value(one)) for key, one in found))

    yield each("reads", f"Reads that {of} finished", lambda one: one.reads)
    yield each("read_bytes", f"Bytes read from {of}", lambda one: one.read_bytes)
    yield each("writes", f"Writes that {of} finished", lambda one: one.writes)
    yield each("written_bytes", f"Bytes written to {of}", lambda one: one.write_bytes)
    yield each("discards", f"Discards that {of} finished", lambda one: one.discards)
