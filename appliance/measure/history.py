"""Measurements that were kept, and how two of them differ.

Each is a file of the JSON of boots, a storm or a replay, named by the moment it was taken, in
``$XDG_STATE_HOME/hatchery/measurements`` (XDG Base Directory Specification; by default below ``~/.local/state``).
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from appliance.errors import InvalidInput, NotFound
from appliance.measure.report import FORMAT, columns
from appliance.measure.result import Spread

SUFFIX = ".json"
KINDS = ("boot", "storm", "replay")
"""What is measured; a file that does not say so is of boots."""
_FIGURES = (
    ("boot time, median", ("seconds", "median"), "{:.2f} s"),
    ("boot time, least", ("seconds", "least"), "{:.2f} s"),
    ("I/O wait, median", ("io_seconds", "median"), "{:.2f} s"),
    ("processor time of QEMU, median", ("cpu_spread", "median"), "{:.1f} s"),
    ("processor time of QEMU, least", ("cpu_spread", "least"), "{:.1f} s"),
    ("bytes read a boot", ("read_bytes",), "{:,.0f}"),
    ("backend bytes a boot", ("backend_bytes",), "{:,.0f}"),
    ("hit rate by bytes", ("hit_rate_bytes",), "{:.4f}"),
    ("read amplification", ("amplification",), "{:.4f}"),
)
_TOGETHER = (
    ("the first was done after", ("first",), "{:.2f} s"),
    ("the median one", ("median",), "{:.2f} s"),
    ("the last", ("last",), "{:.2f} s"),
    ("processor time of QEMU", ("cpu_seconds",), "{:.1f} s"),
    ("bytes read", ("read_bytes",), "{:,.0f}"),
    ("backend bytes", ("backend_bytes",), "{:,.0f}"),
    ("cache bytes", ("cache_added_bytes",), "{:,.0f}"),
    ("hit rate by bytes", ("hit_rate_bytes",), "{:.4f}"),
    ("the prefetch before", ("prefetch", "seconds"), "{:.2f} s"),
)
"""Of storms and replays."""
_ALIKE = ("clones", "begin", "trace_sha256")
"""What two storms or replays must have in common to be compared."""
_OPTIONAL = frozenset({"io_seconds", "cpu_seconds", "cpu_spread", "prefetch"})
"""Figures that not all measurements have: they are new, or of guests, or of a prefetch."""


def folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where measurements are kept."""
    base = environment.get("XDG_STATE_HOME", "")
    # A relative path is to be ignored, says the specification.
    root = Path(base) if base.startswith("/") else Path(environment.get("HOME", "/root")) / ".local/state"
    return root / "hatchery/measurements"


def keep(document: str, where: Path, moment: datetime | None = None) -> Path:
    """Keep a measurement; returns its file. Raises InvalidInput when it cannot be written."""
    stamp = (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H%M%SZ")
    try:
        where.mkdir(parents=True, exist_ok=True)
        for number in range(1, 1000):
            path = where / f"{stamp}{'' if number == 1 else f'-{number}'}{SUFFIX}"
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(document)
            except FileExistsError:
                continue
            return path
    except OSError as error:
        raise InvalidInput(
            f"{where} cannot be written",
            why=error.strerror or str(error),
            hint="name a file in a folder that you may write to",
        ) from error
    raise InvalidInput(
        f"{where} has too many measurements of one second",
        why="their files would have one name",
        hint="wait a moment, and try again",
    )


def kept(where: Path) -> tuple[Path, ...]:
    """The measurements that were kept, the oldest first."""
    return tuple(sorted(where.glob(f"*{SUFFIX}"), key=lambda path: (path.name[:18], len(path.name), path.name)))


def choose(where: Path, *names: str) -> tuple[Path, Path]:
    """The two to compare: those named (a file, or the name of a kept one).

    Without names the last one and the last before it that it can be compared with; with one name, that and the last
    that it can be compared with. Raises NotFound, InvalidInput for what is no measurement.
    """
    found = [_named(where, name) for name in names]
    if len(found) == 2:
        return found[0], found[1]
    others = [path for path in kept(where) if path not in found]
    if not found and others:
        found = [others.pop()]
    wanted = likeness(load(found[0])) if found else ()
    for path in reversed(others):
        with suppress(InvalidInput):  # what is damaged, or of another program, is in nobody's way
            if likeness(load(path)) == wanted:
                return (found[0], path) if names else (path, found[0])
    raise NotFound(
        "there are not two measurements to compare",
        why=f"{where} has {len(kept(where))}, and none like {found[0].name}" if found else f"{where} has none",
        hint="each measurement is kept there; measure once more with the same options, or name two",
    )


def likeness(found: Mapping[str, Any]) -> tuple[object, ...]:
    """What two measurements must have in common to be compared."""
    return (found.get("kind", "boot"), *(found.get(key) for key in _ALIKE))


def _named(where: Path, name: str) -> Path:
    for path in (where / name, where / f"{name}{SUFFIX}", Path(name)):
        if path.is_file():
            return path
    raise NotFound(f"measurement {name} does not exist", hint=f"see {where}")


def load(path: Path) -> dict[str, Any]:
    """A kept measurement. Raises InvalidInput."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is no measurement", why=str(error)) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise InvalidInput(f"{path} is no measurement", why=f"it has not the form {FORMAT}")
    kind = found.get("kind", "boot")
    if kind == "boot" and not isinstance(found.get("summary"), dict):
        raise InvalidInput(f"{path} is no measurement", why="it has no summary of boots")
    if kind not in KINDS:
        raise InvalidInput(f"{path} is a measurement of an unknown kind", why=f"it is {kind!r:.40}")
    facts = found.get("facts")
    missing = [key for key in ("template", "facts") if not isinstance(found.get(key), str | dict)]
    if not missing and not (isinstance(facts, dict) and isinstance(facts.get("taken"), str)):
        missing = ["time of its making"]
    if missing:
        raise InvalidInput(f"{path} is damaged", why=f"it has no {' and no '.join(missing)}", hint="name another one")
    return _completed(found, path) if kind == "boot" else found


def _completed(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """With what measurements of earlier releases do not have, computed from their boots.

    That is medians of boot times, and the spread of processor times.
    """

    def times(phase: str, key: str) -> list[float]:
        return [float(boot[key]) for boot in found["boots"] if boot["phase"] == phase]

    try:
        for phase, figures in found["summary"].items():
            if figures and "median" not in figures["seconds"]:
                figures["seconds"]["median"] = median(times(phase, "seconds"))
            if figures and "cpu_seconds" in figures and "cpu_spread" not in figures:
                figures["cpu_spread"] = asdict(Spread.of(times(phase, "cpu_seconds")))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path} is damaged", why=f"it has no times of its boots: {error}") from error
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of a phase in two measurements."""

    phase: str
    name: str
    before: float
    after: float
    form: str

    @property
    def change(self) -> float | None:
        """The share by which it grew; None where that says nothing."""
        return self.after / self.before - 1 if self.before else None


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The figures, of the phases, that both have.

    Raises InvalidInput when there is none, or for measurements that say different things.
    """
    _check_alike(before, after)
    kind = after.get("kind", "boot")
    if kind != "boot":
        return tuple(_differences(kind, before, after, _TOGETHER))
    common = phases(before, after)
    if not common:
        raise InvalidInput(
            "the measurements have no phase in common",
            why="one has what the other has not",
            hint="compare two that were made with the same options",
        )
    old, new = before["summary"], after["summary"]
    return tuple(each for phase in common for each in _differences(phase, old[phase], new[phase], _FIGURES))


def phases(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Of boots: the phases that both have."""
    return [phase for phase, figures in before["summary"].items() if figures and after["summary"].get(phase)]


def _check_alike(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    kinds = [found.get("kind", "boot") for found in (before, after)]
    if kinds[0] != kinds[1]:
        raise InvalidInput(
            "the measurements are of different kinds",
            why=f"one is of a {kinds[0]}, the other of a {kinds[1]}",
            hint="name two of one kind",
        )
    other = [key for key in _ALIKE if before.get(key) != after.get(key)]
    if other:
        words = {"clones": "number of clones", "begin": "cache at the beginning", "trace_sha256": "trace"}
        raise InvalidInput(
            "the measurements cannot be compared",
            why=f"they have another {', '.join(words[key] for key in other)}",
            hint="compare two that were made with the same options",
        )


def _differences(
    phase: str, old: Mapping[str, Any], new: Mapping[str, Any], figures: Sequence[tuple[str, tuple[str, ...], str]]
) -> Iterator[Difference]:
    for name, path, form in figures:
        if path[0] in _OPTIONAL and not (old.get(path[0]) and new.get(path[0])):
            continue
        yield Difference(phase, name, value(old, path), value(new, path), form)


def value(figures: Any, path: Sequence[str]) -> float:
    """A figure of a measurement. Raises InvalidInput when there is none."""
    try:
        for key in path:
            figures = figures[key]
        return float(figures)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("a measurement is damaged", why=f"{' '.join(path)}: {error}") from error


def text(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Both side by side for a terminal. Raises as ``compare``."""
    told = columns([["", "", "before", "after", "change"], *rows(before, after)], right=(2, 3, 4))
    heads = [f"before: {about(before)}", f"after: {about(after)}"]
    return "\n".join([*heads, "", told, *(f"Note: {each}." for each in warnings(before, after))]) + "\n"


def rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """For each figure, in words: the phase, its name, both values, and the change. Raises as ``compare``."""
    return [
        (
            each.phase,
            each.name,
            each.form.format(each.before),
            each.form.format(each.after),
            "-" if each.change is None else f"{each.change:+.1%}",
        )
        for each in compare(before, after)
    ]


def about(found: Mapping[str, Any]) -> str:
    """What was measured, and when, in a line."""
    told = [str(found["template"]), str(found["facts"]["taken"])]
    if found.get("kind", "boot") != "boot":
        told.append(f"{found['kind']} of {found['clones']} at once, cache {found['begin']}")
    return ", ".join(told)


def warnings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What makes the two hard to compare."""
    keys = [key for key in ("host", "guests") if before["facts"].get(key) != after["facts"].get(key)]
    if before["template"] != after["template"]:
        keys.insert(0, "template")
    return [f"they differ in more than the result: {', '.join(keys)}"] if keys else []
