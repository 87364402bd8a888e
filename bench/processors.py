"""The host's processors: how busy each was while a bench ran, which shows what else it did; and who runs where."""

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
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


def halves(usable: Collection[int]) -> tuple[frozenset[int], frozenset[int]] | None:
    """Processors for a server and for its clients; None when there is one alone. Pure."""
    numbers = sorted(usable)
    middle = len(numbers) // 2
    return (frozenset(numbers[:middle]), frozenset(numbers[middle:])) if middle else None


@contextmanager
def apart(pid: int) -> Iterator[frozenset[int]]:
    """Until its end a process keeps to one half of the processors, and what this one starts to the other.

    Returns that other half, or all of one. Emulated machines that share processors take them from each other at
    random, of which single measurements show more than of anything else.
    """
    before = bound()
    split = halves(before)
    if split is None:
        yield before
        return
    server, clients = split
    _keep_to(pid, server)
    os.sched_setaffinity(0, clients)
    try:
        yield clients
    finally:
        os.sched_setaffinity(0, before)
        _keep_to(pid, before)


def _keep_to(pid: int, numbers: Collection[int]) -> None:
    with suppress(FileNotFoundError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            # One that ends meanwhile is no matter; a new one is where the thread is that starts it.
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), numbers)
