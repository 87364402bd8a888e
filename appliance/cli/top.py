"""``hatchery top``: what clones, cache and disks do at this moment."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from appliance import client, schema
from appliance.cli.options import JsonOption, session
from appliance.cli.output import out, table
from appliance.model import Histogram
from appliance.words import micros, size


@dataclass(frozen=True, slots=True)
class Rates:
    """What a device did in each second: requests, and bytes."""

    name: str
    reads: float
    read_bytes: float
    writes: float
    write_bytes: float

    @property
    def requests(self) -> float:
        """Reads and writes."""
        return self.reads + self.writes


@dataclass(frozen=True, slots=True)
class CloneRates(Rates):
    """A clone: besides, microseconds within which half of its requests, and 99 %, were done; None without requests."""

    half_within: int | None = None
    most_within: int | None = None


@dataclass(frozen=True, slots=True)
class DiskRates:
    """A whole disk: requests in each second; microseconds within which half of them, and 99 %, were done."""

    disk: str
    role: str
    requests: float
    half_within: int | None
    most_within: int | None


@dataclass(frozen=True, slots=True)
class Picture:
    """What went on in so many ``seconds``. ``hit_percent``: of the bytes that the pool read, those the cache had."""

    seconds: float
    hit_percent: float | None
    pool: Rates
    backend: Rates
    clones: tuple[CloneRates, ...]
    disks: tuple[DiskRates, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that is counted, at one moment. Clones' latencies are by name, disks' by role and name."""

    counters: schema.Counters
    disks: Mapping[tuple[str, str], Histogram]
    clones: Mapping[str, Histogram] = field(default_factory=dict)


def read(connection: client.Client) -> Reading:
    """A reading now. Raises NotReady, CannotTell."""
    counters = connection.counters()
    disks: dict[tuple[str, str], Histogram] = {
        (each.role, each.disk): Histogram(each.histogram.counts) for each in connection.status().disks
    }
    clones = {each.clone: Histogram(each.histogram.counts) for each in connection.latencies().clones}
    return Reading(counters, disks, clones)


def between(before: Reading, after: Reading) -> Picture:
    """What went on between two readings. Pure. A device that came meanwhile counts from zero."""
    then, now = before.counters, after.counters
    seconds = max(now.taken - then.taken, 1e-3)
    pool = _rates("pool", then.cached, now.cached, seconds)
    backend = _rates("backend", then.backend, now.backend, seconds)
    hit = None if not pool.read_bytes else max(0.0, 100 * (1 - backend.read_bytes / pool.read_bytes))
    clones = (_clone(name, before, after, seconds) for name in now.clones)
    disks = []
    for (role, disk), histogram in after.disks.items():
        counted = histogram - before.disks.get((role, disk), Histogram())
        disks.append(
            DiskRates(disk, role, counted.total / seconds, counted.bound(0.5), counted.bound(0.99)),
        )
    busiest = tuple(sorted(clones, key=lambda each: (-each.requests, each.name)))
    return Picture(seconds, hit, pool, backend, busiest, tuple(disks))


def _clone(name: str, before: Reading, after: Reading, seconds: float) -> CloneRates:
    then, now = before.counters.clones.get(name), after.counters.clones[name]
    # What another device of that name has counted says nothing of this one.
    same = then is not None and then.name == now.name
    earlier = before.clones.get(name, Histogram()) if same else Histogram()
    counted = after.clones.get(name, Histogram()) - earlier
    rates = asdict(_rates(name, then, now, seconds))
    return CloneRates(**rates, half_within=counted.bound(0.5), most_within=counted.bound(0.99))


def _rates(name: str, before: schema.DeviceCounters | None, after: schema.DeviceCounters, seconds: float) -> Rates:
    def rate(word: str) -> float:
        now: int = getattr(after, word)
        then: int = getattr(before, word) if before is not None and before.name == after.name else 0
        # Counters begin anew with their device.
        return (now - then if now >= then else now) / seconds

    return Rates(name, rate("reads"), rate("read_bytes"), rate("writes"), rate("write_bytes"))


def top(
    context: typer.Context,
    interval: Annotated[float, typer.Option(min=0.1, max=60, metavar="SECONDS", help="How often to look.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look at one interval, print it and end.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="So many clones, the busiest first.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show what clones, cache and disks do, until Ctrl-C; with --json, a document in each line."""
    run = session(context, as_json)
    with run.connect() as connection:
        pictures = _pictures(connection, interval)
        if once or run.as_json:
            for picture in pictures:
                if run.as_json:
                    sys.stdout.write(json.dumps(asdict(picture)) + "\n")
                    sys.stdout.flush()
                else:
                    out().print(shown(picture, limit))
                if once:
                    return
        try:
            with Live(Text("looking ..."), console=out(), screen=out().is_terminal, auto_refresh=False) as live:
                for picture in pictures:
                    live.update(shown(picture, limit), refresh=True)
        except KeyboardInterrupt:
            return


def _pictures(connection: client.Client, interval: float) -> Iterator[Picture]:
    """What happened in one interval after the other, without an end."""
    before = read(connection)
    while True:
        time.sleep(interval)
        after = read(connection)
        yield between(before, after)
        before = after


def shown(picture: Picture, limit: int) -> RenderableType:
    """A picture as tables."""
    hit = "nothing was read" if picture.hit_percent is None else f"{picture.hit_percent:.1f} % of bytes from the cache"
    head = Text.assemble(("hatchery top", "bold"), f"  {picture.seconds:.1f} s; {hit}")
    store = table("STORE", ">READS/S", ">READ/S", ">WRITES/S", ">WRITTEN/S")
    clones = table("CLONE", ">READS/S", ">READ/S", ">WRITES/S", ">WRITTEN/S", ">HALF WITHIN", ">99 % WITHIN")
    for part in (picture.pool, picture.backend):
        store.add_row(*_cells(part))
    for clone in picture.clones[:limit]:
        clones.add_row(*_cells(clone), micros(clone.half_within), micros(clone.most_within))
    disks = table("DISK", "FOR", ">REQUESTS/S", ">HALF WITHIN", ">99 % WITHIN")
    for disk in picture.disks:
        within = micros(disk.half_within), micros(disk.most_within)
        disks.add_row(disk.disk, disk.role, f"{disk.requests:.0f}", *within)
    left = len(picture.clones) - limit
    more = Text(f"and {left} more" if left > 0 else "" if picture.clones else "no clone is attached")
    return Group(head, Text(), store, Text(), disks, Text(), clones, more)


def _cells(each: Rates) -> tuple[str, ...]:
    return each.name, f"{each.reads:.0f}", size(each.read_bytes), f"{each.writes:.0f}", size(each.write_bytes)
