"""Benches: verdicts, table, JSON, page, and rows from what was measured."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import access, boots, store, suite
from bench.report import Limit, Report, Row, at_least, at_most, number, paired, ratio
from tests.kernel.inside import lvm

SLOW = Row("slow", 1.3, "ratio", "how slow it is", at_most(1.2), {"many, s": [2.6, 1.3, 5.2], "few, s": [2.0, 1.0]})
LIGHT = Row("light", 61.5, "MB", "how light it is", at_most(100))
TOLD = Row("told", 3, "reads", "nothing is asked of it")
REPORT = Report("things", {"host": "a machine", "taken": "today"}, (SLOW, LIGHT, TOLD))

GROUP = Path(__file__).parents[1] / "data" / "lvm" / "2.03.31-vgcfgbackup.txt"

DISKS = {
    "randwrite": {"raw": [100.0, 200.0, 100.0], "ephemeral": [90.0, 180.0, 10.0]},
    "randread": {"raw": [100.0, 100.0, 100.0], "durable": [70.0, 75.0, 95.0]},
    "reads": {"backend": [0.0]},
}


def clones() -> dict[str, dict[str, list[float]]]:
    once = {"create": [0.02, 0.01, 0.5], "remove": [0.02], "startup": [4.0], "store_up": [3.0], "daemon_ready": [1.0]}
    many = {
        **once,
        "create": [0.02, 0.022],
        "create_beside_lvm": [0.02, 0.022],
        "startup": [6.0],
        "lvcreate": [0.3, 0.4],
        "lvm_nothing": [0.03],
        "rss": [62e6],
        "list": [0.2],
    }
    return {"1": once, "10": once, "1000": many}


@pytest.mark.parametrize(
    ("limit", "value", "met"),
    [
        (at_most(1.2), 1.2, True),
        (at_most(1.2), 1.21, False),
        (at_least(10), 10, True),
        (at_least(10), 9.99, False),
    ],
)
def test_a_limit_is_met_up_to_its_bound(limit: Limit, value: float, met: bool) -> None:
    assert limit.met(value) is met


def test_limits_read_as_they_are_held_to() -> None:
    assert [str(at_most(1.2)), str(at_least(10)), str(at_most(100))] == ["<= 1.2", ">= 10", "<= 100"]


def test_only_a_row_with_a_limit_can_miss() -> None:
    assert [row.ok for row in REPORT.rows] == [False, True, True]
    assert REPORT.missed == (SLOW,)
    assert suite.missed(REPORT.missed) == "slow is 1.3, held to <= 1.2"


def test_json_has_rows_with_verdicts_and_single_runs() -> None:
    found = json.loads(json.dumps(REPORT.as_json()))
    assert found["bench"] == "things"
    assert found["host"] == {"host": "a machine", "taken": "today"}
    assert [(row["name"], row["value"], row["unit"], row["held_to"], row["ok"]) for row in found["rows"]] == [
        ("slow", 1.3, "ratio", "<= 1.2", False),
        ("light", 61.5, "MB", "<= 100", True),
        ("told", 3, "reads", None, True),
    ]
    assert found["rows"][0]["runs"] == {"many, s": [2.6, 1.3, 5.2], "few, s": [2.0, 1.0]}


def test_the_table_has_a_line_for_each_row() -> None:
    assert REPORT.text().splitlines() == [
        "row    value  unit   held to",
        "slow     1.3  ratio  <= 1.2   MISSED",
        "light   61.5  MB     <= 100   ok",
        "told       3  reads",
    ]


def test_the_page_tells_host_figures_notes_and_medians() -> None:
    page = REPORT.page()
    assert "- Host: a machine\n- Taken: today" in page
    assert "| slow | 1.3 | ratio | <= 1.2 | MISSED |" in page
    assert "- `told`: nothing is asked of it." in page
    assert "| slow | many, s | 3 | 1.3 | 2.6 | 5.2 |" in page


@pytest.mark.parametrize(
    ("value", "text"), [(0.83412, "0.834"), (12.34, "12.3"), (412.31, "412.3"), (8412.3, "8,412"), (0, "0")]
)
def test_numbers_have_the_digits_that_mean_something(value: float, text: str) -> None:
    assert number(value) == text


def test_one_outlier_does_not_decide() -> None:
    assert ratio([2, 2, 90], [1, 1, 50]) == 2
    assert paired([9, 18, 1], [10, 20, 10]) == pytest.approx(0.9)


def test_rows_of_access() -> None:
    exports = {
        "first": [0.1, 0.2],
        "last": [0.2, 0.25],
        "connected": [500.0],
        "memory": [38e6],
        "memory_connected": [44e6],
    }
    clients = {"connected": [50.0], "memory": [700e6]}
    requests = {
        "qd1": {"device": [10000.0, 10000.0], "unix": [5000.0, 5000.0]},
        "qd16": {"device": [100.0, 200.0, 100.0], "unix": [60.0, 120.0, 10.0]},
        "tls": {"plain": [100.0], "tls": [70.0]},
    }
    slow = {kind: {each: [value / 2 for value in values] if each == "unix" else values for each, values in pair.items()}
            for kind, pair in requests.items()}  # fmt: skip
    rows = {row.name: row for row in access.rows(exports, clients, requests, slow)}
    assert tuple(rows) == access.LAB_NAMES
    assert {row.name: str(row.held_to) for row in rows.values() if row.held_to} == {
        "export_ms_500_over_1": "<= 1.5",
        "exports_per_daemon": ">= 500",
        "clients_at_once": ">= 50",
        "nbd_qd16_over_device": ">= 0.55",
        "nbd_qd1_over_device": ">= 0.4",
    }
    assert all(row.ok for row in rows.values())
    expected = {
        "export_ms_500_over_1": 1.5,
        "daemon_500_mb": 44.0,
        "daemons_50_mb": 700.0,
        "nbd_qd16_over_device": 0.6,
        "host_nbd_qd16_over_device": 0.3,
        "tls_over_plain": 0.7,
        "host_nbd_adds_us": 300.0,
    }
    assert {name: rows[name].value for name in expected} == pytest.approx(expected)


def test_rows_of_the_store() -> None:
    rows = {row.name: row for row in store.rows(clones(), DISKS)}
    assert {row.name: str(row.held_to) for row in rows.values() if row.held_to} == {
        "clone_create_1000_over_1": "<= 1.2",
        "lvcreate_1000_over_clone_create_1000": ">= 10",
        "ephemeral_randwrite_over_raw_nvme": ">= 0.8",
        "durable_hit_randread_over_raw_nvme": ">= 0.8",
        "startup_1000_over_10": "<= 2",
        "daemon_rss_mb": "<= 100",
    }
    values = {name: pytest.approx(row.value) for name, row in rows.items()}
    assert values["clone_create_1000_over_1"] == 1.05
    assert values["lvcreate_1000_over_clone_create_1000"] == 0.35 / 0.021
    assert values["ephemeral_randwrite_over_raw_nvme"] == 0.9
    assert values["durable_hit_randread_over_raw_nvme"] == 0.75
    assert values["startup_1000_over_10"] == 1.5
    assert values["daemon_rss_mb"] == 62
    assert [name for name, row in rows.items() if not row.ok] == ["durable_hit_randread_over_raw_nvme"]
    assert all(row.note for row in rows.values())


def test_rows_of_boots() -> None:
    boot = {"phase": "cold", "seconds": 80.0, "backend_bytes": 1000}
    measured: dict[str, Any] = {
        "facts": {"taken": "today", "host": "a machine", "guests": "QEMU", "appliance": "hatchery"},
        "boots": [boot, {**boot, "phase": "warm", "seconds": 60.0, "backend_bytes": 10}],
    }
    found = boots.report(measured)
    assert {row.name: row.value for row in found.rows} == {
        "boot_warm_over_cold": 0.75,
        "backend_bytes_warm_over_cold": 0.01,
    }
    assert boots.report({**measured, "boots": [boot]}).rows == ()
    fetched = {**boot, "phase": "prefetched", "seconds": 40.0, "backend_bytes": 0}
    found = boots.report({**measured, "boots": [boot, fetched]})
    assert [(row.name, row.value) for row in found.rows] == [
        ("boot_prefetched_over_cold", 0.5),
        ("backend_bytes_prefetched_over_cold", 0.0),
    ]


def test_help_lists_the_benches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        suite.parse(["--help"])
    said = capsys.readouterr().out
    wrapper = (suite.ROOT / "script" / "bench").read_text(encoding="utf-8")
    for name in suite.BENCHES:
        assert name in said
        assert f"\n  {name}  " in wrapper


@pytest.mark.parametrize(("rows", "status"), [((LIGHT,), 0), ((SLOW, LIGHT), 1)])
def test_the_exit_status_tells_of_a_missed_figure(
    rows: tuple[Row, ...],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench = suite.BENCHES["store"]
    changed = replace(bench, measure=lambda *_: Report("store", {}, rows))
    monkeypatch.setattr(suite, "BENCHES", {**suite.BENCHES, "store": changed})
    assert suite.main(["store", "--json", str(tmp_path / "out.json")]) == status
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == len(rows)
    assert ("slow is 1.3, held to <= 1.2" in capsys.readouterr().err) is (status == 1)
    for words in ([], ["-"]):
        chosen = suite.parse(["store", "--json", *words])
        assert (chosen.json, chosen.print_json) == (None, True), "a bench keeps what it has so far in a file alone"
    assert suite.main(["store", "--json"]) == status
    assert len(json.loads(capsys.readouterr().out)["rows"]) == len(rows), "nothing but the document"


def test_docs_are_written_from_a_run_and_the_page_of_results_keeps_the_rest(tmp_path: Path) -> None:
    results = tmp_path / "results.md"
    results.write_text("# Results\n\nOf the demo.\n", encoding="utf-8")
    kept = {"hatchery": {"a trace": {"first": {"seconds": [1.5]}}}}
    for report in (Report("store", {"taken": "today"}, (SLOW,)), Report("peers", {}, (LIGHT,), figures=kept)):
        suite.update_docs(report, tmp_path)
        suite.update_docs(report, tmp_path)
    page = results.read_text(encoding="utf-8")
    assert page.startswith("# Results\n\nOf the demo.\n")
    assert page.count("## Bench: store\n\n- Taken: today") == page.count("## Bench: peers") == 1
    assert "| slow | 1.3 |" in page
    assert "`script/bench store --update-docs` repeats it" in page
    assert (tmp_path / "bench-store.md").read_text(encoding="utf-8").startswith("# Bench: store")
    assert json.loads((tmp_path / "bench-peers.json").read_text())["figures"] == kept
    assert not (tmp_path / "bench-store.json").exists()


def test_lvm_snapshots_are_copied_with_ids_of_their_own() -> None:
    text = GROUP.read_text(encoding="utf-8")
    made, before = lvm.with_snapshots(text, 3)
    assert before == 2
    assert re.findall(r"^\t\t(snap\d+) \{", made, re.MULTILINE) == ["snap1", "snap2", "snap3", "snap4"]
    assert re.findall(r"device_id = (\d+)", made) == ["1", "2", "3", "4", "5"]
    # The pool's, one beyond the last; the volume's; those of the snapshots.
    assert re.findall(r"transaction_id = (\d+)", made) == ["5", "0", "1", "2", "3", "4"]
    names = re.findall(r'\bid = "(\w{6}(?:-\w{4}){5}-\w{6})"', made)
    assert len(set(names)) == len(names) == len(re.findall(r'\bid = "', text)) + 3
    assert made.replace("transaction_id = 5", "transaction_id = 2").startswith(
        text[: text.index("\t\tlvol0_pmspare")][:-1]
    )


def test_lvm_metadata_without_a_snapshot_is_refused() -> None:
    with pytest.raises(ValueError, match="no first thin snapshot"):
        lvm.with_snapshots(GROUP.read_text(encoding="utf-8").replace("snap1", "other"), 3)
