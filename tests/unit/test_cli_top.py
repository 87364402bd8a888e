"""What went on between two readings, and how it is shown."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance import schema
from appliance.cli.main import main
from appliance.cli.top import Reading, between
from appliance.model import MIB, Histogram
from tests.unit.api_server import serving
from tests.unit.service_harness import Box, box

STATS = schema.CacheCounters(hits=0, misses=0, bypass_hits=0, bypass_misses=0, bypassed_bytes=0)


def device(
    name: str, reads: int = 0, read_bytes: int = 0, writes: int = 0, write_bytes: int = 0
) -> schema.DeviceCounters:
    return schema.DeviceCounters(
        name=name, reads=reads, read_bytes=read_bytes, writes=writes, write_bytes=write_bytes, discards=0
    )


def reading(taken: float, pool: int, backend: int, counts: tuple[int, ...], **clones: schema.DeviceCounters) -> Reading:
    counters = schema.Counters(
        taken=taken, cache=None, cached=device("bcache0", read_bytes=pool), backend=device("md127", read_bytes=backend),
        meta=None, disks=(), cache_stats=STATS, clones=clones,
    )  # fmt: skip
    return Reading(counters, {("backend", "sda"): Histogram(counts)})


def test_rates_are_those_of_the_interval() -> None:
    before = reading(10.0, 100, 50, (0, 4), web=device("dm-1", 100, 1000, 10, 100))
    after = reading(14.0, 500, 150, (0, 4, 8), web=device("dm-1", 300, 5000, 10, 100))
    picture = between(before, after)
    assert picture.seconds == 4
    assert picture.hit_percent == 75
    [web] = picture.clones
    assert (web.reads, web.read_bytes, web.writes, web.requests) == (50, 1000, 0, 50)
    [disk] = picture.disks
    assert (disk.requests, disk.half_within) == (2, 8), "what was counted before does not count"


def test_a_clone_that_came_or_came_back_counts_from_zero() -> None:
    before = reading(0.0, 0, 0, (), web=device("dm-1", 900), db=device("dm-2", 900))
    after = reading(1.0, 0, 0, (), web=device("dm-1", 40), db=device("dm-7", 950), new=device("dm-3", 70))
    assert [(each.name, each.reads) for each in between(before, after).clones] == [
        ("db", 950),
        ("new", 70),
        ("web", 40),
    ]


def timed(taken: float, device_name: str, *counts: int) -> Reading:
    base = reading(taken, 0, 0, (), web=device(device_name, sum(counts)))
    return Reading(base.counters, {}, {"web": Histogram(counts)})


def test_a_clones_latencies_are_those_of_the_interval() -> None:
    slow, quick = timed(0.0, "dm-1", 0, 0, 0, 500), timed(1.0, "dm-1", 0, 98, 0, 500, 0, 2)
    [web] = between(slow, quick).clones
    assert (web.half_within, web.most_within) == (4, 64), "500 slower ones were before"
    [idle] = between(quick, quick).clones
    assert (idle.half_within, idle.most_within) == (None, None)
    [anew] = between(slow, timed(1.0, "dm-7", 0, 0, 0, 600)).clones
    assert (anew.reads, anew.half_within) == (600, 16), "another device counts from zero"


def test_without_reads_there_is_no_hit_rate_and_none_is_below_zero() -> None:
    assert between(reading(0.0, 5, 5, ()), reading(1.0, 5, 9, ())).hit_percent is None
    assert between(reading(0.0, 0, 0, ()), reading(1.0, 5, 9, ())).hit_percent == 0


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        made.add_template("debian")
        made.service.create_clones(schema.CloneCreate(name="web", template="debian", count=3))
        with serving(made):
            yield made


def test_once_prints_one_look(
    appliance: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    appliance.store.disk_counts = {"ubdb": Histogram((0, 3))}
    busy = appliance.service.core.catalog.clone("web-1").thin_id
    looks = iter(range(100))
    monkeypatch.setattr(
        appliance.store, "clone_latencies", lambda thin_id: Histogram((0,) * 9 + (next(looks) * (thin_id == busy),))
    )
    words = ["--socket", str(appliance.paths.api_socket), "top", "--once", "--interval", "0.1"]
    assert main([*words, "--limit", "2"]) == 0
    said = capsys.readouterr().out
    assert "nothing was read" in said
    assert "ubdb" in said
    [line] = [line for line in said.splitlines() if line.startswith("web-1")]
    assert line.count("1.02 ms") == 2, "half and 99 % of its requests, as another look found"
    assert "web-3" not in said
    assert "and 1 more" in said
    assert main([*words, "--json"]) == 0
    picture = json.loads(capsys.readouterr().out)
    assert [clone["name"] for clone in picture["clones"]] == ["web-1", "web-2", "web-3"]
    assert picture["hit_percent"] is None
    assert [clone["half_within"] for clone in picture["clones"]] == [1024, None, None]


def test_a_reader_that_goes_away_ends_it(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """``hatchery top --json | head -1``"""
    written: list[str] = []

    class Pipe:
        def write(self, text: str) -> int:
            if written:
                raise BrokenPipeError
            written.append(text)
            return len(text)

        def flush(self) -> None:
            """Nothing is held back."""

        def fileno(self) -> int:
            return target.fileno()

    with (appliance.folder / "out").open("w") as target:
        monkeypatch.setattr("sys.stdout", Pipe())
        words = ["--socket", str(appliance.paths.api_socket), "top", "--json", "--interval", "0.1"]
        assert main(words) == 141
    assert json.loads(written[0])["pool"]["name"] == "pool"


def test_sizes_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from appliance.cli.top import shown

    picture = between(reading(0.0, 0, 0, ()), reading(1.0, 8 * MIB, 2 * MIB, ()))
    Console(width=120).print(shown(picture, 5))
    said = capsys.readouterr().out
    assert "75.0 % of bytes from the cache" in said
    assert "8.0 MiB" in said
    assert "no clone is attached" in said


def test_it_goes_on_until_it_is_interrupted(
    appliance: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks: list[float] = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("appliance.cli.top.time", SimpleNamespace(sleep=pause))
    assert main(["--socket", str(appliance.paths.api_socket), "top", "--interval", "5"]) == 0
    assert looks == [5, 5, 5]
    assert "web-1" in capsys.readouterr().out
