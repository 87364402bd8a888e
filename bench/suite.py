"""``script/bench``: the benches by name, and what they have in common: a table, JSON, a page of the documentation."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from appliance.errors import HatcheryError
from bench import access, boots, learn, operate, peers, sections, store
from bench.report import Report, Row

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

STANDARD_OUTPUT = Path("-")

Tell = Callable[[str], None]
"""Takes a line about what goes on."""


@dataclass(frozen=True)
class Bench:
    """``measure`` does the work and returns what it found; ``options`` adds arguments of the bench's own."""

    summary: str
    measure: Callable[[argparse.Namespace, Tell], Report]
    options: Callable[[argparse.ArgumentParser], None]


BENCHES: Mapping[str, Bench] = {
    "access": Bench(access.SUMMARY, access.measure, access.options),
    "boots": Bench(boots.SUMMARY, boots.measure, boots.options),
    "learn": Bench(learn.SUMMARY, learn.measure, learn.options),
    "operate": Bench(operate.SUMMARY, operate.measure, operate.options),
    "peers": Bench(peers.SUMMARY, peers.measure, peers.options),
    "store": Bench(store.SUMMARY, store.measure, store.options),
}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line. ``json`` is a file, or None; ``print_json`` is true where no file was named."""
    parser = argparse.ArgumentParser(
        prog="script/bench",
        description="Measure, print a table, and say which figures are missed (then the exit status is 1).",
    )
    names = parser.add_subparsers(dest="bench", metavar="NAME", required=True)
    for name, bench in BENCHES.items():
        one = names.add_parser(name, help=bench.summary, description=bench.summary)
        one.add_argument(
            "--json",
            nargs="?",
            type=Path,
            const=STANDARD_OUTPUT,
            metavar="FILE",
            help="write rows, single runs and host to FILE, or instead of the table to standard output",
        )
        one.add_argument(
            "--update-docs",
            action="store_true",
            help=f"write docs/bench-{name}.md and its part of docs/results.md from this run",
        )
        bench.options(one)
    chosen = parser.parse_args(argv)
    chosen.print_json = chosen.json == STANDARD_OUTPUT
    if chosen.print_json:
        chosen.json = None
    return chosen


def main(argv: Sequence[str] | None = None) -> int:
    """Run a bench; return the exit status."""
    chosen = parse(argv)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        report = BENCHES[chosen.bench].measure(chosen, tell)
    except (HatcheryError, *store.ERRORS) as error:
        print(f"script/bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    document = json.dumps(report.as_json(), indent=2) + "\n"
    if chosen.print_json:
        sys.stdout.write(document)
    else:
        print(report.text())
        if chosen.json:
            chosen.json.write_text(document, encoding="utf-8")
    if chosen.update_docs:
        update_docs(report, ROOT / "docs")
    if report.lacking:
        tell(f"not measured: {', '.join(report.lacking)}")
    if report.missed:
        tell(missed(report.missed))
    return 1 if report.lacking or report.missed else 0


def update_docs(report: Report, docs: Path) -> None:
    """Write the bench's page, and its rows into the page of results; and what another run may take from it, as JSON."""
    (docs / f"bench-{report.bench}.md").write_text(report.page(), encoding="utf-8")
    if report.figures:
        (docs / f"bench-{report.bench}.json").write_text(json.dumps(report.as_json()) + "\n", encoding="utf-8")
    results = docs / "results.md"
    page = sections.put(results.read_text(encoding="utf-8"), report.bench, report.section())
    results.write_text(page, encoding="utf-8")


def missed(rows: Sequence[Row]) -> str:
    """Which figures are not kept, in words."""
    return "; ".join(f"{row.name} is {row.value:.3g}, held to {row.held_to}" for row in rows)


def tell(text: str) -> None:
    """A line on standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
