"""Families of metrics made from rows of labels and values. Pure."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, StateSetMetricFamily
from prometheus_client.metrics_core import Metric

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
