"""``script/bench operate``: what looking at an appliance costs with few and many clones, in User-Mode Linux."""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

from appliance.errors import NotReady
from appliance.model import MIB
from bench.report import Report, Row, at_most, ratio
from bench.store import DEADLINE, OPTIONS, follow, host, prepare
from tests.kernel import requirements
from tests.kernel.lab import Lab

SUMMARY = "status, page and metrics with 10 and 1,000 clones, and how long others wait meanwhile"

MODULE = "tests.kernel.inside.bench_operating"
MEMORY = 3072 * MIB
"""Each exported clone has devices, which the kernel keeps in memory."""

FEW, MANY = 10, 1000
"""Clones that are there."""

EXPORTED = 250
"""Of the many. Each has devices, which take a good part of a second there; more than 200 are enough for all that looks
otherwise at few exported clones than at many (``web.metrics.MOST_LATENCIES``)."""

Figures = dict[str, dict[str, list[float]]]


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this bench."""
    parser.add_argument("--runs", type=int, default=7, help="how many looks with each number of clones (default: 7)")
    parser.add_argument(
        "--exported", type=int, default=EXPORTED, help="how many of the 1,000 clones are exported (default: 250)"
    )


def measure(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Report:
    """Everything, in machines that are removed afterwards. Raises LabError, InsideError, NotReady."""
    if chosen.runs < 1 or not FEW <= chosen.exported <= MANY:
        why = f"at least one look is needed, and {FEW} to {MANY} exported clones"
        raise NotReady("that cannot be measured", why=why, hint="see `script/bench operate --help`")
    reason = requirements.unmet()
    if reason:
        raise NotReady("the bench cannot run", why=reason)
    begin, load = time.monotonic(), os.getloadavg()[0]
    half = -(-chosen.runs // 2)
    # Few, many, and few again, so that a drift shows on both sides. The last ones are in a machine of their own: to
    # make one takes less time than to take a thousand clones back.
    few = (FEW, FEW, half)
    inside, found = look(((few, (MANY, chosen.exported, 2 * half))), tell)
    _, again = look((few,), tell)
    for kind, values in again[str(FEW)].items():
        found[str(FEW)][kind] += values
    inside |= {"clones": f"{MANY}, of which {chosen.exported} are exported; {FEW}, all exported"}
    took = time.monotonic() - begin
    return Report("operate", {**host(load), **inside, "took": f"{took / 60:.1f} minutes"}, rows(found))


def look(steps: Sequence[tuple[int, int, int]], tell: Callable[[str], None]) -> tuple[dict[str, str], Figures]:
    """What the machine inside runs, and what was found, in a machine of its own."""
    tell("starting the machine and setting up the store")
    with Lab(requirements.tree(), replace(OPTIONS, memory_bytes=MEMORY)) as lab:
        prepare(lab)
        inside: dict[str, str] = lab.call("tests.kernel.inside.bench_clones:facts", timeout=300)
        return inside, follow(lab.begin_call(f"{MODULE}:everything", steps, timeout=DEADLINE), tell)


def rows(found: Figures) -> tuple[Row, ...]:
    """The rows from what was measured. Pure."""
    few, many = found["10"], found["1000"]

    def compared(kind: str, note: str) -> Row:
        runs = {"10, s": few[kind], "1000, s": many[kind]}
        return Row(f"{kind}_1000_over_10", ratio(many[kind], few[kind]), "ratio", note, at_most(2), runs)

    waits = {f"{count}, {kind}, s": of[kind] for count, of in (("10", few), ("1000", many)) for kind in _WAITS}
    return (
        compared(
            "status_command",
            "`hatchery status` as an operator types it, its start included: median with 1,000 clones over median with"
            " 10; measured with 10, with 1,000, and with 10 again in another machine",
        ),
        compared("status", "the one request to the API that it makes"),
        compared("page", "the status page as `hatchery-status` serves it, without what a browser does"),
        Row(
            "scrape_1000_s",
            median(many["scrape"]),
            "s",
            "one scrape of `/metrics` with 1,000 clones",
            at_most(1),
            {"10, s": few["scrape"], "1000, s": many["scrape"]},
        ),
        Row(
            "scrape_pause_1000_ms",
            1000 * (median(many["scrape_wait"]) - median(many["idle_wait"])),
            "ms",
            "how much longer the slowest of the small requests takes that are sent one after the other while the"
            " metrics are scraped, than the slowest within a second without a scrape: medians. All processes share one"
            " processor",
            at_most(50),
            waits,
        ),
    )


_WAITS = ("idle_wait", "scrape_wait")
