"""The bench of the peers: rows, the worst trace, rows from elsewhere, tables, traces."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.bootset.trace import Read
from appliance.errors import InvalidInput, NotReady
from appliance.model import MIB
from bench import peers, peers_rows, suite
from bench.report import Report, Row

Figures = dict[str, dict[str, Sequence[float]]]
TRACE, OTHER = "debian", "other"
CLIENT, DISTINCT = 148 * MIB, 142 * MIB


def boots(
    seconds: Sequence[float], backend: float = 0, cache: float = 0, clients: int = 1
) -> dict[str, Sequence[float]]:
    count = len(seconds)
    return {
        "seconds": seconds,
        "backend": [backend] * count,
        "cache": [cache] * count,
        "client": [CLIENT * clients] * count,
    }


def hatchery(slower: float = 1.0) -> Figures:
    fetched = boots([3.0] * 3, backend=150 * MIB, cache=151 * MIB)
    return {
        "first": boots([35.0], backend=DISTINCT, cache=DISTINCT),
        "second": boots([0.6]),
        "prefetch": fetched,
        "prefetched": boots([0.5 * slower, 0.6, 0.5 * slower], backend=0.25 * MIB),
        "warm": boots([0.5, 0.6, 0.4]),
        "raw NVMe": boots([0.4, 0.5, 0.5]),
        "storm 50 prefetch": fetched,
        "storm 50 prefetched": boots([30.0, 33.0, 90.0], backend=1.5 * MIB, cache=3 * MIB, clients=50),
        "storm 50 raw NVMe": boots([25.0, 30.0, 60.0]),
    }


def found(**changes: Figures) -> dict[str, dict[str, Any]]:
    lvm = {"first": boots([23.0, 24.0, 22.0]), "second": boots([5.0, 6.0, 5.5])}
    return {"hatchery": {TRACE: hatchery(), **changes}, "lvm": {TRACE: lvm}}


def values(measured: Mapping[str, Any], *traces: str) -> dict[str, float]:
    return {row.name: row.value for row in peers_rows.rows(measured, dict.fromkeys(traces, DISTINCT))}


def test_the_rows_have_their_names_and_values() -> None:
    assert values(found(), TRACE) == pytest.approx(
        {
            "prefetched_hit_bytes": 1 - 0.25 / 148,
            "prefetched_over_warm": 1.0,
            "prefetched_over_raw_nvme": 1.2,
            "lvmcache_first_over_prefetched": 46.0,
            "lvmcache_second_over_warm": 11.0,
            "total_read_amplification": 150.25 / 148,
            "prefetch_waste": 1 - 141.75 / 150,
            "storm50_backend_bytes_over_one": 151.5 / 150.25,
            "storm50_cache_bytes_over_one": 154 / 151,
            "storm50_time_over_fair_share": 1.2,
        }
    )


def test_every_figure_is_held_to_something() -> None:
    limits = {row.name: str(row.held_to) for row in peers_rows.rows(found(), {TRACE: DISTINCT})}
    assert limits == {
        "prefetched_hit_bytes": ">= 0.995",
        "prefetched_over_warm": "<= 1.05",
        "prefetched_over_raw_nvme": "<= 1.3",
        "lvmcache_first_over_prefetched": ">= 20",
        "lvmcache_second_over_warm": ">= 5",
        "total_read_amplification": "<= 1.1",
        "prefetch_waste": "<= 0.1",
        "storm50_backend_bytes_over_one": "<= 1.02",
        "storm50_cache_bytes_over_one": "<= 1.05",
        "storm50_time_over_fair_share": "<= 1.2",
    }


def test_with_several_traces_the_worst_counts() -> None:
    measured = found(other=hatchery(slower=3))
    measured["lvm"][OTHER] = measured["lvm"][TRACE]
    both = {row.name: row for row in peers_rows.rows(measured, {TRACE: DISTINCT, OTHER: DISTINCT})}
    assert both["prefetched_over_warm"].value == pytest.approx(3.0)
    assert both["lvmcache_first_over_prefetched"].value == pytest.approx(23 / 1.5)
    assert not both["prefetched_over_warm"].ok
    assert "debian 1, other 3" in both["prefetched_over_warm"].note
    assert set(both["prefetched_over_warm"].runs) == {
        f"{trace}: {what}, s" for trace in (TRACE, OTHER) for what in ("prefetched", "warm")
    }


def test_what_was_not_measured_has_no_row() -> None:
    measured = found()
    del measured["lvm"]
    for what in [name for name in measured["hatchery"][TRACE] if name.startswith("storm 50")]:
        del measured["hatchery"][TRACE][what]
    assert set(values(measured, TRACE)) == {
        "prefetched_hit_bytes",
        "prefetched_over_warm",
        "prefetched_over_raw_nvme",
        "total_read_amplification",
        "prefetch_waste",
    }


def test_a_whole_report_names_the_rows_that_it_lacks() -> None:
    told = peers.whole(peers.report({}, found(), {TRACE: [Read(0, 4096)]}, ()))
    assert told.lacking == tuple(peers_rows.ELSEWHERE)
    assert "- Not measured: prefetch_over_sequential" in told.page()
    told = peers.whole(replace(told, rows=(*told.rows, *(row(name) for name in told.lacking))))
    assert told.lacking == ()
    assert "Not measured" not in told.page()


def row(name: str) -> Row:
    return Row(name, 1.0, "ratio", "", None, {})


def test_rows_of_real_boots_are_merged_with_their_limits() -> None:
    row = {
        "name": "learning_cost",
        "value": 0.05,
        "unit": "ratio",
        "note": "with and without",
        "runs": {"with, s": [1]},
    }
    other = {**row, "name": "something_else"}
    (merged,) = peers_rows.merged([{"bench": "boots", "host": {"taken": "today"}, "rows": [row, other]}])
    assert (merged.name, merged.value, str(merged.held_to), merged.ok) == ("learning_cost", 0.05, "<= 0.03", False)
    assert merged.note == "with and without (from the bench boots, today)"


def test_the_tables_put_the_peers_side_by_side() -> None:
    measured = found()
    measured["hatchery"]["clones"] = {"1": {"seconds": [0.02], "space": [2048.0]}, "1000": {"seconds": [0.021]}}
    measured["nbdkit"] = {"clones": {"1": {"seconds": [0.1], "space": [4096.0]}}}
    first, storm, clones = peers_rows.tables(measured, [TRACE])
    assert first.lines == (
        ("Hatchery", "35", "0.6", "3", "0.5", "142.0", "0", "0.25", "142.0"),
        ("LVM thin, lvmcache", "23", "5.5", "", "", "0", "0", "", "0"),
        ("raw NVMe", "0.5", "", "", "", "", "", "", ""),
    )
    assert storm.head[1:4] == ("last of 1 done, s", "last of 50 done, s", "backend MiB of 1")
    assert storm.lines == (
        ("Hatchery", "35", "", "142.0", "", "142.0", ""),
        ("Hatchery, prefetched", "0.5", "33", "0.25", "1.5", "0", "0.06"),
        ("raw NVMe", "0.5", "30", "", "", "", ""),
        ("LVM thin, lvmcache", "23", "", "0", "", "0", ""),
    )
    assert clones.lines == (("Hatchery", "20", "21", "2", ""), ("nbdkit, cow and cache", "100.0", "", "4", ""))


def test_tables_are_part_of_the_page_and_figures_of_the_json() -> None:
    report = Report("peers", {"host": "a machine"}, (), peers_rows.tables(found(), [TRACE]), {"hatchery": {}})
    assert "## Boots, debian\n\n| set-up | first boot, s |" in report.page()
    assert "**Boots, debian**\n\n| set-up | first boot, s |" in report.section()
    assert "- Host: a machine" in report.section()
    assert "\n\nBoots, debian\nset-up" in report.text()
    assert json.loads(json.dumps(report.as_json()))["figures"] == {"hatchery": {}}


def test_an_earlier_run_can_be_reported_anew_with_rows_from_elsewhere(tmp_path: Path) -> None:
    trace = tmp_path / f"{TRACE}.trace"
    trace.write_text("0 4096 0\n", encoding="utf-8")
    (tmp_path / "peers.json").write_text(
        json.dumps(peers.report({"host": "a machine"}, found(), {TRACE: peers.load(trace)}, ()).as_json())
    )
    row = {"name": "learning_cost", "value": 0.01, "unit": "share", "note": "real boots", "runs": {"s": [1.0]}}
    (tmp_path / "learn.json").write_text(json.dumps({"bench": "learn", "host": {}, "rows": [row]}))
    words = ["--measured", str(tmp_path / "peers.json"), "--with", str(tmp_path / "learn.json"), "--trace"]
    told = peers.measure(suite.parse(["peers", *words, str(trace)]), lambda _: None)
    assert told.host["host"] == "a machine"
    assert "learning_cost" not in told.lacking
    names = [each.name for each in told.rows]
    assert {"prefetched_over_warm", "learning_cost"} <= set(names)
    with pytest.raises(InvalidInput, match="other traces"):
        peers.report({}, found(), {OTHER: []}, ())


def test_a_set_up_that_broke_off_costs_the_others_nothing() -> None:
    measured = {**found(), "nbdkit": {peers.FAILED: "50 boots at once: it died"}}
    told = peers.report({"host": "a machine"}, measured, {TRACE: [Read(0, 4096)]}, ())
    assert told.host["broke off"] == "nbdkit, cow and cache (50 boots at once: it died)"
    assert "prefetched_over_warm" in [row.name for row in told.rows]
    assert not peers.report({}, {"hatchery": {peers.FAILED: "at once"}}, {TRACE: []}, ()).rows


def test_a_set_up_that_broke_off_between_two_that_take_turns_has_the_other_rows() -> None:
    measured = found()
    measured["hatchery"][TRACE]["warm"] = boots([0.5, 0.6])
    assert {"prefetched_over_warm", *values(measured, TRACE)} == set(values(found(), TRACE))
    assert "prefetched_over_warm" not in values(measured, TRACE)


def test_a_boot_while_it_is_prefetched_has_a_line() -> None:
    measured = found()
    measured["hatchery"][TRACE]["meanwhile"] = boots([7.0, 9.0, 8.0], backend=152 * MIB)
    first, *_ = peers_rows.tables(measured, [TRACE])
    assert ("Hatchery, while it is prefetched", "8", "", "", "", "152.0", "", "", "0") in first.lines
    assert values(measured, TRACE)["meanwhile_backend_over_prefetch"] == pytest.approx(152 / 150)


def test_what_boots_at_once_read_without_a_prefetch_is_told_and_held_to_nothing() -> None:
    measured = found()
    measured["hatchery"][TRACE]["storm 50 first"] = boots(
        [80.0], backend=21 * DISTINCT, cache=20 * DISTINCT, clients=50
    )
    made = {row.name: row for row in peers_rows.rows(measured, {TRACE: DISTINCT})}
    for figure, value in (("backend", 21), ("cache", 20)):
        row = made[f"storm50_cold_{figure}_bytes_over_one"]
        assert row.value == pytest.approx(value)
        assert row.held_to is None
        assert row.name not in peers_rows.names(), "a whole report may be without it"


def test_figures_of_several_runs_come_together_and_the_first_counts() -> None:
    first: dict[str, Any] = {"host": {"taken": "monday"}, "figures": {"lvm": {TRACE: {"first": 1}, "clones": {}}}}
    second: dict[str, Any] = {
        "host": {"taken": "tuesday", "load": "0.1"},
        "figures": {"lvm": {TRACE: {"first": 2}, "clones": {"1": 3}}},
    }
    assert peers.together([first, second]) == {"lvm": {TRACE: {"first": 1}, "clones": {"1": 3}}}
    told = peers.hosts([first, second])
    assert told == {"taken": "monday", "in part of other runs": "LVM thin, lvmcache (clones): tuesday, load 0.1"}
    assert peers.hosts([second, first]) == second["host"], "nothing is monday's"


def test_what_broke_off_in_one_run_is_another_runs() -> None:
    broken: dict[str, Any] = {
        "host": {"broke off": "LVM (it died)"},
        "figures": {"lvm": {TRACE: {"first": 1}, peers.FAILED: "it died"}},
    }
    good: dict[str, Any] = {"host": {}, "figures": {"lvm": {TRACE: {"first": 2}, "clones": {"1": 3}}}}
    for runs, first in (([broken, good], 1), ([good, broken], 2)):
        assert peers.together(runs) == {"lvm": {TRACE: {"first": first}, "clones": {"1": 3}}}
        assert "broke off" not in peers.hosts(runs)
    assert peers.together([broken]) == broken["figures"], "alone it is still broken"


def test_boots_and_what_clones_cost_can_be_measured_apart() -> None:
    assert peers.plan_for("lvm", False, peers.Part.BOOTS).present == ()
    alone = peers.plan_for("lvm", False, peers.Part.CLONES)
    assert (alone.rounds, alone.pairs, alone.storms, alone.present) == (0, 0, (), (1, 100, 1000))


def test_blocks_that_are_read_twice_count_once() -> None:
    reads = [Read(0, 512), Read(512, 512), Read(4095, 2), Read(1 << 20, 8192)]
    assert peers.distinct({TRACE: reads}) == {TRACE: 4 * 4096}


def test_the_traces_can_be_read() -> None:
    paths = sorted(peers.TRACES.glob("*.trace"))
    assert paths
    said = (peers.TRACES / "README.md").read_text(encoding="utf-8")
    for path in paths:
        assert len(peers.load(path)) > 100
        assert f"`{path.name}`" in said, "where it comes from is written down"


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.trace"
    path.write_text("# a trace\n0 512\nhello\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match=r"wrong\.trace"):
        peers.load(path)


def test_a_busy_machine_is_said_to_be_one() -> None:
    assert peers.quiet(0.2).startswith("yes")
    assert peers.quiet(4.0).startswith("NO: 4.0")


def test_only_what_is_compared_is_measured_five_times() -> None:
    chosen = suite.parse(["peers", "--quick", "--peer", "lvm", "--with", "boots.json"])
    assert (chosen.quick, chosen.peer, chosen.others) == (True, ["lvm"], [Path("boots.json")])
    assert [peers.plan_for(key, False).rounds for key in ("hatchery", "lvm", "qcow2")] == [2, 5, 2]
    assert peers.plan_for("lvm", True).storms == (10,)


def test_a_machine_that_would_kill_the_storage_daemon_of_50_clients_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "max_map_count"
    file.write_text("65530\n")
    with pytest.raises(NotReady, match="65530") as refused:
        peers.check_mappings(file)
    assert "sysctl vm.max_map_count=1048576" in refused.value.hint
    file.write_text("1048576\n")
    peers.check_mappings(file)
