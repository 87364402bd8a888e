"""What an appliance that has one of everything tells Prometheus in some hours: all is well, or something is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from appliance import schema
from appliance.model import CloneKind, CloneState, Health, Histogram
from appliance.web import metrics
from appliance.web.totals import Work

HOURS = 8
"""Longer than what any alert looks back."""

Told = Callable[[int], metrics.Answers]
"""What a scrape asked for, so many minutes after the first."""


def device(name: str, counted: int) -> schema.DeviceCounters:
    return schema.DeviceCounters(
        name=name, reads=counted, read_bytes=counted, writes=counted, write_bytes=counted, discards=counted
    )


def healthy(minutes: int) -> metrics.Answers:
    """One of everything, all well: what is counted grows by one a minute, and a backup was just made."""
    array = schema.ArrayView(
        health=Health.OK, name="backend", level="raid5", state="clean", size=1, sync_action="check", sync_percent=1,
        members=(schema.MemberView(device="sda", state="in-sync"),),
    )  # fmt: skip
    cache = schema.CacheView(
        health=Health.OK, attached=True, mode="writethrough", size=1, settings_ok=True, bypassed_bytes=0,
        available_percent=99,
    )  # fmt: skip
    pool = schema.PoolView(
        health=Health.OK, name="durable", mode="rw", data_used=50, data_total=100, metadata_used=50,
        metadata_total=100, block_bytes=65536, transaction_id=1,
    )  # fmt: skip
    store = schema.StoreView(backend=array, meta=array, cache=cache, pool=pool, last_backup=60.0 * minutes)
    client = schema.ClientView(
        name="local", transport="unix", address=None, port=None, plain=False, state=Health.OK, detail="", uri="",
        clones=(), connections=(),
        certificates=(schema.CertificateView(serial="1", name="local-1", issued=0, expires=1e9, revoked=None),),
    )  # fmt: skip
    latencies = schema.HistogramView(counts=(0, minutes), seconds=minutes / 1000)
    status = schema.Status(
        version="1", kernel="6", health=Health.OK, problems=(), store=store, clients=(client,), templates=1, clones=1,
        disks=(
            schema.DiskHistogram(role="backend", disk="sda", histogram=latencies),
            schema.DiskHistogram(role="cache", disk="nvme0n1", histogram=latencies),
        ),
    )  # fmt: skip
    boot_set = schema.BootSetSummary(total_bytes=2, extents=1, runs=1, guessed=False, changed=1, wasted_bytes=1)
    prefetch = schema.PrefetchView(state="warm", why="", total_bytes=1, began=1)
    template = schema.TemplateView.model_construct(
        ref="debian@1", size=1, mapped_bytes=1, clones=1, boot_set=boot_set, prefetch=prefetch
    )
    clone = schema.CloneView.model_construct(
        name="web", template="debian@1", kind=CloneKind.DURABLE, state=CloneState.READY, client="local", mapped_bytes=1
    )
    stats = schema.CacheCounters(hits=minutes, misses=minutes, bypass_hits=0, bypass_misses=0, bypassed_bytes=0)
    counters = schema.Counters(
        taken=minutes, cache=device("nvme0n1p2", minutes), cached=device("bcache0", minutes),
        backend=device("md127", minutes), meta=device("md126", minutes), fast=device("dm-3", minutes),
        disks=(device("sda", minutes),), cache_stats=stats, clones={"web": device("dm-1", minutes)},
    )  # fmt: skip
    times = schema.BootTimes(
        phase="cold", boots=1, seconds_least=1, seconds_median=1, seconds_most=1, io_seconds=1, read_bytes=1,
        backend_bytes=1, hit_ratio=1,
    )  # fmt: skip
    measured = schema.MeasurementView(template="debian@1", taken=1, on="hv1", phases=(times,))
    work = Work(minutes, minutes, minutes, minutes, minutes, Histogram((0, minutes, 0), minutes / 1000))
    return metrics.Answers(
        status, counters, (template,), (clone,), (schema.CloneHistogram(clone="web", histogram=latencies),),
        (measured,), {"debian@1": work}, {"local": work},
    )  # fmt: skip


def series(told: Told, scrape: Mapping[str, str]) -> dict[str, str]:
    """Each series of a scrape and its values from minute to minute, as promtool reads them (``A+BxN``).

    What differs between the first scrape and the last changes evenly between them.
    """
    length = 60 * HOURS
    first, last = _samples(told(0)), _samples(told(length))
    found = {"up" + _labels(scrape): f"1x{length}"}
    for (name, labels), value in last.items():
        step = (value - first.get((name, labels), 0.0)) / length
        start = value - step * length
        found[name + _labels({**dict(labels), **scrape})] = f"{start:.9f}{step:+.9f}x{length}"
    return found


def _samples(answers: metrics.Answers) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sample.labels.items())): float(sample.value)
        for family in metrics.families(answers)
        for sample in family.samples
    }


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def broken() -> dict[str, Told]:
    """For each alert but that for silence, an appliance that it is for."""
    return {
        "HatcheryFailed": _with(lambda status, _: status.model_copy(update={"health": Health.FAILED})),
        "HatcheryDegraded": _with(lambda status, _: status.model_copy(update={"health": Health.DEGRADED})),
        "HatcheryPoolFillsUp": _store("pool", lambda _: {"data_used": 76}),
        "HatcheryPoolNearlyFull": _store("pool", lambda _: {"data_used": 86}),
        "HatcheryPoolFullWithinADay": _store("pool", lambda minutes: {"data_used": 50 + minutes // 30}),
        "HatcheryPoolMetadataFillsUp": _store("pool", lambda _: {"metadata_used": 76}),
        "HatcheryPoolMetadataNearlyFull": _store("pool", lambda _: {"metadata_used": 86}),
        "HatcheryPoolBroken": _store("pool", lambda _: {"health": Health.FAILED}),
        "HatcheryRedundancyLost": _store("meta", lambda _: {"missing": 1}),
        "HatcheryCacheDetached": _store("cache", lambda _: {"attached": False}),
        "HatcheryBackupTooOld": _with(
            lambda status, _: status.model_copy(update={"store": status.store.model_copy(update={"last_backup": 1.0})})
        ),
        "HatcheryCacheBypassed": _store("cache", lambda minutes: {"bypassed_bytes": 4096 * minutes}),
        "HatcheryCacheSettingsWrong": _store("cache", lambda _: {"settings_ok": False}),
        "HatcheryClientFailed": _with(
            lambda status, _: status.model_copy(
                update={"clients": tuple(c.model_copy(update={"state": Health.FAILED}) for c in status.clients)}
            )
        ),
        "HatcheryClonesLost": lambda minutes: _replaced(
            healthy(minutes),
            clones=tuple(c.model_copy(update={"state": CloneState.LOST}) for c in healthy(minutes).clones),
        ),
        "HatcheryPrefetchIncomplete": lambda minutes: _replaced(
            healthy(minutes), templates=tuple(_incomplete(each) for each in healthy(minutes).templates)
        ),
    }


def _incomplete(template: schema.TemplateView) -> schema.TemplateView:
    assert template.prefetch is not None
    return template.model_copy(update={"prefetch": template.prefetch.model_copy(update={"state": "incomplete"})})


def _with(change: Callable[[schema.Status, int], schema.Status]) -> Told:
    return lambda minutes: _replaced(healthy(minutes), status=change(healthy(minutes).status, minutes))


def _store(part: str, change: Callable[[int], Mapping[str, object]]) -> Told:
    """One part of the store is another one."""

    def changed(status: schema.Status, minutes: int) -> schema.Status:
        now = getattr(status.store, part).model_copy(update=change(minutes))
        return status.model_copy(update={"store": status.store.model_copy(update={part: now})})

    return _with(changed)


def _replaced(answers: metrics.Answers, **values: object) -> metrics.Answers:
    return replace(answers, **values)  # type: ignore[arg-type]  # the names are those of its fields
