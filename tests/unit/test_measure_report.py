"""A measurement as text, JSON, page and documentation."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from appliance.errors import NotReady
from appliance.measure import plots, report
from appliance.measure.facts import Facts
from appliance.measure.histogram import Latency
from appliance.measure.result import BootResult, Phase, percent
from appliance.measure.session import Measurement
from appliance.schema import BootSetView, PrefetchView
from bench import results

MIB = 1 << 20

COLD = BootResult(
    run=1,
    clone="demo-1",
    phase=Phase.COLD,
    seconds=84.21,
    cpu_seconds=126.3,
    requests=4086,
    read_bytes=200 * MIB,
    written_bytes=MIB,
    backend_requests=4000,
    backend_bytes=190 * MIB,
    cache_read_bytes=10 * MIB,
    cache_added_bytes=200 * MIB,
    bypassed_bytes=0,
    hits=86,
    misses=4000,
)
WARM = replace(
    COLD, clone="demo-2", phase=Phase.WARM, seconds=60.0, backend_requests=1, backend_bytes=4096, hits=4085, misses=1
)
PREFETCHED = replace(
    WARM, clone="demo-prefetched", phase=Phase.PREFETCHED, seconds=60.5, io_seconds=1.25, backend_bytes=MIB, misses=5
)
PREFETCH = PrefetchView(state="warm", why="asked for", total_bytes=180 * MIB, seconds=1.9, began=0)
PLACES = ((40 * MIB, 60 * MIB), (1024 * MIB, 90 * MIB), (0, 30 * MIB))
BOOT_SET = BootSetView(
    total_bytes=180 * MIB,
    extents=3,
    runs=3,
    guessed=False,
    changed=0,
    wasted_bytes=None,
    template="debian-13@1",
    sha256=None,
    size=2048 * MIB,
    places=PLACES,
    picture="█▓░ ",
)
MEASURED = Measurement(
    template="debian-13@1",
    facts=Facts(taken="2026-11-22 20:00 UTC", host="<a> & host", guests="QEMU, KVM", appliance="hatchery"),
    boots=(COLD, WARM),
    latencies=(Latency(Phase.COLD, "backend disk sda", (0, 3, 8)), Latency(Phase.WARM, "clone demo-2", (9,))),
    notes=("one boot was repeated",),
)


THREE = replace(
    MEASURED,
    boots=(replace(COLD, io_seconds=70.0), WARM, PREFETCHED),
    prefetches=(PREFETCH,),
    boot_set=BOOT_SET,
)


def test_text_has_every_boot_both_phases_and_the_histograms() -> None:
    text = report.text(MEASURED)
    assert re.search(
        r"^1 +demo-1 +cold +84\.21 +- +126\.3 +4,086 +200\.0 +5\.00% +2\.10% +4,000 +190\.0 +0\.950$", text, re.M
    )
    assert re.search(r"^boot time, median +84\.21 s +60\.00 s$", text, re.M)
    assert re.search(r"^I/O wait, median +- +-$", text, re.M)
    assert "A warm boot took 60.0 s, a cold one 84.2 s (cold / warm 1.40, of medians)." in text
    three = report.text(replace(MEASURED, boots=(COLD, *(replace(COLD, cpu_seconds=each) for each in (120.0, 200.0)))))
    assert re.search(r"^boots +3$", three, re.M)
    assert re.search(r"^processor time of QEMU, median +126\.3 s$", three, re.M), "the mean is 148.8"
    assert re.search(r"^its least to most +120\.0 to 200\.0 s$", three, re.M)
    assert "prefetch" not in text
    assert "limit 1%: kept" in text
    assert "         2 -> 3          : 3        |***************                         |" in text
    assert "Note: one boot was repeated." in text


def test_text_has_the_third_phase_and_the_time_apart_from_waiting() -> None:
    text = report.text(THREE)
    assert re.search(r"^ +cold +prefetched +warm$", text, re.M)
    assert re.search(r"^boot time, median +84\.21 s +60\.50 s +60\.00 s$", text, re.M)
    assert re.search(r"^I/O wait, median +70\.00 s +1\.25 s +-$", text, re.M)
    assert re.search(r"^the rest, median +14\.21 s +59\.25 s +-$", text, re.M)
    assert "(prefetched / warm 1.01, of medians)" in text
    assert "found 99.50% of their bytes in the cache, the worst of them 99.50% (at least 99%: kept)" in text
    assert "The prefetch of 180.0 MiB took 1.9 s" in text
    missed = replace(PREFETCHED, backend_bytes=3 * MIB)
    assert "98.50% (at least 99%: NOT KEPT)" in report.text(replace(THREE, boots=(COLD, missed)))


def test_text_says_when_warm_boots_were_not_warm() -> None:
    text = report.text(replace(MEASURED, boots=(COLD, replace(WARM, backend_bytes=3 * MIB))))
    assert "limit 1%: NOT KEPT" in text


def test_what_is_nearly_all_is_not_called_all() -> None:
    assert percent(1 - 4096 / (200 * MIB)) == "99.99%"
    assert percent(1.0) == "100.00%"
    assert percent(None) == "-"


def test_json_has_bytes_and_rates() -> None:
    found = json.loads(report.to_json(MEASURED))
    assert found["format"] == report.FORMAT
    assert found["boots"][0]["read_bytes"] == 200 * MIB
    assert found["boots"][0]["amplification"] == pytest.approx(0.95)
    assert found["summary"]["warm"]["seconds"]["mean"] == 60.0
    assert found["summary"]["warm"]["cpu_seconds"] == 126.3, "what earlier releases told goes on"
    assert found["summary"]["warm"]["cpu_spread"] == {"least": 126.3, "mean": 126.3, "median": 126.3, "most": 126.3}
    assert found["histograms"][0] == {"phase": "cold", "device": "backend disk sda", "counts": [0, 3, 8]}
    assert found["warm_enough"] is True
    assert found["summary"]["prefetched"] is None
    assert (found["prefetched_enough"], found["prefetches"], found["boot_set"]) == (None, [], None)
    found = json.loads(report.to_json(THREE))
    assert found["boots"][0]["rest_seconds"] == pytest.approx(14.21)
    assert found["summary"]["prefetched"]["io_seconds"]["median"] == 1.25
    assert found["prefetches"][0]["seconds"] == 1.9
    assert found["boot_set"]["extents"] == 3
    assert "places" not in found["boot_set"], "they are in the set's own file"


class Tags(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and value and value[0] != "#"]


def test_the_page_stands_alone_and_shows_every_plot() -> None:
    page = report.page(MEASURED)
    tags = Tags()
    tags.feed(page)
    assert tags.tags.count("svg") == 3 + 2  # time, sources, hits; the disks' and the clones' latencies
    assert not {"script", "link", "img", "iframe"} & set(tags.tags)
    assert tags.outside == []
    assert "&lt;a&gt; &amp; host" in page
    assert page == report.page(MEASURED), "equal measurements give equal pages"


def test_the_page_shows_three_phases_and_the_boot_set_in_pictures_and_in_words() -> None:
    page = report.page(THREE)
    tags = Tags()
    tags.feed(page)
    assert tags.tags.count("svg") == 3 + 2 + 1
    assert tags.outside == []
    assert tags.tags.count("td") == len(report.BOOT_COLUMNS) * 3 + 4 * 14, "every boot, and three phases side by side"
    assert "70.0 I/O" in page
    assert "(1.2 I/O)" in page
    assert "<pre>█▓░ </pre>" in page
    assert "180.0 MiB in 3 extents of 2,048 MiB" in page
    assert 'class="word phase prefetched"' in page
    for phase in ("cold", "prefetched", "warm"):
        assert f"--{phase}: {plots.COLOURS[Phase(phase)]};" in page


def test_a_page_of_cold_boots_alone() -> None:
    page = report.page(replace(MEASURED, boots=(COLD,), latencies=()))
    assert "No latencies were recorded." in page
    assert "not known" not in page
    assert "not known" in report.page(replace(MEASURED, boots=(replace(COLD, hits=None, misses=None),)))


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_a_page_without_its_libraries_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(NotReady, match="page with plots cannot be made") as caught:
        plots.require()
    assert caught.value.why == f"{library} is not installed"
    assert "hatchery[measure]" in caught.value.hint


def test_latencies_on_an_axis() -> None:
    assert [plots.short(value) for value in (0, 512, 1024, 65536, 1 << 21)] == ["0µs", "512µs", "1ms", "66ms", "2s"]


def test_the_documentation_is_made_from_the_json() -> None:
    page = results.page(json.loads(report.to_json(MEASURED)), [("Boot the appliance", 61.0)], 125.0)
    assert "| demo-1 | cold | 84.21 | 4,086 | 200.0 | 5.00% | 2.10% | 4,000 | 190.0 | 0.950 |" in page
    assert "| boot time, median | 84.21 s | 60.00 s |" in page
    three = results.page(json.loads(report.to_json(THREE)), [], 125.0)
    assert "| I/O wait, median | 70.00 s | 1.25 s | - |" in three
    assert "| the rest, median | 14.21 s | 59.25 s | - |" in three
    assert "| processor time of QEMU, median | 126.3 s | 126.3 s | 126.3 s |" in three
    assert "| Boot the appliance | 1:01 |" in page
    assert "| all | 2:05 |" in page
    assert "         4 -> 7          : 8        |****************************************|" in page
