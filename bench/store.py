"""``script/bench store``: what clones cost and how fast they are, in User-Mode Linux; ratios alone count."""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from appliance.errors import NotReady
from appliance.measure import facts
from appliance.model import GIB, MIB
from bench.report import Report, Row, at_least, at_most, paired, ratio
from tests.kernel import requirements
from tests.kernel.inside import setup
from tests.kernel.lab import InsideError, Job, Lab, LabError, Options

SUMMARY = "creation, removal and start-up with 1 and 1,000 clones, LVM beside it, and requests a second of clones"
ERRORS = (LabError, InsideError)
"""What a bench in User-Mode Linux fails with, besides Hatchery's own errors."""

INSIDE = "tests.kernel.inside.bench_clones"
SPARE = "/dev/disk/by-id/ata-LAB_4"
"""The disk that the backend has not: LVM's."""

OPTIONS = Options(nvme_bytes=GIB, disk_bytes=GIB, disk_count=4, memory_bytes=1024 * MIB)
DEADLINE = 3600.0
Figures = Mapping[str, Mapping[str, Sequence[float]]]


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this bench."""
    parser.add_argument("--runs", type=int, default=30, help="how many clones to make and remove (default: 30)")
    parser.add_argument("--starts", type=int, default=6, help="how many starts with each number of clones (default: 6)")
    parser.add_argument("--turns", type=int, default=7, help="how many runs of fio on each device (default: 7)")
    parser.add_argument("--seconds", type=int, default=2, help="how long a run of fio measures (default: 2)")


def measure(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Report:
    """Everything, in one machine that is removed afterwards. Raises LabError, InsideError, NotReady."""
    if min(chosen.runs, chosen.starts, chosen.turns) < 5:
        raise NotReady("too few runs", why="a median is made of at least 5", hint="raise --runs, --starts or --turns")
    reason = requirements.unmet()
    if reason:
        raise NotReady("the bench cannot run", why=reason)
    begin, load = time.monotonic(), os.getloadavg()[0]
    tell("starting the machine and setting up the store")
    with Lab(requirements.tree(), OPTIONS) as lab:
        prepare(lab)
        tell("setting up LVM")
        lab.call("tests.kernel.inside.lvm:prepare", SPARE, 1000, 64 * MIB, timeout=600)
        inside: Mapping[str, str] = lab.call(f"{INSIDE}:facts", timeout=300)
        disks = follow(lab.begin_call(f"{INSIDE}:disks", chosen.turns, chosen.seconds, timeout=DEADLINE), tell)
        clones = follow(
            lab.begin_call(f"{INSIDE}:everything", SPARE, chosen.runs, chosen.starts, timeout=DEADLINE), tell
        )
    took = time.monotonic() - begin
    return Report("store", {**host(load), **inside, "took": f"{took / 60:.1f} minutes"}, rows(clones, disks))


def prepare(lab: Lab) -> None:
    """The store on three disks, the fourth left to LVM, and a template."""
    names = [f"/dev/disk/by-id/ata-LAB_{number}" for number in (1, 2, 3)]
    for part, changes in (("nvme", {}), ("backend", {"disks": names}), ("store", {})):
        lab.call(setup.part, part, timeout=240, **changes)
    lab.call(setup.in_sync, timeout=300)
    lab.begin(["hatchery-retry"])
    lab.call(f"{INSIDE}:prepare", timeout=300)


def follow(job: Job, tell: Callable[[str], None]) -> Any:
    """Tell what a job prints until it ends; its result."""
    told = 0
    while True:
        ended = job.lab.answered(job.name, 1.0)
        lines = job.stdout.splitlines()
        for line in lines[told:]:
            tell(line)
        told = len(lines)
        if ended:
            return job.result()


def host(load: float) -> dict[str, str]:
    """The machine that this runs on."""
    return {
        "taken": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "host": facts.host(),
        "load": f"{load:.1f} before, {os.getloadavg()[0]:.1f} after (1 minute average)",
    }


def rows(clones: Figures, disks: Figures) -> tuple[Row, ...]:
    """The rows from what was measured. Pure."""
    one, few, many = clones["1"], clones["10"], clones["1000"]
    api = "one request to the API for a durable clone that is not attached, over the unix socket of a running hatcheryd"
    writes, reads = disks["randwrite"], disks["randread"]
    return (
        Row(
            "clone_create_1000_over_1",
            ratio(many["create"], one["create"]),
            "ratio",
            f"{api}: median with 1,000 unattached clones present over median with 1; measured with 1, with 1,000, and"
            " with 1 again",
            at_most(1.2),
            {"1, s": one["create"], "1000, s": many["create"]},
        ),
        Row(
            "clone_remove_1000_over_1",
            ratio(many["remove"], one["remove"]),
            "ratio",
            "the same for its removal, its volume deleted when the answer comes",
            None,
            {"1, s": one["remove"], "1000, s": many["remove"]},
        ),
        Row(
            "lvcreate_1000_over_clone_create_1000",
            ratio(many["lvcreate"], many["create_beside_lvm"]),
            "ratio",
            "`lvcreate -s` of a thin volume with 1,000 thin snapshots in its pool, not activated, without udev, backup"
            " and archive, on a disk of its own, taking turns with our creation above (its process included: LVM has"
            " no service)",
            at_least(10),
            {"lvcreate, s": many["lvcreate"], "clone, s": many["create_beside_lvm"]},
        ),
        Row(
            "lvm_nothing_over_clone_create_1000",
            ratio(many["lvm_nothing"], many["create_beside_lvm"]),
            "ratio",
            "the part of the figure above that is LVM's start alone: `lvm version` over our creation",
            None,
            {"lvm version, s": many["lvm_nothing"]},
        ),
        Row(
            "ephemeral_randwrite_over_raw_nvme",
            paired(writes["ephemeral"], writes["raw"]),
            "ratio",
            "fio, 4 KiB, queue depth 16, libaio, O_DIRECT, over 48 MiB that were written once before, on the device"
            " that is exported, against the raw NVMe partition of the fast pool, beyond what the pool uses; they take"
            " turns, median of the ratios of the pairs",
            at_least(0.8),
            {"raw, requests/s": writes["raw"], "ephemeral, requests/s": writes["ephemeral"]},
        ),
        Row(
            "durable_hit_randread_over_raw_nvme",
            paired(reads["durable"], reads["raw"]),
            "ratio",
            "the same for random reads of a durable clone's exported device (its retry layer) whose 48 MiB are all in"
            " the cache",
            at_least(0.8),
            {"raw, requests/s": reads["raw"], "durable, requests/s": reads["durable"]},
        ),
        Row(
            "durable_hit_backend_reads",
            disks["reads"]["backend"][0],
            "reads",
            "reads of the backend during the row above: none, or it did not measure hits",
            None,
        ),
        Row(
            "startup_1000_over_10",
            ratio(many["startup"], few["startup"]),
            "ratio",
            "`hatchery-store up` and hatcheryd until READY=1 after a clean `hatchery-store down`; the clones are not"
            " attached, for a clone's device exists while it is exported; measured with 10, with 1,000, and with 10"
            " again",
            at_most(2),
            {
                f"{count}, {kind}, s": found[kind]
                for count, found in (("10", few), ("1000", many))
                for kind in ("startup", "store_up", "daemon_ready")
            },
        ),
        Row(
            "daemon_rss_mb",
            median(many["rss"]) / 1e6,
            "MB",
            "memory of hatcheryd in RAM (VmRSS, 10^6 bytes) with 1,000 clones, after they were listed once",
            at_most(100),
            {"bytes": many["rss"]},
        ),
        Row(
            "list_1000_s",
            median(many["list"]),
            "s",
            "one request that lists 1,000 clones, the first after a start",
            None,
            {"s": many["list"]},
        ),
    )
