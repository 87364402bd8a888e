"""What a bench found: rows with the figures they are held to, as a table, as JSON and as a page. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median
from typing import Any

from bench.results import table

Runs = Mapping[str, Sequence[float]]
"""The single measurements by what was measured, in the order in which they were made."""


class Relation(StrEnum):
    """How a value has to be to the figure that it is held to."""

    AT_MOST = "<="
    AT_LEAST = ">="


@dataclass(frozen=True, slots=True)
class Limit:
    """The figure that a row is held to: ``<= 1.2``."""

    relation: Relation
    bound: float

    def __str__(self) -> str:
        return f"{self.relation} {self.bound:g}"

    def met(self, value: float) -> bool:
        """Whether the value is within the limit; the bound itself is."""
        return value <= self.bound if self.relation is Relation.AT_MOST else value >= self.bound


def at_most(bound: float) -> Limit:
    """The limit ``<= bound``."""
    return Limit(Relation.AT_MOST, bound)


def at_least(bound: float) -> Limit:
    """The limit ``>= bound``."""
    return Limit(Relation.AT_LEAST, bound)


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. ``note`` says what exactly was measured; without ``held_to`` the row only informs."""

    name: str
    value: float
    unit: str
    note: str
    held_to: Limit | None = None
    runs: Runs = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether it keeps its limit. A row without one cannot miss it."""
        return self.held_to is None or self.held_to.met(self.value)

    def as_json(self) -> dict[str, Any]:
        """The row for a machine, its single runs included."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "held_to": None if self.held_to is None else str(self.held_to),
            "ok": self.ok,
            "note": self.note,
            "runs": {name: list(values) for name, values in self.runs.items()},
        }


@dataclass(frozen=True, slots=True)
class Table:
    """Figures side by side that are held to nothing: the first column says whose they are."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]

    def text(self) -> str:
        """For a terminal."""
        numbers = set(range(1, len(self.head)))
        return f"{self.title}\n{_columns((self.head, *self.lines), numbers)}"

    def section(self) -> str:
        """As a section of Markdown."""
        return f"## {self.title}\n\n{self.markdown()}"

    def markdown(self) -> str:
        """Without its title."""
        return table(self.head, self.lines, right=set(range(1, len(self.head))))


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of a bench, and what it ran on. ``figures``: all that was measured, for the JSON alone.

    ``lacking``: rows that a whole report would have and this one has not.
    """

    bench: str
    host: Mapping[str, str]
    rows: tuple[Row, ...]
    tables: tuple[Table, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()

    @property
    def missed(self) -> tuple[Row, ...]:
        """The rows that do not keep their limits."""
        return tuple(row for row in self.rows if not row.ok)

    def as_json(self) -> dict[str, Any]:
        """The report for a machine."""
        found = {"bench": self.bench, "host": dict(self.host), "rows": [row.as_json() for row in self.rows]}
        return {**found, "figures": dict(self.figures)} if self.figures else found

    def text(self) -> str:
        """The report for a terminal: rows in columns."""
        rows = _columns([_HEAD, *(_cells(row) for row in self.rows)], {_VALUE})
        return "\n\n".join([rows, *(each.text() for each in self.tables)])

    def section(self) -> str:
        """The rows and how to repeat them, as a section of the page of results."""
        facts = [f"- {name.capitalize()}: {said}" for name, said in self.host.items()]
        more = (
            f"`script/bench {self.bench} --update-docs` repeats it; [bench-{self.bench}.md](bench-{self.bench}.md) has"
            " all figures, [bench.md](bench.md) what they mean."
        )
        rows = table(_HEAD, [_cells(row) for row in self.rows], right={_VALUE})
        tables = [f"**{each.title}**\n\n{each.markdown()}" for each in self.tables]
        return "\n\n".join([f"## Bench: {self.bench}", "\n".join(facts), more, rows, *tables])

    def page(self) -> str:
        """The report as a page of Markdown."""
        origin = (
            f"Written by `script/bench {self.bench} --update-docs`. What a bench does and how to read it stands in"
            " [bench.md](bench.md)."
        )
        parts = [
            f"# Bench: {self.bench}",
            origin,
            "\n".join(f"- {name.capitalize()}: {value}" for name, value in self.host.items()),
            table(_HEAD, [_cells(row) for row in self.rows], right={_VALUE}),
            *(each.section() for each in self.tables),
            "## What was measured",
            "\n".join(f"- `{row.name}`: {row.note}." for row in self.rows),
            "## Medians",
            table(
                ["row", "measured", "runs", "least", "median", "most"],
                [
                    [row.name, name, str(len(values)), *map(number, (min(values), median(values), max(values)))]
                    for row in self.rows
                    for name, values in row.runs.items()
                ],
                right={2, 3, 4, 5},
            ),
        ]
        return "\n\n".join(parts) + "\n"


LACKING = "not measured"


def whole(found: Report, names: Iterable[str]) -> Report:
    """The same, with those of the rows of a whole report named that it lacks."""
    there = {row.name for row in found.rows}
    lacking = tuple(name for name in names if name not in there)
    # What an earlier run lacked, this one may have.
    host = {name: said for name, said in found.host.items() if name != LACKING}
    if lacking:
        host[LACKING] = ", ".join(lacking)
    return replace(found, host=host, lacking=lacking)


_HEAD = ("row", "value", "unit", "held to", "")
_VALUE = 1


def _columns(lines: Sequence[Sequence[str]], right: set[int]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    held, verdict = ("", "") if row.held_to is None else (str(row.held_to), "ok" if row.ok else "MISSED")
    return (row.name, number(row.value), row.unit, held, verdict)


def number(value: float) -> str:
    """A figure with as many digits as mean something: 0.834, 12.3, 8,400."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of some measurements over that of others."""
    return median(above) / median(below)


def paired(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of measurements that took turns: what else the host did fell on both of a pair."""
    return median(one / other for one, other in zip(above, below, strict=True))
