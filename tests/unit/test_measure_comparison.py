"""Two measurements on one page."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import InvalidInput
from appliance.measure import comparison, history, report
from appliance.measure.crowd import Login
from tests.unit.measured_appliance import FACTS
from tests.unit.test_cli import Appliance, appliance
from tests.unit.test_measure_history import FIRST_RELEASE, kept
from tests.unit.test_measure_report import COLD, MEASURED, PREFETCHED, THREE, WARM
from tests.unit.test_measure_storm import LOGINS
from tests.unit.test_measure_storm import PREFETCHED as STORM
from tests.unit.test_measure_together import replay, tags

__all__ = ["appliance"]  # the fixture

BOOTS: dict[str, Any] = json.loads(report.to_json(THREE))


def boots(*found: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(report.to_json(replace(THREE, boots=found)))
    return made


def test_boots_are_side_by_side_with_what_changed() -> None:
    faster = boots(replace(COLD, seconds=42.105), WARM, replace(PREFETCHED, seconds=66.55))
    page = comparison.page(BOOTS, faster)
    found = tags(page)
    assert found.tags.count("svg") == 3  # times, sources, hits
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert found.outside == []
    assert "<h1>Boots of debian-13@1, before and after</h1>" in page
    assert "Before: debian-13@1, 2026-11-22 20:00 UTC; host: &lt;a&gt; &amp; host; guests: QEMU, KVM" in page
    assert "<span>Cold boot, median</span><b>-50.0%</b><span>84.21 s before, 42.10 s after</span>" in page
    assert '<td class="word phase prefetched">prefetched</td><td class="word">boot time, median</td>' in page
    assert "<td>60.50 s</td><td>66.55 s</td><td>+10.0%</td>" in page
    assert found.tags.count("td") == 5 * len(history.compare(BOOTS, faster))
    assert all(f">{phase}, {word}<" in page for phase in ("cold", "prefetched", "warm") for word in ("before", "after"))
    assert "lower ones by requests" in page
    assert not any(words in page for words in ("Latency", "on the disk", "Note:"))
    assert page == comparison.page(BOOTS, faster), "equal measurements give equal pages"


def test_only_what_both_have_is_drawn() -> None:
    page = comparison.page(history.load(FIRST_RELEASE), BOOTS)
    assert ">warm, before<" in page
    assert "prefetched, " not in page
    assert "Note: they differ in more than the result: " in page
    unknown = comparison.page(BOOTS, boots(COLD, replace(WARM, hits=None)))
    assert "not known" in unknown
    old = {
        **BOOTS,
        "summary": {"cold": {k: v for k, v in BOOTS["summary"]["cold"].items() if k != "hit_rate_requests"}},
    }
    page = comparison.page(old, BOOTS)
    assert "<figcaption>By bytes.</figcaption>" in page
    assert "not known" not in page


def test_a_template_of_another_version_is_named_too() -> None:
    page = comparison.page({**BOOTS, "template": "debian-13@0"}, BOOTS)
    assert "<h1>Boots of debian-13@0 and debian-13@1, before and after</h1>" in page
    assert "Note: they differ in more than the result: template." in page


def test_storms_and_replays_have_a_bar_each() -> None:
    slower = replace(STORM, logins=(*LOGINS[:3], Login("storm-4", 160.7, 40.0)), backend_bytes=40_000_000)
    page = comparison.page(STORM.as_json(), slower.as_json())
    assert "<h1>Storms of debian-13@1, before and after</h1>" in page
    assert "storm of 4 at once, cache prefetched; host: a host" in page
    assert "<span>Last</span><b>+100.0%</b><span>80.35 s before, 160.70 s after</span>" in page
    assert "a dot is one clone" in page
    assert "lower ones by requests" in page
    for words in ("72.25 s", "38.1 of 353.8", "89.22%"):
        assert words in page
    found = replace(replay(2), facts=FACTS).as_json()
    page = comparison.page(found, found)
    assert tags(page).tags.count("svg") == 3
    assert "<h1>Replays of t@1, before and after</h1>" in page
    assert "<figcaption>By bytes.</figcaption>" in page


@pytest.mark.parametrize("broken", [[], None, [{"phase": "cold"}], [{"phase": "cold", "seconds": "soon"}]])
def test_a_measurement_without_the_times_of_its_boots_is_not_drawn(broken: object) -> None:
    with pytest.raises(InvalidInput, match="a measurement is damaged"):
        comparison.page(BOOTS, {**BOOTS, "boots": broken})


def test_the_page_is_written_beside_what_is_printed(appliance: Appliance, tmp_path: Path) -> None:
    folder, file = tmp_path / "kept", tmp_path / "compared.html"
    first, second = kept(folder, 2)
    words = ["measure", "compare", first, second, "--history", str(folder)]
    status, out, err = appliance.run(*words, "--html", str(file))
    assert status == 0, err
    assert out == history.text(*(history.load(folder / name) for name in (first, second)))
    whole = json.loads(report.to_json(MEASURED))
    assert file.read_text() == comparison.page(whole, whole)
    file.unlink()
    assert appliance.json(*words, "--html", str(file))["differences"]
    assert file.is_file()
    status, _, err = appliance.run(*words[:2], "none", *words[4:], "--html", str(tmp_path / "none/x.html"))
    assert (status, "is not a folder" in err) == (3, True), "before anything else is looked at"
