"""What clones cost, measured through the API of a real hatcheryd: with one and with many present. Times in seconds."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance import wait
from appliance.client import Client, connect
from appliance.errors import HatcheryError
from appliance.model import CloneKind
from appliance.run import Process, Runner
from appliance.schema import CloneCreate
from tests.kernel.inside import iops, lvm, service

TEMPLATE = "bench"
SIZE = 64 * 2**20
"""Of the template, bytes: more than fio writes on one clone."""

FEW, MANY = 10, 1000

_READY = 300.0
Figures = dict[str, list[float]]


def prepare() -> None:
    """The template that all clones are made of."""
    with daemon():
        path = Path("/run/bench.raw")
        path.write_bytes(service.content(1, SIZE))
        service.add(TEMPLATE, str(path), "raw")
        path.unlink()


def everything(disk: str, runs: int, starts: int) -> dict[str, Any]:
    """All that depends on how many clones there are: few, many, and few again, so that a drift shows on both sides.

    ``runs`` clones are made and removed with one and with many present, ``starts`` times the store and the daemon are
    started with few and with many; LVM's snapshots are on ``disk``.
    """
    half = -(-runs // 2), -(-starts // 2)
    found: dict[str, Figures] = {}
    creations(found, 1, half[0])
    startups(found, FEW, half[1])
    startups(found, MANY, starts)
    creations(found, MANY, half[0] * 2)
    beside_lvm(found, disk, half[0])
    startups(found, FEW, half[1])
    creations(found, 1, half[0])
    return found


def creations(found: dict[str, Figures], present: int, runs: int) -> None:
    """Make a clone and remove it again, ``runs`` times, with ``present`` others there."""
    with daemon(), connect() as api:
        reach(api, present)
        print(f"making and removing clones with {present} present", flush=True)
        # The first of each is not counted: it imports and compiles what the others find.
        for number in range(-1, runs):
            figures = {"create": _timed_create(api, "extra"), "remove": _timed_remove(api, "extra")}
            if number >= 0:
                note(found, present, figures)


def beside_lvm(found: dict[str, Figures], disk: str, runs: int) -> None:
    """Make and remove a clone and a snapshot of LVM's in turn, with many of both there."""
    with daemon(), connect() as api:
        reach(api, MANY)
        print(f"making snapshots with LVM and clones with {MANY} present", flush=True)
        for number in range(-1, runs):
            figures = {"lvcreate": lvm.snapshot(disk, "extra"), "lvm_nothing": lvm.nothing()}
            lvm.remove(disk, "extra")
            figures["create_beside_lvm"] = _timed_create(api, "extra")
            _timed_remove(api, "extra")
            if number >= 0:
                note(found, MANY, figures)


def startups(found: dict[str, Figures], present: int, runs: int) -> None:
    """Stop the daemon and the store and start them again, ``runs`` times, with ``present`` clones there."""
    with daemon(), connect() as api:
        reach(api, present)
    for number in range(runs):
        print(f"start {number + 1} of {runs} with {present} clones", flush=True)
        Runner().run(["hatchery-store", "down"])
        begin = time.perf_counter()
        Runner().run(["hatchery-store", "up"])
        up = time.perf_counter()
        with daemon() as process:
            ready = time.perf_counter()
            with connect() as api:
                asked = time.perf_counter()
                shown = len(api.clones())
                listed = time.perf_counter()
            if shown != present:
                raise RuntimeError(f"{shown} clones are listed, {present} are there")
            figures = {"startup": ready - begin, "store_up": up - begin, "daemon_ready": ready - up}
            note(found, present, {**figures, "list": listed - asked, "rss": resident(process.pid)})


def note(found: dict[str, Figures], present: int, figures: dict[str, float]) -> None:
    """Keep one measurement of each kind."""
    for kind, value in figures.items():
        found.setdefault(str(present), {}).setdefault(kind, []).append(value)


def reach(api: Client, present: int) -> None:
    """Make or remove clones until ``present`` are there, none of them attached."""
    names = sorted(clone.name for clone in api.clones())
    if len(names) < present:
        count = present - len(names)
        print(f"making {count} clones in one batch", flush=True)
        wanted = CloneCreate(name=f"many{time.time_ns()}", template=TEMPLATE, count=count, client=None)
        api.create_clones(wanted)
    elif len(names) > present:
        print(f"removing {len(names) - present} clones", flush=True)
    for name in names[present:]:
        api.remove_clone(name)


def _timed_create(api: Client, name: str) -> float:
    wanted = CloneCreate(name=name, template=TEMPLATE, client=None)
    begin = time.perf_counter()
    api.create_clones(wanted)
    return time.perf_counter() - begin


def _timed_remove(api: Client, name: str) -> float:
    begin = time.perf_counter()
    api.remove_clone(name)
    return time.perf_counter() - begin


def resident(pid: int) -> float:
    """Bytes of memory that a process has in RAM (proc_pid_status(5))."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no memory")


@contextmanager
def daemon(deadline: float = _READY) -> Iterator[Process]:
    """hatcheryd, from its READY=1 on (sd_notify(3)), for which it has so many seconds, until it has ended."""
    path, log_file = Path("/run/bench-notify"), Path("/run/bench-hatcheryd.log")
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as words, log_file.open("ab") as log:
        words.bind(str(path))
        words.setblocking(False)
        process = Runner({"NOTIFY_SOCKET": str(path)}).start(["hatcheryd"], stderr=log)

        def ready() -> bool:
            try:
                said = words.recv(4096).split(b"\n")
            except BlockingIOError:
                if not process.running():
                    raise RuntimeError(f"hatcheryd ended:\n{log_file.read_text(errors='replace')}") from None
                return False
            return b"READY=1" in said

        with process:
            wait.until(ready, "hatcheryd to be ready", deadline=deadline, interval=0.01)
            yield process


def disks(runs: int, seconds: int) -> dict[str, Figures]:
    """4 KiB requests a second, 16 at a time, of an ephemeral and a durable clone and of the raw NVMe partition.

    What is measured was written once before, and a durable clone's blocks are in the cache.
    """
    with daemon(), connect() as api:
        for clone in api.clones():
            api.remove_clone(clone.name, force=True)
        kinds = {"ephemeral": CloneKind.EPHEMERAL, "durable": CloneKind.DURABLE}
        devices = {}
        for name, kind in kinds.items():
            (made,) = api.create_clones(CloneCreate(name=name, template=TEMPLATE, kind=kind))
            devices[name] = (made.device, 0)
            print(f"filling the {name} clone", flush=True)
            iops.fill(made.device)
        # The raw partition reads what was written there, as the clones do.
        raw = iops.bare_partition()
        writes = {"raw": raw, "ephemeral": devices["ephemeral"]}
        reads = {"raw": raw, "durable": devices["durable"]}
        print("random writes", flush=True)
        found = {"randwrite": iops.take_turns(writes, "randwrite", runs, seconds)}
        iops.requests_a_second(devices["durable"][0], "read", seconds=seconds)
        before = api.counters()
        print("random reads", flush=True)
        found["randread"] = iops.take_turns(reads, "randread", runs, seconds)
        after = api.counters()
        found["reads"] = {"backend": [float(after.backend.reads - before.backend.reads)]}
        for name in kinds:
            api.remove_clone(name, force=True)
        return found


def facts() -> dict[str, str]:
    """What the machine inside runs."""
    run = Runner().run
    release = os.uname().release
    lvm_version = next(line for line in run(["lvm", "version"]).stdout.splitlines() if "LVM version" in line)
    try:
        with daemon(), connect() as api:
            pool = api.status().store.pool
    except HatcheryError:
        pool = None
    words = (
        ""
        if pool is None
        else f", pool of {pool.data_total >> 20} MiB with {pool.metadata_total >> 20} MiB of metadata"
    )
    return {
        "kernel": f"{release} (User-Mode Linux){words}",
        "tools": f"LVM {lvm_version.split(':')[1].split()[0]}, {run(['fio', '--version']).stdout.strip()}",
    }
