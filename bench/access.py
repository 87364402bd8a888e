"""``script/bench access``: what it costs to offer clones and to use them; ratios alone count.

In User-Mode Linux, on the machine that it runs on, and last on the built appliance in QEMU.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from statistics import median
from typing import Any

from appliance.errors import HatcheryError, NotReady
from appliance.model import GIB
from bench import demo, fabric, store
from bench.report import Limit, Report, Row, at_least, at_most, paired, ratio, whole
from tests.kernel import native, requirements
from tests.kernel.lab import Lab, Options

SUMMARY = (
    "exports: the 500th against the first, 500 and 50 clients at once, requests a second over NBD, with TLS, and over"
    " NVMe/TCP (that on the built appliance in QEMU)"
)

INSIDE = "tests.kernel.inside.bench_access"
OPTIONS = Options(nvme_bytes=GIB, disk_bytes=GIB, disk_count=3, memory_bytes=3 * GIB)
Figures = Mapping[str, Sequence[float]]

LAB_NAMES = (
    "export_ms_500_over_1",
    "exports_per_daemon",
    "daemon_500_mb",
    "clients_at_once",
    "daemons_50_mb",
    "nbd_qd16_over_device",
    "nbd_qd1_over_device",
    "tls_over_plain",
    "host_nbd_qd16_over_device",
    "host_nbd_qd1_over_device",
    "host_tls_over_plain",
    "host_nbd_adds_us",
)
"""The rows of the part that needs no appliance."""


class Part(StrEnum):
    """What is measured."""

    ALL = "all"
    LAB = "lab"
    APPLIANCE = "appliance"


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this bench."""
    parser.add_argument("--runs", type=int, default=15, help="how many exports of each kind to make (default: 15)")
    parser.add_argument("--turns", type=int, default=7, help="how many runs of fio on each target (default: 7)")
    parser.add_argument("--seconds", type=int, default=2, help="how long a run of fio measures (default: 2)")
    parser.add_argument(
        "--part", type=Part, choices=list(Part), default=Part.ALL,
        help="what runs in User-Mode Linux and here alone (lab), or what needs the built appliance alone (appliance);"
        " the report names the rows that it lacks then",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=demo.ROOT / "build" / "bench", metavar="DIR",
        help="where the appliance's log goes (default: build/bench)",
    )  # fmt: skip


def measure(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Report:
    """Everything, in machines that are removed afterwards. Raises LabError, InsideError, NotReady."""
    if min(chosen.runs, chosen.turns) < 5:
        raise NotReady("too few runs", why="a median is made of at least 5", hint="raise --runs or --turns")
    lab, appliance = chosen.part is not Part.APPLIANCE, chosen.part is not Part.LAB
    if reason := requirements.unmet() if lab else "":
        raise NotReady("the bench cannot run", why=reason)
    if appliance:
        fabric.check()
    begin, load = time.monotonic(), os.getloadavg()[0]
    about: dict[str, str] = {}
    found: list[Row] = []
    figures: dict[str, Any] = {}

    def told() -> Report:
        took = f"{(time.monotonic() - begin) / 60:.1f} minutes"
        made = Report("access", {**store.host(load), **about, "took": took}, tuple(found), figures=figures)
        return whole(made, (*LAB_NAMES, *fabric.NAMES))

    if lab:
        inside, measured = _lab(chosen, tell)
        about |= inside
        found += measured
        if chosen.json:
            # What breaks off later is not to cost what was measured.
            chosen.json.write_text(json.dumps(told().as_json(), indent=2) + "\n", encoding="utf-8")
    if appliance:
        chosen.output.mkdir(parents=True, exist_ok=True)
        log = chosen.output / "access.log"
        tell(f"now on the built appliance, in QEMU; its log goes to {log}")
        try:
            over = fabric.measure(log, chosen.turns, chosen.seconds)
        except HatcheryError as error:
            tell(f"the appliance's part broke off: {error}")
            about["broke off"] = f"the appliance's part ({str(error).splitlines()[0]})"
        else:
            about["appliance"] = over.machine
            found += fabric.rows(over)
            figures["appliance"] = over.as_json()
    return told()


def _lab(chosen: argparse.Namespace, tell: Callable[[str], None]) -> tuple[Mapping[str, str], tuple[Row, ...]]:
    """What needs no appliance: what it ran on, and its rows."""
    tell("reading from the storage daemon here, without the emulated machine")
    here = native.measure(requirements.tree(), chosen.turns, chosen.seconds)
    tell("starting the machine and setting up the store")
    with Lab(requirements.tree(), OPTIONS) as lab:
        store.prepare(lab)
        inside: Mapping[str, str] = lab.call("tests.kernel.inside.bench_access:facts", timeout=300)

        def run(verb: str, *words: int) -> Any:
            return store.follow(lab.begin_call(f"{INSIDE}:{verb}", *words, timeout=store.DEADLINE), tell)

        exports = run("exports", chosen.runs)
        clients = run("clients")
        requests = run("requests", chosen.turns, chosen.seconds)
    return inside, rows(exports, clients, requests, here)


def rows(
    exports: Figures, clients: Figures, inside: Mapping[str, Figures], here: Mapping[str, Figures]
) -> tuple[Row, ...]:
    """The lab's rows from what was measured ``inside`` the emulated machine and ``here``, outside of it. Pure."""
    return (*_exports(exports, clients), *_requests(inside, here))


def _exports(exports: Figures, clients: Figures) -> tuple[Row, ...]:
    return (
        Row(
            "export_ms_500_over_1",
            ratio(exports["last"], exports["first"]),
            "ratio",
            "one request to the API that attaches a clone, devices made and exported when it is answered: to a client"
            " that has 499 exports, over the same to one that has none; they take turns",
            at_most(1.5),
            {"first, s": exports["first"], "500th, s": exports["last"]},
        ),
        Row(
            "exports_per_daemon",
            exports["connected"][0],
            "exports",
            "how many exports of one client answer a read while each has a connection of its own",
            at_least(500),
        ),
        Row(
            "daemon_500_mb",
            exports["memory_connected"][0] / 1e6,
            "MB",
            "memory of that storage daemon in RAM (VmRSS, 10^6 bytes) meanwhile; before anybody was connected:"
            f" {exports['memory'][0] / 1e6:.1f}",
            None,
            {"exported, bytes": exports["memory"], "connected, bytes": exports["memory_connected"]},
        ),
        Row(
            "clients_at_once",
            clients["connected"][0],
            "clients",
            "how many clients, each with its own storage daemon and a clone, answer a read while all are connected",
            at_least(50),
        ),
        Row(
            "daemons_50_mb",
            clients["memory"][0] / 1e6,
            "MB",
            "memory of their 50 storage daemons together (Pss, 10^6 bytes: what they share counts once)",
            None,
            {"bytes": clients["memory"]},
        ),
    )


def _requests(inside: Mapping[str, Figures], here: Mapping[str, Figures]) -> tuple[Row, ...]:
    one = here["qd1"]
    clone = (
        "in User-Mode Linux, of the clone's device that is exported, 48 MiB that are all in the cache: there a system"
        " call and a switch between processes cost more than the read"
    )
    host = (
        "by the appliance's storage daemon, started with its words on this machine itself, a file of it read past the"
        " page cache in the place of the clone's device; held to nothing: it is another thing than what is asked"
    )
    return (
        *_ratios(inside, "", clone, {"nbd_qd16_over_device": at_least(0.55), "nbd_qd1_over_device": at_least(0.4)}),
        *_ratios(here, "host_", host, {}),
        Row(
            "host_nbd_adds_us",
            1e6 * (1 / median(one["unix"]) - 1 / median(one["device"])),
            "us",
            "what NBD adds to one read there, from the medians of host_nbd_qd1_over_device",
        ),
    )


def _ratios(found: Mapping[str, Figures], prefix: str, where: str, bounds: Mapping[str, Limit]) -> Iterator[Row]:
    for name, kind, above, below, what in (
        ("nbd_qd16_over_device", "qd16", "unix", "device", "over its unix socket over the disk itself, 16 at a time"),
        ("nbd_qd1_over_device", "qd1", "unix", "device", "over its unix socket over the disk itself, one at a time"),
        ("tls_over_plain", "tls", "tls", "plain", "over TCP, 16 at a time, TLS 1.3 over plain"),
    ):
        yield Row(
            f"{prefix}{name}",
            paired(found[kind][above], found[kind][below]),
            "ratio",
            f"fio, 4 KiB random reads, {what} (engines nbd, and libaio with O_DIRECT), {where}; they take turns, median"
            " of the ratios of the pairs",
            bounds.get(name),
            {f"{each}, requests/s": found[kind][each] for each in (below, above)},
        )
