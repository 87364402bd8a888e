"""How busy each processor was while a bench ran: shows what else the machine did, where the bench is bound to one."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

Ticks = Mapping[int, tuple[int, int]]
"""By processor: ticks in which it worked, and all."""


def read(file: Path = Path("/proc/stat")) -> Ticks:
    """Since the machine started."""
    return parse(file.read_text(encoding="ascii"))


def parse(text: str) -> Ticks:
    """``/proc/stat`` (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal. Pure."""
    found = {}
    for line in text.splitlines():
        name, *words = line.split()
        if name.startswith("cpu") and name != "cpu":
            ticks = [int(word) for word in words[:8]]
            found[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found


def words(before: Ticks, after: Ticks, bound: Collection[int]) -> str:
    """How busy each was in between, and which of them the bench could use. Pure."""
    said = []
    for number, (worked, ticks) in sorted(after.items()):
        begun, had = before.get(number, (0, 0))
        share = (worked - begun) / max(1, ticks - had)
        said.append(f"{number} {share:.0%} busy" + (" (with other work alone)" if number not in bound else ""))
    return ", ".join(said)


def bound() -> frozenset[int]:
    """The processors that this process and its children may use."""
    return frozenset(os.sched_getaffinity(0))
