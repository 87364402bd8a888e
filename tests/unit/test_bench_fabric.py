"""NVMe/TCP beside NBD: what its reader makes of what kernel and qemu-img tell, and the rows of that."""

import argparse
import json
import math
import os
from dataclasses import replace

import pytest

from appliance.errors import CannotTell, DeadlineExceeded
from bench import access, fabric, fabric_reader
from bench.fabric import Found
from bench.fabric_reader import Look, Turn

SAID = """Sending 4000 read requests, 4096 bytes each, 16 in parallel (starting at offset 0, step size 31109120)
Run completed in 1.250 seconds.
"""

WORKER = (
    "73 (kworker/1:1H-nvmet_tcp_wq) I 2 0 0 0 -1 69238880 0 0 0 0 12 345 0 0 0 -20 1 0 57 0 0 18446744073709551615 0"
)
DAEMON = (
    "812 (qemu) storage) S 1 812 812 0 -1 4194560 7021 0 9 0 210 430 0 0 20 0 4 0 5120 900 400 18446744073709551615"
)

STAT = """cpu  1000 5 2000 9000 70 0 300 0 40 0
cpu0 500 2 1000 4500 35 0 150 0 20 0
intr 12345
"""


def turn(target: str, depth: int, rate: float, idle: float = 0.0) -> Turn:
    """One of two seconds on two processors, of which the storage daemon had a fourth."""
    cost = {"all": 4.0, "idle": idle, "interrupts": 0.0, "storage daemon": 1.0, "reader": 0.5, "kernel's threads": 0.25}
    return Turn(target, depth, round(2 * rate), 2.0, cost, {"nvmet_tcp_wq": 0.25})


def found() -> Found:
    turns = []
    for depth, faster in ((16, 1.5), (1, 1.2)):
        # The machine gets slower meanwhile, for all alike.
        for pace in (1000.0, 500.0, 800.0):
            turns += [turn("device", depth, 4 * pace), turn("unix", depth, 2 * faster * pace)]
            turns += [turn("nbd", depth, pace), turn("nvme-tcp", depth, faster * pace)]
    return Found("kernel 6.12, in QEMU, emulated", tuple(turns), 0)


def test_every_block_is_read_before_one_is_read_again_and_none_after_its_neighbour() -> None:
    for blocks in (12288, 4096, 1000, 17):
        step = fabric_reader.step(blocks)
        assert math.gcd(step, blocks) == 1
        assert 1 < step < blocks - 1
    assert fabric_reader.step(48 << 8) * fabric_reader.BLOCK < 1 << 31, "qemu-img takes no more"


def test_nobody_is_always_the_first() -> None:
    assert [fabric_reader.order(["a", "b", "c"], turn)[0] for turn in range(4)] == ["a", "c", "a", "c"]


def test_qemu_img_tells_how_long_it_read() -> None:
    assert fabric_reader.took(SAID) == 1.25
    with pytest.raises(ValueError, match="does not tell"):
        fabric_reader.took("qemu-img: Failed to open")


def test_a_task_is_read_from_proc() -> None:
    assert fabric_reader.task(WORKER) == ("kworker/1:1H-nvmet_tcp_wq", True, 357)
    assert fabric_reader.task(DAEMON) == ("qemu) storage", False, 640)
    assert fabric_reader.processors(STAT) == {"all": 12375, "idle": 9070, "interrupts": 300}


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("kworker/1:1H-nvmet_tcp_wq", "nvmet_tcp_wq"),
        ("kworker/u8:3+knbd0-recv", "knbd0-recv"),
        ("kworker/0:1", "kworker"),
        ("ksoftirqd/0", "ksoftirqd/0"),
    ],
)
def test_a_workers_name_tells_what_it_does(name: str, work: str) -> None:
    assert fabric_reader.work(name) == work


def test_workers_come_and_go_and_change_their_work() -> None:
    tick = os.sysconf("SC_CLK_TCK")
    before = Look({"all": 0, "idle": 0}, {(5, "kworker/0:1-events"): 7 * tick, (6, "gone"): 9 * tick, (7, "x"): 1})
    after = Look(
        {"all": 4 * tick, "idle": tick}, {(5, "kworker/0:1+wq"): 8 * tick, (8, "kworker/1:0+wq"): tick, (7, "x"): 1}
    )
    cost, threads = fabric_reader.difference(before, after)
    assert cost == {"all": 4.0, "idle": 1.0, "kernel's threads": 2.0}
    assert threads == {"wq": 2.0}


def test_what_the_readers_start_costs_is_taken_off() -> None:
    whole = turn("nbd", 16, 100)
    start = replace(whole, cost={**dict.fromkeys(whole.cost, 0.1), "kernel's threads": 9.0})
    cost = fabric_reader.without(whole, start).cost
    assert cost["all"] == pytest.approx(3.9)
    assert cost["reader"] == pytest.approx(0.4)
    assert cost["kernel's threads"] == 0.0


def test_the_rows_are_of_pairs_that_took_turns_and_those_of_the_fabric_are_held_to_nothing() -> None:
    rows = {row.name: row for row in fabric.rows(found())}
    assert {name: row.value for name, row in rows.items()} == {
        "appliance_nbd_qd16_over_device": pytest.approx(0.75),
        "appliance_nbd_qd1_over_device": pytest.approx(0.6),
        "nvmetcp_over_nbd": pytest.approx(1.5),
        "nvmetcp_qd1_over_nbd": pytest.approx(1.2),
    }
    assert tuple(rows) == fabric.NAMES
    assert all(rows[name].held_to is None for name in fabric.FABRIC_NAMES)
    assert [str(rows[name].held_to) for name in fabric.UNIX_NAMES] == [">= 0.55", ">= 0.4"]
    row = rows["nvmetcp_over_nbd"]
    assert row.runs["nbd, requests/s"] == [1000.0, 500.0, 800.0]
    assert row.runs["nvme-tcp, requests/s"] == [1500.0, 750.0, 1200.0]
    assert row.runs["nbd, us of processor time a read"] == [2000.0, 4000.0, 2500.0]
    assert "16 at a time" in row.note
    assert "one at a time" in rows["nvmetcp_qd1_over_nbd"].note
    assert "in QEMU, emulated" in row.note
    assert "qemu-img bench" in row.note


def test_what_a_read_costs_is_told_by_who_pays() -> None:
    costs = fabric.microseconds(found(), "nbd", 16)
    assert costs == pytest.approx(
        {
            "interrupts": 0.0,
            "storage daemon": 625.0,
            "reader": 312.5,
            "kernel's threads": 156.25,
            "others": 1406.25,
            "idle": 0.0,
        }
    )
    assert len(fabric.told(found())) == 8


def test_reads_that_missed_are_not_told_as_hits() -> None:
    good = found()
    read = sum(turn.reads for turn in good.turns) * 4096
    assert fabric.check_hits(replace(good, backend_bytes=read // 100)) is not None
    with pytest.raises(CannotTell, match="reads that hit"):
        fabric.check_hits(replace(good, backend_bytes=read // 50))


def chosen(part: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    access.options(parser)
    parser.set_defaults(json=None)
    return parser.parse_args(["--part", part])


def test_a_report_without_the_lab_names_the_rows_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fabric, "check", lambda: None)
    monkeypatch.setattr(fabric, "measure", lambda *_: found())
    report = access.measure(chosen("appliance"), lambda _: None)
    assert tuple(row.name for row in report.rows) == fabric.NAMES
    assert report.lacking == access.LAB_NAMES
    told = json.loads(json.dumps(report.as_json()))
    assert told["host"]["not measured"] == ", ".join(access.LAB_NAMES)
    assert told["figures"]["appliance"]["turns"][0]["target"] == "device"
    assert report.page()


def test_an_appliance_that_breaks_off_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Found:
        raise DeadlineExceeded("waited 600 s for root's login over ssh", why="the console last said:\nnothing")

    monkeypatch.setattr(fabric, "check", lambda: None)
    monkeypatch.setattr(fabric, "measure", broken)
    said: list[str] = []
    report = access.measure(chosen("appliance"), said.append)
    assert set(fabric.NAMES) <= set(report.lacking)
    assert "waited 600 s" in report.host["broke off"]
    assert any("broke off" in line for line in said)
