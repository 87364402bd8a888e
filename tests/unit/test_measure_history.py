"""Measurements that are kept, found again and compared."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import pytest

from appliance.errors import InvalidInput, NotFound
from appliance.measure import history, report
from appliance.measure.crowd import Login
from appliance.measure.prepare import Begin
from appliance.measure.storm import StormResult
from tests.unit.test_measure_report import COLD, MEASURED, PREFETCHED, THREE, WARM
from tests.unit.test_measure_storm import LOGINS
from tests.unit.test_measure_storm import PREFETCHED as STORM

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
    assert found["cold", "processor time of QEMU, median"].before == pytest.approx(99.45)
    processor = [boot["cpu_seconds"] for boot in old["boots"] if boot["phase"] == "warm"]
    assert found["warm", "processor time of QEMU, median"].before == pytest.approx(median(processor))
    assert found["warm", "processor time of QEMU, least"].before == pytest.approx(min(processor))
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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"facts": None}, "has no facts"),
        ({"template": None, "facts": None}, "has no template and no facts"),
        ({"facts": {}}, "no time of"),
        ({"kind": "dance"}, "unknown kind"),
    ],
)
def test_what_a_comparison_would_have_to_say_must_be_in_the_file(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps({**json.loads(report.to_json(MEASURED)), **change}))
    with pytest.raises(InvalidInput, match=words):
        history.load(file)


def storm(where: Path, found: StormResult = STORM) -> Path:
    return history.keep(json.dumps(found.as_json()), where, NOON)


def test_the_last_of_one_kind_is_compared_with_the_last_before_it_that_is_like_it(tmp_path: Path) -> None:
    [boots] = kept(tmp_path, 1)
    first = storm(tmp_path)
    storm(tmp_path, replace(STORM, clones=20))
    last = storm(tmp_path)
    (tmp_path / "2026-11-23T120000Z-9.txt").write_text("not ours")
    assert history.choose(tmp_path) == (first, last)
    assert history.choose(tmp_path, first.name) == (first, last)
    with pytest.raises(NotFound, match=f"none like {boots}"):
        history.choose(tmp_path, boots)
    [newer] = kept(tmp_path, 1)
    assert [path.name for path in history.choose(tmp_path)] == [boots, newer]


def test_storms_are_compared_by_their_own_figures(tmp_path: Path) -> None:
    before = history.load(storm(tmp_path))
    slower = replace(STORM, logins=(*LOGINS[:3], Login("storm-4", 160.7, 40.0)), backend_bytes=0)
    after = history.load(storm(tmp_path, slower))
    found = {each.name: each for each in history.compare(before, after)}
    assert found["the last"].change == pytest.approx(1.0)
    assert found["the first was done after"].change == 0
    assert found["backend bytes"].after == 0
    assert "the prefetch before" not in found
    said = history.text(before, after)
    assert "before: debian-13@1, 2026-11-23 03:46 UTC, storm of 4 at once, cache prefetched\n" in said
    assert "+100.0%" in said


def test_unlike_things_are_not_compared() -> None:
    boots, found = json.loads(report.to_json(MEASURED)), STORM.as_json()
    with pytest.raises(InvalidInput, match="one is of a boot, the other of a storm"):
        history.compare(boots, found)
    with pytest.raises(InvalidInput, match="another number of clones, cache at the beginning"):
        history.compare(found, replace(STORM, clones=5, begin=Begin.COLD).as_json())
    with pytest.raises(InvalidInput, match="another trace"):
        history.compare({**found, "trace_sha256": "a"}, {**found, "trace_sha256": "b"})
    with pytest.raises(InvalidInput, match="damaged"):
        history.compare(found, {**found, "last": None})
