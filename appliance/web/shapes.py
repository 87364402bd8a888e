"""Families of metrics made from rows of labels and values. Pure."""

from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import accumulate
from typing import TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    StateSetMetricFamily,
)
from prometheus_client.metrics_core import Metric

from appliance.schema import HistogramView

Labels: TypeAlias = Sequence[str]
Rows: TypeAlias = Iterable[tuple[Labels, float | None]]
"""Values by their labels; a None is left out."""


def gauge(name: str, help_: str, labels: Labels, rows: Rows) -> Metric:
    """What goes up and down."""
    return _filled(GaugeMetricFamily(name, help_, labels=labels), rows)


def counter(name: str, help_: str, labels: Labels, rows: Rows) -> Metric:
    """What only grows."""
    return _filled(CounterMetricFamily(name, help_, labels=labels), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Rows) -> Metric:
    for key, value in rows:
        if value is not None:
            family.add_metric(key, value)
    return family


def states(name: str, help_: str, labels: Labels, rows: Iterable[tuple[Labels, Enum]], all_: type[Enum]) -> Metric:
    """One series for each state, 1 for the present one."""
    family = StateSetMetricFamily(name, help_, labels=labels)
    for key, now in rows:
        family.add_metric(key, {state.value: state is now for state in all_})
    return family


class Shape(Enum):
    """Whether a histogram's last number has an upper limit like the others, or holds all that took longer."""

    CLOSED = "closed"
    OPEN = "open"


def histograms(
    name: str, help_: str, labels: Labels, rows: Iterable[tuple[Labels, HistogramView]], shape: Shape = Shape.CLOSED
) -> Metric:
    """Latencies. Those of which nobody knows how long they took together have no ``_sum``, and so no ``_count``."""
    family = HistogramMetricFamily(name, help_, labels=labels)
    for key, found in rows:
        limited = found.counts[:-1] if shape is Shape.OPEN else found.counts
        family.add_metric(key, buckets(limited, sum(found.counts)), sum_value=found.seconds)
    return family


def buckets(counts: Sequence[int], total: int) -> list[tuple[str, float]]:
    """Cumulative buckets. ``counts[i]`` is for less than 2**(i+1) microseconds."""
    found: list[tuple[str, float]] = [
        (repr(2 ** (index + 1) / 1e6), reached) for index, reached in enumerate(accumulate(counts))
    ]
    return [*found, ("+Inf", total)]
