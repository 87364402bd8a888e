"""Lists of all metrics and of all settings, from what the code says of them."""

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from enum import Enum
from typing import get_type_hints

from prometheus_client.metrics_core import Metric

from appliance import schema
from appliance.config import BackendConfig, NvmeConfig, Part, StoreConfig
from appliance.model import CloneKind, CloneState, Health
from appliance.web import metrics

_MADE = "<!-- Made by script/reference from the code; do not edit. -->\n"


def metrics_page() -> str:
    """docs/metrics.md."""
    rows = [
        f"| `{_exposed(each)}` | {_type(each)} | {_labels(each)} | {each.documentation} |"
        for each in sorted(metrics.families(_answers()), key=lambda each: each.name)
    ]
    return "\n".join(
        [
            "# Metrics",
            "",
            _MADE,
            "What `/metrics` on port 9750 has: [monitoring.md](monitoring.md) says how to use it. A histogram has",
            "`_bucket`, with the label `le`, `_sum` and `_count`. Sizes are bytes, times are seconds. Of a state there",
            "is a series for each word that it may be, 1 for the present one.",
            "",
            "| name | type | labels | meaning |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def _answers() -> metrics.Answers:
    """As little as makes every family, with one clone, whose labels are known by it alone."""
    store = schema.StoreView(backend=None, meta=None, cache=None, pool=None)
    status = schema.Status(
        version="", kernel="", health=Health.OK, problems=(), store=store, clients=(), templates=0, clones=0
    )
    nothing = schema.DeviceCounters(name="", reads=0, read_bytes=0, writes=0, write_bytes=0, discards=0)
    stats = schema.CacheCounters(hits=0, misses=0, bypass_hits=0, bypass_misses=0, bypassed_bytes=0)
    counters = schema.Counters(
        taken=0, cache=None, cached=nothing, backend=nothing, meta=None, disks=(), cache_stats=stats, clones={}
    )
    clone = schema.CloneView.model_construct(
        name="", template="", kind=CloneKind.DURABLE, state=CloneState.READY,
        client=None, mapped_bytes=None,
    )  # fmt: skip
    return metrics.Answers(status, counters, (), (clone,))


def _exposed(family: Metric) -> str:
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


def _type(family: Metric) -> str:
    """As the text format calls it."""
    return {"info": "gauge", "stateset": "gauge"}.get(family.type, family.type)


def _labels(family: Metric) -> str:
    names = list(getattr(family, "_labelnames", ()))
    if family.type == "info":
        names += [name for name in family.samples[0].labels if name not in names]
    if family.type == "stateset":
        names.append(family.name)
    return ", ".join(f"`{name}`" for name in names)


def settings_page() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        _MADE,
        "What is in `/etc/hatchery/conf.d`, a file for each part of the store. The roles write it, by",
        "`hatchery-store setup`: change it through their variables. A setting that is not listed is refused.",
    ]
    for part, role, section in (
        (Part.NVME, "nvme_cache", NvmeConfig),
        (Part.BACKEND, "backend_raid", BackendConfig),
        (Part.STORE, "clone_store", StoreConfig),
    ):
        lines += ["", f"## [{part}] in {part.file_name}", "", f"Role `{role}`.", ""]
        lines += ["| setting | type | default | meaning |", "| --- | --- | --- | --- |", *_rows(section)]
    return "\n".join([*lines, ""])


def _rows(section: type[NvmeConfig | BackendConfig | StoreConfig]) -> Iterator[str]:
    kinds = get_type_hints(section)
    for each in fields(section):
        yield f"| `{each.name}` | {_kind(kinds[each.name])} | {_default(each)} | {each.metadata['help']} |"


def _kind(kind: object) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{each.value}`" for each in kind)
    return "whole number" if kind is int else "list of paths"


def _default(found: Field[object]) -> str:
    return "none: it must be given" if found.default is MISSING else f"`{found.default}`"
