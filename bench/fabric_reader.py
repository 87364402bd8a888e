"""Reads of devices and NBD exports in turns, and what they cost in processor time. Runs in the appliance without fio.

It is told what to do as JSON in its first argument, and tells a line of JSON for each turn. The reads are qemu-img's,
by the kernel's AIO and past the page cache, as fio's engine libaio does them.
"""

import json
import math
import os
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.run import Runner

BLOCK = 4096
FIRST = 4000
"""Reads that tell how many there are to be in a turn."""

_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD (include/linux/sched.h), among a task's flags in /proc/PID/stat."""

_DAEMON, _READER, _KERNEL = "storage daemon", "reader", "kernel's threads"


@dataclass(frozen=True)
class Plan:
    """``targets`` are devices or URIs by name, ``depths`` how many reads at a time, ``seconds`` about those of a turn.

    ``daemons``: process ids of the storage daemons. ``span``: how much of each target is read, in bytes.
    """

    targets: Mapping[str, str]
    depths: Sequence[int]
    turns: int
    seconds: float
    daemons: Sequence[int]
    span: int


@dataclass(frozen=True)
class Turn:
    """``reads`` of 4 KiB took ``seconds``.

    ``cost``: seconds of processor time by who had them, without the reader's start. ``threads``: those of the
    kernel's threads that had most, by what they last did.
    """

    target: str
    depth: int
    reads: int
    seconds: float
    cost: Mapping[str, float]
    threads: Mapping[str, float]


@dataclass(frozen=True)
class Look:
    """Ticks of processor time since the machine started; of the kernel's threads by id and name."""

    spent: Mapping[str, int]
    threads: Mapping[tuple[int, str], int]


def step(blocks: int) -> int:
    """How many blocks lie between two reads: far, and so that all are read before one is read again. Pure."""
    found = int(blocks * 0.618)
    while math.gcd(found, blocks) != 1:
        found += 1
    return found


def order(names: Sequence[str], turn: int) -> list[str]:
    """Who reads after whom: there and back, so that nobody is always the first. Pure."""
    return list(names if turn % 2 == 0 else reversed(names))


def task(stat: str) -> tuple[str, bool, int]:
    """``/proc/PID/stat`` (proc(5)): its name, whether it is a thread of the kernel, its ticks. Pure."""
    head, _, tail = stat.rpartition(")")
    fields = tail.split()
    return head.partition("(")[2], bool(int(fields[6]) & _KERNEL_THREAD), int(fields[11]) + int(fields[12])


def work(name: str) -> str:
    """What a thread of the kernel does: a worker has the queue that it last worked for in its name. Pure."""
    return re.sub(r"^kworker/[^+-]*[+-]?", "", name) or "kworker" if name.startswith("kworker/") else name


def processors(stat: str) -> dict[str, int]:
    """``/proc/stat``: ticks of all processors together, those without work, and those of interrupts. Pure."""
    ticks = [int(word) for word in stat.splitlines()[0].split()[1:9]]
    return {"all": sum(ticks), "idle": ticks[3] + ticks[4], "interrupts": ticks[5] + ticks[6]}


def difference(before: Look, after: Look) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by who had them, and those of the kernel's threads by what they do. Pure."""
    ticks = os.sysconf("SC_CLK_TCK")
    cost = {name: (value - before.spent[name]) / ticks for name, value in after.spent.items()}
    known = {number: value for (number, _), value in before.threads.items()}
    threads: dict[str, float] = {}
    for (number, name), value in after.threads.items():
        # A worker may have come meanwhile, or gone.
        spent = (value - known.get(number, 0)) / ticks
        if spent > 0:
            threads[work(name)] = threads.get(work(name), 0.0) + spent
    return {**cost, _KERNEL: sum(threads.values())}, threads


def look(daemons: Sequence[int]) -> Look:
    """Ask the kernel."""
    threads, spent = {}, {_DAEMON: 0}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, kernels, ticks = task(file.read_text(encoding="utf-8", errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
        number = int(file.parent.name)
        if kernels:
            threads[number, name] = ticks
        if number in daemons:
            spent[_DAEMON] += ticks
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent[_READER] = int((children.ru_utime + children.ru_stime) * os.sysconf("SC_CLK_TCK"))
    return Look({**spent, **processors(Path("/proc/stat").read_text(encoding="ascii"))}, threads)


def took(said: str) -> float:
    """Seconds, as `qemu-img bench` tells them. Raises ValueError. Pure."""
    found = re.search(r"^Run completed in ([0-9.]+) seconds\.$", said, re.MULTILINE)
    if found is None:
        raise ValueError(f"qemu-img does not tell how long it read: {said}")
    return float(found[1])


def read(plan: Plan, target: str, depth: int, reads: int) -> Turn:
    """One run of qemu-img."""
    words = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-i", "native", "-s", str(BLOCK), "-d", str(depth)]
    words += ["-c", str(reads), "-S", str(step(plan.span // BLOCK) * BLOCK), plan.targets[target]]
    before = look(plan.daemons)
    said = Runner().run(words, timeout=600).stdout
    cost, threads = difference(before, look(plan.daemons))
    return Turn(target, depth, reads, took(said), cost, threads)


def without(turn: Turn, start: Turn) -> Turn:
    """A turn without what starting the reader costs, which a turn of next to nothing shows. Pure."""
    cost = {name: max(0.0, value - start.cost[name]) for name, value in turn.cost.items()}
    most = sorted(turn.threads, key=lambda name: -turn.threads[name])[:4]
    return Turn(turn.target, turn.depth, turn.reads, turn.seconds, cost, {name: turn.threads[name] for name in most})


def main() -> None:
    """Take the turns."""
    plan = Plan(**json.loads(sys.argv[1]))
    for depth in plan.depths:
        starts, counts = {}, {}
        for target in plan.targets:
            first = read(plan, target, depth, FIRST)
            counts[target] = max(FIRST, round(FIRST / max(first.seconds, 0.001) * plan.seconds))
            starts[target] = read(plan, target, depth, 1)
        for number in range(plan.turns):
            for target in order(list(plan.targets), number):
                turn = read(plan, target, depth, counts[target])
                print(json.dumps(asdict(without(turn, starts[target]))), flush=True)


if __name__ == "__main__":
    main()
