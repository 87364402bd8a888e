"""Measurements that are kept, found again and compared."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.errors import InvalidInput, NotFound
from appliance.measure import history, report
from tests.unit.test_measure_report import COLD, MEASURED, PREFETCHED, THREE, WARM

FIRST_RELEASE = Path(__file__).parent.parent / "data/measure/first-release.json"
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def kept(where: Path, count: int) -> list[str]:
    return [history.keep(report.to_json(MEASURED), where, NOON).name for _ in range(count)]


def test_measurements_of_one_second_have_names_of_their_own_and_an_order(tmp_path: Path) -> None:
    made = kept(tmp_path / "new", 11)
    assert made[:2] == ["2026-11-23T120000Z.json", "2026-11-23T120000Z-2.json"]
    assert [path.name for path in history.kept(tmp_path / "new")] == made
    history.keep("{}", tmp_path / "new", NOON.replace(hour=11))
    assert history.kept(tmp_path / "new")[0].name == "2026-11-23T110000Z.json"


def test_the_folder_is_the_users(tmp_path: Path) -> None:
    assert history.folder({"XDG_STATE_HOME": "/s", "HOME": "/h"}) == Path("/s/hatchery/measurements")
    assert history.folder({"XDG_STATE_HOME": "s", "HOME": "/h"}) == Path("/h/.local/state/hatchery/measurements")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        history.keep("{}", tmp_path / "file")


def test_the_last_two_are_compared_unless_others_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="not two"):
        history.choose(tmp_path)
    first, second, third = kept(tmp_path, 3)
    assert [path.name for path in history.choose(tmp_path)] == [second, third]
    assert [path.name for path in history.choose(tmp_path, first)] == [first, third]
    assert [path.name for path in history.choose(tmp_path, third.removesuffix(".json"), first)] == [third, first]
    assert [path.name for path in history.choose(tmp_path, third)] == [third, second], "not with itself"
    with pytest.raises(NotFound, match="none does not exist"):
        history.choose(tmp_path, "none")


def test_figures_of_both_are_side_by_side_with_what_changed() -> None:
    before = json.loads(report.to_json(MEASURED))
    faster = replace(MEASURED, boots=(replace(COLD, seconds=42.105), WARM))
    after = json.loads(report.to_json(faster))
    found = {(each.phase, each.name): each for each in history.compare(before, after)}
    assert found["cold", "boot time, median"].change == pytest.approx(-0.5)
    assert found["warm", "boot time, median"].change == 0
    said = history.text(before, after)
    assert "-50.0%" in said
    assert "differ in more" not in said
    other = {**after, "template": "other@1", "facts": {**after["facts"], "guests": "QEMU, TCG"}}
    assert "template, guests" in history.text(before, other)


def test_a_measurement_of_the_first_release_is_compared_by_medians_too() -> None:
    old = history.load(FIRST_RELEASE)
    found = {(each.phase, each.name): each for each in history.compare(old, json.loads(report.to_json(THREE)))}
    assert found["warm", "boot time, median"].before == pytest.approx(110.3, abs=0.05), "the mean is 109.3"
    assert {phase for phase, _ in found} == {"cold", "warm"}
    assert not any(name.startswith("I/O wait") for _, name in found), "the old one does not have it"


def test_what_both_have_of_the_third_phase_is_compared(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(report.to_json(THREE))
    slower = replace(THREE, boots=(COLD, WARM, replace(PREFETCHED, io_seconds=2.5)))
    found = history.compare(history.load(file), json.loads(report.to_json(slower)))
    waits = {each.phase: each.change for each in found if each.name == "I/O wait, median"}
    assert waits == {"prefetched": 1.0}


def test_a_measurement_without_the_times_of_its_boots_is_damaged(tmp_path: Path) -> None:
    found = json.loads(FIRST_RELEASE.read_text())
    file = tmp_path / "x.json"
    file.write_text(json.dumps({**found, "boots": []}))
    with pytest.raises(InvalidInput, match="is damaged"):
        history.load(file)


def test_a_figure_that_was_zero_has_no_change() -> None:
    assert history.Difference("warm", "backend bytes", 0.0, 5.0, "{:.1f}").change is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99, "summary": {}}', '{"format": 1, "summary": []}'])
def test_what_is_no_measurement_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(InvalidInput, match="is no measurement"):
        history.load(file)


def test_measurements_without_a_common_phase_or_with_a_damaged_figure_are_refused() -> None:
    whole = json.loads(report.to_json(MEASURED))
    cold = {**whole, "summary": {"cold": whole["summary"]["cold"]}}
    warm = {**whole, "summary": {"warm": whole["summary"]["warm"], "cold": None}}
    with pytest.raises(InvalidInput, match="in common"):
        history.compare(cold, warm)
    damaged = {**whole, "summary": {"cold": {"seconds": "x"}}}
    with pytest.raises(InvalidInput, match="damaged"):
        history.compare(whole, damaged)
