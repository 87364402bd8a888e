"""When arrays are scrubbed, when they are let alone, and what a difference means."""

import logging
from dataclasses import replace

import pytest

from appliance.errors import DeadlineExceeded
from appliance.host import md
from appliance.host.block import Device
from appliance.host.md import Array
from appliance.model import GIB
from appliance.store import scrub
from appliance.store.scrub import Scrubbed

IDLE = Array(
    device=Device("md7", "9:7", GIB, 512, None, 0),
    uuid="0" * 32,
    level="raid5",
    state="clean",
    raid_disks=3,
    degraded=0,
    sync_action="idle",
    sync_percent=None,
    backlog=None,
    members=(),
)
CHECKING = replace(IDLE, sync_action="check")


class Kernel:
    """Shows the array in one state after the other, and the last one from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *states: Array, differing: int = 0) -> None:
        self.states = list(states)
        self.done: list[str] = []
        monkeypatch.setattr(md, "begin_check", lambda _array, _speed: self.done.append("begin"))
        monkeypatch.setattr(md, "end_check", lambda _array: self.done.append("end"))
        monkeypatch.setattr(md, "mismatches", lambda _array: differing)
        monkeypatch.setattr(md, "again", self._again)

    def _again(self, _array: Array) -> Array:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


def test_an_array_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, CHECKING, CHECKING, IDLE, differing=8)
    assert scrub.scrub("hatchery:backend", IDLE, interval=0.0) == Scrubbed("hatchery:backend", 4096)
    assert kernel.done == ["begin", "end"]


@pytest.mark.parametrize(
    "busy",
    [replace(IDLE, degraded=1), replace(IDLE, sync_action="resync"), replace(IDLE, reshaping=True), CHECKING],
    ids=["degraded", "resync", "reshape", "another scrub"],
)
def test_an_array_that_has_something_more_urgent_to_do_is_let_alone(
    busy: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(monkeypatch, busy)
    assert scrub.scrub("hatchery:backend", busy) is None
    assert kernel.done == []


def test_a_scrub_that_a_dying_disk_broke_off_has_found_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    Kernel(monkeypatch, CHECKING, replace(IDLE, degraded=1), differing=0)
    assert scrub.scrub("hatchery:backend", IDLE, interval=0.0) is None


def test_no_check_goes_on_when_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, CHECKING)
    monkeypatch.setattr(scrub, "DEADLINE", 0.0)
    with pytest.raises(DeadlineExceeded):
        scrub.scrub("hatchery:backend", IDLE, interval=0.0)
    assert kernel.done == ["begin", "end"]


@pytest.mark.parametrize(
    ("name", "level", "differing", "good", "severity"),
    [
        ("backend", "raid5", 0, True, logging.INFO),
        ("backend", "raid5", 512, False, logging.ERROR),
        ("backend", "raid6", 512, False, logging.ERROR),
        ("backend", "raid10", 512, True, logging.WARNING),
        ("meta", "raid1", 512, True, logging.WARNING),
        ("cache", "raid1", 512, True, logging.INFO),
    ],
)
def test_a_difference_counts_where_nothing_harmless_explains_it(
    name: str, level: str, differing: int, good: bool, severity: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert scrub.judge(Scrubbed(f"hatchery:{name}", differing), level) is good
    assert [record.levelno for record in caplog.records] == [severity]
