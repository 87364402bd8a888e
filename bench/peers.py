"""``script/bench peers``: Hatchery beside what else keeps VM disks, on the same disks, by the same boots."""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from appliance.bootset.extents import pages_read
from appliance.bootset.trace import Read, parse_trace
from appliance.errors import InvalidInput, NotReady
from appliance.model import GIB, MIB
from bench import learn, peers_rows, processors, store
from bench.report import Report, Row
from bench.report import whole as lacking
from tests.kernel import folders, requirements
from tests.kernel.inside.peers.peer import Plan
from tests.kernel.lab import Disks, Lab, Options

SUMMARY = "LVM with lvmcache, qcow2 overlays, nbdkit and the raw devices beside Hatchery, by replays of recorded boots"
ROOT = Path(__file__).resolve().parent
TRACES = ROOT / "traces"
INSIDE = "tests.kernel.inside.peers.run"

OPTIONS = Options(nvme_bytes=2816 * MIB, disk_bytes=1792 * MIB, disks=Disks.SLOW, memory_bytes=3 * GIB)
"""The NVMe drive holds Hatchery's metadata, a cache of 1 GiB, and the image raw."""

MEMORY: Mapping[str, int] = {"nbdkit": 8 * GIB}
"""A set-up that needs more: of 50 clones' nbdkits each has 16 threads, and the one below them 16 for each of them."""

MAPPINGS = 1 << 20
"""What ``vm.max_map_count`` must be for 50 clients: User-Mode Linux maps each page of its programs apart."""

DEADLINE = 5400.0
PIECE = 4 * MIB

FAILED = "failed"
"""Among a set-up's figures: why it broke off."""

BROKE_OFF, OTHER_RUNS = "broke off", "in part of other runs"
"""What a report's host says of set-ups that broke off, and of figures that are another run's."""


class Part(StrEnum):
    """What is measured of a set-up."""

    ALL = "all"
    BOOTS = "boots"
    CLONES = "clones"


FULL = Plan(rounds=5, pairs=15, storms=(10, 50), storm_rounds=3, present=(1, 100, 1000), creations=5)
QUICK = Plan(rounds=1, pairs=3, storms=(10,), storm_rounds=1, present=(1, 100), creations=2)
COMPARED = "lvm"
"""Rows are held to its first and second boots; the others' are measured fewer times."""

OTHERS_ROUNDS = 2


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this bench."""
    parser.add_argument("--quick", action="store_true", help="few repetitions, no 50 boots at once: for a first look")
    parser.add_argument(
        "--peer", action="append", choices=tuple(peers_rows.NAMES), metavar="NAME",
        help=f"measure this one alone (may be given again): {', '.join(peers_rows.NAMES)}",
    )  # fmt: skip
    parser.add_argument(
        "--trace", action="append", type=Path, metavar="FILE", help="replay this trace instead of all in bench/traces"
    )
    parser.add_argument(
        "--measured", action="append", type=Path, metavar="FILE",
        help="measure nothing: report anew what earlier runs' JSON holds; the first that has a figure counts",
    )  # fmt: skip
    parser.add_argument(
        "--part", type=Part, choices=list(Part), default=Part.ALL, help="boots alone, or what clones cost alone"
    )
    parser.add_argument(
        "--with", dest="others", action="append", type=Path, default=[], metavar="FILE",
        help="take from another bench's JSON what real boots give, instead of running it too:"
        f" {', '.join(peers_rows.ELSEWHERE)}",
    )  # fmt: skip


def measure(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Report:
    """Everything, in one machine that is removed afterwards. Raises LabError, InsideError, NotReady, InvalidInput."""
    traces = chosen.trace or sorted(TRACES.glob("*.trace"))
    others = peers_rows.merged([_report(path) for path in chosen.others])
    reads = {path.stem: load(path) for path in traces}
    if chosen.measured:
        before = [_report(path) for path in chosen.measured]
        return whole(report(hosts(before), together(before), reads, others))
    reason = requirements.unmet()
    if reason:
        raise NotReady("the bench cannot run", why=reason)
    check_mappings()
    keys = [key for key in peers_rows.NAMES if not chosen.peer or key in chosen.peer]
    begin, load_before, ticks = time.monotonic(), os.getloadavg()[0], processors.read()
    complete = not (chosen.quick or chosen.peer or chosen.part is not Part.ALL)
    found: dict[str, Any] = {}
    inside: dict[str, str] = {}
    tree = requirements.tree()

    def told() -> Report:
        took = f"{(time.monotonic() - begin) / 60:.1f} minutes"
        busy = processors.words(ticks, processors.read(), processors.bound())
        host = {**store.host(load_before), **inside, "took": took, "quiet": quiet(load_before), "processors": busy}
        made = report(host, found, reads, others)
        return whole(made) if complete else made

    with folders.scratch() as shared:
        tell("making the image")
        golden(shared / "golden.raw", max(map(image_bytes, reads.values())))
        for path in traces:
            (shared / path.name).write_bytes(path.read_bytes())
        for key in keys:
            plan = plan_for(key, chosen.quick, chosen.part)
            # A machine for each: what one leaves behind, or breaks, is not the next one's.
            with Lab(tree, replace(OPTIONS, memory_bytes=MEMORY.get(key, OPTIONS.memory_bytes))) as lab:
                for file in shared.iterdir():
                    os.link(file, lab.shared / file.name)
                inside |= lab.call(f"{INSIDE}:describe")
                found[key] = one(lab, key, [path.name for path in traces], plan, tell)
            if chosen.json:
                # What breaks off later is not to cost what was measured in an hour.
                chosen.json.write_text(json.dumps(told().as_json(), indent=2) + "\n", encoding="utf-8")
    if complete and not chosen.others:
        tell("now real boots, from the image that is built")
        others = peers_rows.merged([learn.measure(learn.usual(), tell).as_json()])
    return told()


def whole(found: Report) -> Report:
    """The same, with the rows named that it lacks. Pure."""
    return lacking(found, peers_rows.names())


def report(
    host: Mapping[str, str], found: Mapping[str, Any], reads: Mapping[str, Sequence[Read]], others: Sequence[Row]
) -> Report:
    """What was measured, as rows and tables. Pure. Raises InvalidInput when a trace's figures are missing."""
    broken = [f"{peers_rows.NAMES[key]} ({figures[FAILED]})" for key, figures in found.items() if FAILED in figures]
    if broken:
        host = {**host, BROKE_OFF: "; ".join(broken)}
    for key, figures in found.items():
        missing = set(reads) - set(figures)
        if missing and FAILED not in figures:
            raise InvalidInput(
                "these figures are of other traces",
                why=f"{peers_rows.NAMES.get(key, key)} was not measured with {', '.join(sorted(missing))}",
                hint="name those that it was measured with by --trace",
            )
    whole = set(reads) <= set(found.get("hatchery", {}))
    rows = (*(peers_rows.rows(found, distinct(reads)) if whole else ()), *others)
    return Report("peers", host, rows, peers_rows.tables(found, list(reads)), found)


def hosts(reports: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What several runs say of the machine that they ran on: the first one's words, and what is the others'. Pure."""
    said = {name: words for name, words in reports[0]["host"].items() if name not in (BROKE_OFF, OTHER_RUNS)}
    have: set[tuple[str, str]] = set()
    others = []
    for each in reports:
        parts = {(key, name) for key, figures in each["figures"].items() for name, part in figures.items() if part}
        added = {part for part in parts - have if part[1] != FAILED}
        have |= added
        if added and each is not reports[0]:
            names = ", ".join(
                f"{peers_rows.NAMES[key]} ({', '.join(name for of, name in sorted(added) if of == key)})"
                for key in sorted({key for key, _ in added})
            )
            host = each["host"]
            others.append(f"{names}: {host.get('taken', 'undated')}, load {host.get('load', 'unknown')}")
    return {**said, **({OTHER_RUNS: "; ".join(others)} if others else {})}


def together(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several runs, by set-up and by trace: the first run that has them counts. Pure.

    That a set-up broke off in one of them is nothing any more when another run measured it whole.
    """
    found: dict[str, Any] = {}
    for each in reports:
        for key, figures in each.get("figures", {}).items():
            mine = dict(found.get(key, {}))
            theirs = {name: part for name, part in figures.items() if part and not (mine and name == FAILED)}
            if FAILED not in figures:
                mine.pop(FAILED, None)
            found[key] = {**theirs, **mine}
    return found


def check_mappings(file: Path = Path("/proc/sys/vm/max_map_count")) -> None:
    """Raise NotReady where the storage daemon of 50 clients would be killed in the middle."""
    found = int(file.read_text(encoding="ascii"))
    if found < MAPPINGS:
        raise NotReady(
            "the bench cannot run",
            why=f"a program may have {found} mappings here, and 50 clients' storage daemon needs more in the lab",
            hint=f"run `sysctl vm.max_map_count={MAPPINGS}`",
        )


def plan_for(key: str, quick: bool, part: Part = Part.ALL) -> Plan:
    """How often a set-up is measured."""
    plan = QUICK if quick else FULL
    if part is Part.BOOTS:
        plan = replace(plan, present=())
    if part is Part.CLONES:
        plan = replace(plan, rounds=0, pairs=0, storms=())
    return plan if key == COMPARED else replace(plan, rounds=min(plan.rounds, OTHERS_ROUNDS))


def one(lab: Lab, key: str, traces: Sequence[str], plan: Plan, tell: Callable[[str], None]) -> Any:
    """All figures of one set-up; of one that breaks off those that there are, and why under ``failed``."""
    words = ["/lab/golden.raw", [f"/lab/{name}" for name in traces], asdict(plan), "/lab/kept.json"]
    begin = time.monotonic()
    try:
        found = store.follow(lab.begin_call(f"{INSIDE}:measure", key, *words, timeout=DEADLINE), tell)
    except store.ERRORS as error:
        why = str(error).splitlines()[0]
        tell(f"{peers_rows.NAMES[key]} broke off: {error}")
        found = {**json.loads(lab.text("kept.json") or "{}"), FAILED: why}
    tell(f"{peers_rows.NAMES[key]} took {(time.monotonic() - begin) / 60:.1f} minutes")
    return found


def golden(path: Path, size: int) -> None:
    """An image without a zero or a repetition in it, so that nobody can leave out or merge anything."""
    with path.open("wb") as file:
        for offset in range(0, size, PIECE):
            file.write(os.urandom(min(PIECE, size - offset)))
    path.chmod(0o644)


def load(path: Path) -> tuple[Read, ...]:
    """A trace's reads. Raises InvalidInput."""
    try:
        return parse_trace(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, InvalidInput) as error:
        raise InvalidInput(f"{path} is not a trace", why=str(error)) from error


def image_bytes(reads: Sequence[Read]) -> int:
    """How large a disk must be for these reads."""
    return max(read.offset + read.length for read in reads)


def distinct(reads: Mapping[str, Sequence[Read]]) -> dict[str, int]:
    """Bytes of the pages that are read at least once, by trace."""
    return {name: pages_read(each, image_bytes(each)) for name, each in reads.items()}


def quiet(load_before: float) -> str:
    """Whether the machine had nothing else to do when the bench began, as far as its load tells."""
    if load_before <= 0.5:
        return "yes, nothing else ran when it began"
    return f"NO: {load_before:.1f} processes ran when it began, so that the times are not to be trusted"


def _report(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not a bench's report", why=str(error)) from error
    missing = {"bench", "host", "rows"} - set(found) if isinstance(found, dict) else {"rows"}
    if missing:
        raise InvalidInput(f"{path} is not a bench's report", why=f"it has no {', '.join(sorted(missing))}")
    return found
