"""Arrows point down: which part of the package may import which.

The table names, for each part, the parts just below it; what those may import, it may import as well. The same table
is drawn in docs/architecture.md.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.lint.files import ROOT, all_files, short

ARROWS: Mapping[str, frozenset[str]] = {
    # the base
    "errors": frozenset(),
    "model": frozenset({"errors"}),
    "config": frozenset({"model"}),
    "run": frozenset({"errors"}),
    "wait": frozenset({"errors"}),
    "words": frozenset(),
    "progress": frozenset({"words"}),
    "journal": frozenset(),
    "redact": frozenset(),
    "unpack": frozenset({"model"}),
    "pki": frozenset({"errors"}),
    "packed": frozenset(),
    # what the machine can do
    "host": frozenset({"config", "redact", "run", "wait"}),
    "reconcile": frozenset({"host"}),
    "store": frozenset({"reconcile", "fence"}),
    "fence": frozenset({"host"}),
    "retry": frozenset({"fence"}),
    "nbd_server": frozenset({"host"}),
    "nvme_target": frozenset({"host"}),
    "console": frozenset({"config", "run"}),
    # on a host that uses clones: it knows no API
    "attach": frozenset({"host", "words"}),
    # what the appliance does
    "catalog": frozenset({"config", "redact"}),
    "images": frozenset({"host", "redact", "unpack"}),
    "bootset": frozenset({"model"}),
    "schema": frozenset({"model"}),
    "rescue": frozenset({"catalog", "progress", "store"}),
    "update": frozenset({"catalog", "client", "images", "progress", "reconcile"}),
    "service": frozenset({"attach", "bootset", "catalog", "images", "journal", "pki", "store", "schema"}),
    "api": frozenset({"service"}),
    "daemon": frozenset({"api"}),
    # the operator's side, which knows the API alone
    "remote": frozenset({"run", "wait"}),
    "client": frozenset({"config", "schema", "remote"}),
    "measure": frozenset({"bootset", "client", "progress"}),
    "rollout": frozenset({"client"}),
    "cli": frozenset({"measure", "progress", "redact", "unpack", "words"}),
    # what is public
    "web": frozenset({"bootset", "client", "host", "words"}),
}

# Outside the package: bench uses it as an operator does; tests may look everywhere.
BENCH = frozenset({"bootset", "cli", "measure", "client", "remote", "run", "wait", "errors", "model", "schema"})


def below(part: str, arrows: Mapping[str, frozenset[str]] = ARROWS) -> frozenset[str]:
    """Everything that the part may import."""
    found: set[str] = set()
    pending = [part]
    while pending:
        for lower in arrows[pending.pop()] - found:
            found.add(lower)
            pending.append(lower)
    return frozenset(found)


def imported(source: str, package: str) -> Iterator[str]:
    """The parts of ``appliance`` that a module's source imports; ``package`` is where its relative imports begin."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "appliance" else [base]
        yield from (name.split(".")[1] for name in names if name.startswith("appliance."))


def part_of(file: Path) -> str:
    """The part of the package that a file belongs to."""
    return file.relative_to(ROOT / "appliance").parts[0].removesuffix(".py")


def modules() -> list[Path]:
    package = ROOT / "appliance"
    return [f for f in all_files() if f.suffix == ".py" and package in f.parents and f != package / "__init__.py"]


def violations(source: str, package: str, part: str) -> set[str]:
    """What the source imports and may not. Names in ``appliance/__init__.py`` itself are for everybody."""
    return {name for name in imported(source, package) if name in ARROWS} - below(part) - {part}


@pytest.mark.parametrize("file", modules(), ids=short)
def test_arrows_point_down(file: Path) -> None:
    part = part_of(file)
    assert part in ARROWS, f"{part} is a new part: say in the table what it stands on"
    package = ".".join(file.relative_to(ROOT).parent.parts)
    wrong = violations(file.read_text(encoding="utf-8"), package, part)
    assert not wrong, f"{short(file)} may not import {sorted(wrong)}; it may import {sorted(below(part))}"


def test_bench_is_an_operator() -> None:
    for file in all_files():
        if file.suffix == ".py" and ROOT / "bench" in file.parents:
            wrong = set(imported(file.read_text(encoding="utf-8"), "bench")) & set(ARROWS) - BENCH
            assert not wrong, f"{short(file)} may not import {sorted(wrong)}"


def test_the_table_has_no_circle() -> None:
    assert [part for part in ARROWS if part in below(part)] == []


def test_a_wrong_arrow_is_seen() -> None:
    assert violations("from appliance.service import clones", "appliance.cli", "cli") == {"service"}
    assert violations("import appliance.store.pool", "appliance.host", "host") == {"store"}
    assert violations("from appliance import catalog", "appliance", "client") == {"catalog"}
    assert violations("from ..service import clones", "appliance.cli", "cli") == {"service"}
    assert violations("def f():\n    from appliance.api import app", "appliance.measure", "measure") == {"api"}
    assert not violations("from appliance.host import dm\nfrom . import x", "appliance.store", "store")
