"""What is told of templates: their boot sets, prefetches, and boots that were measured. Pure."""

from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client.core import StateSetMetricFamily
from prometheus_client.metrics_core import Metric

from appliance import schema
from appliance.web.shapes import gauge

PREFETCH_STATES = get_args(schema.PrefetchView.model_fields["state"].annotation)


def templates(found: Sequence[schema.TemplateView]) -> Iterator[Metric]:
    """Each template, its boot set and its last prefetch."""
    label = ("template",)
    yield gauge("hatchery_templates", "Template versions", (), [((), len(found))])
    yield gauge("hatchery_template_size_bytes", "Size that a guest sees", label, (((t.ref,), t.size) for t in found))
    yield gauge(
        "hatchery_template_mapped_bytes",
        "Space that a template takes in the pool",
        label,
        (((t.ref,), t.mapped_bytes) for t in found),
    )
    yield gauge(
        "hatchery_template_clones", "Clones that depend on a template", label, (((t.ref,), t.clones) for t in found)
    )
    sets = [(t.ref, t.boot_set) for t in found if t.boot_set is not None]
    yield gauge(
        "hatchery_boot_set_bytes", "Size of a template's boot set", label, (((r,), s.total_bytes) for r, s in sets)
    )
    yield gauge("hatchery_boot_set_runs", "Boots that a boot set was made of", label, (((r,), s.runs) for r, s in sets))
    yield gauge(
        "hatchery_boot_set_useful_bytes",
        "Of the boot set, what boots read that were recorded to judge it, before the first those that it is made of",
        label,
        (((r,), None if s.wasted_bytes is None else s.total_bytes - s.wasted_bytes) for r, s in sets),
    )
    yield gauge(
        "hatchery_boot_set_wasted_bytes",
        "Of the boot set, what the same boots did not read; absent before a boot was recorded",
        label,
        (((r,), s.wasted_bytes) for r, s in sets),
    )
    yield from _prefetches([(t.ref, t.prefetch) for t in found if t.prefetch is not None])
    yield gauge(
        "hatchery_prefetch_wasted_bytes",
        "Of what the last prefetch wanted, also where that is all of a template, what the boots that judge the boot set"
        " did not read; absent before a boot was recorded",
        label,
        (((t.ref,), _unread(t)) for t in found if t.prefetch is not None),
    )


def _unread(template: schema.TemplateView) -> int | None:
    found, fetched = template.boot_set, template.prefetch
    if found is None or found.wasted_bytes is None or fetched is None:
        return None
    return max(0, fetched.total_bytes - (found.total_bytes - found.wasted_bytes))


def _prefetches(found: Sequence[tuple[str, schema.PrefetchView]]) -> Iterator[Metric]:
    label = ("template",)
    states = StateSetMetricFamily("hatchery_prefetch_state", "State of a template's last prefetch", labels=label)
    for ref, view in found:
        states.add_metric((ref,), {state: state == view.state for state in PREFETCH_STATES})
    yield states
    for name, help_, values in (
        ("wanted_bytes", "Bytes that the last prefetch wants in the cache", [v.total_bytes for _, v in found]),
        ("done_bytes", "Bytes that its present pass has read", [v.done_bytes for _, v in found]),
        ("passes", "Passes that it took so far", [v.passes for _, v in found]),
        (
            "backend_bytes",
            "Bytes that the backend read for it, guests' reads included",
            [v.backend_bytes for _, v in found],
        ),
        ("left_bytes", "Bytes that may not be in the cache, at most", [v.left_bytes for _, v in found]),
        ("duration_seconds", "Time that it took; 0 while it runs", [v.seconds for _, v in found]),
        ("bytes_per_second", "Rate of its present pass; 0 when none runs", [v.rate for _, v in found]),
        ("began_timestamp_seconds", "When it was begun", [v.began for _, v in found]),
    ):
        rows = (((ref,), value) for (ref, _), value in zip(found, values, strict=True))
        yield gauge(f"hatchery_prefetch_{name}", help_, label, rows)


def boots(measurements: Sequence[schema.MeasurementView]) -> Iterator[Metric]:
    """The last measurement of each template's boots, by how the cache was when they began."""
    last: dict[str, schema.MeasurementView] = {}
    for view in measurements:  # the newest comes first
        last.setdefault(view.template, view)
    found = [((view.template, times.phase), times) for view in last.values() for times in view.phases]
    label = ("template", "phase")
    yield gauge(
        "hatchery_boot_seconds",
        "Median time of the boots that were measured last, from QEMU's start to the login prompt",
        label,
        ((key, times.seconds_median) for key, times in found),
    )
    yield gauge(
        "hatchery_boot_io_seconds",
        "Of that, the median time with a request under way; absent when not known",
        label,
        ((key, times.io_seconds) for key, times in found),
    )
    yield gauge(
        "hatchery_boot_hit_ratio",
        "Share of these boots' bytes that did not need the backend, 0 to 1",
        label,
        ((key, times.hit_ratio) for key, times in found),
    )
    yield gauge(
        "hatchery_boot_measured_timestamp_seconds",
        "When a template's boots were measured last",
        ("template",),
        (((view.template,), view.taken) for view in last.values()),
    )
