"""Pages of many clones at once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.measure import replaying, storm, together
from appliance.measure.histogram import Latency
from appliance.measure.prepare import Begin
from appliance.measure.replay import Replay
from appliance.measure.replaying import ReplayResult
from tests.unit.measured_appliance import FACTS, MIB
from tests.unit.test_cli import Appliance, appliance, image
from tests.unit.test_measure_report import BOOT_SET, Tags
from tests.unit.test_measure_storm import PREFETCHED as STORM

__all__ = ["appliance", "image"]  # fixtures

LATENCIES = (
    Latency(Begin.PREFETCHED, "cache drive nvme0n1", (0, 0, 0, 7, 9)),
    Latency(Begin.PREFETCHED, "clone storm-1", (0, 3, 8)),
    Latency(Begin.PREFETCHED, "clone storm-2", (9,)),
)


def replay(clones: int) -> ReplayResult:
    return ReplayResult(
        template="t@1",
        begin=Begin.COLD,
        requests=clones,
        read_bytes=clones * MIB,
        backend_bytes=MIB,
        cache_added_bytes=MIB,
        names=tuple(f"replay-{number}" for number in range(clones)),
        seconds=tuple(1 + number / 100 for number in range(clones)),
        trace="<a>.trace",
        trace_sha256="",
        latencies=tuple(Latency(Begin.COLD, f"clone replay-{number}", (1,)) for number in range(clones)),
    )


def tags(page: str) -> Tags:
    found = Tags()
    found.feed(page)
    return found


def test_the_page_of_a_storm_stands_alone_and_shows_every_clone() -> None:
    page = together.page(replace(STORM, latencies=LATENCIES, notes=("<a note>",)))
    found = tags(page)
    assert found.tags.count("svg") == 3 + 2  # times, sources, hits; the disks' and the clones' latencies
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert found.outside == []
    assert "4 fresh clones of debian-13@1 booted at once, cache prefetched" in page
    assert "Note: &lt;a note&gt;." in page
    for words in ("61.20 s", "72.25 s", "80.35 s", "storm-4", "99.73%", "99.88%", "lower one by requests", "nvme0n1"):
        assert words in page
    assert page == together.page(replace(STORM, latencies=LATENCIES, notes=("<a note>",)))


def test_the_page_of_many_clones_has_the_boot_set_on_its_disk_and_json_only_how_large_it_is() -> None:
    found = replace(STORM, boot_set=BOOT_SET)
    page = together.page(found)
    assert tags(page).tags.count("svg") == 3 + 1
    assert 'class="disk"' in page
    assert "<pre>█▓░ </pre>" in page
    assert "180.0 MiB in 3 extents of 2,048 MiB, made of 3 recorded\nboots." in page
    told = json.loads(json.dumps(found.as_json()))["boot_set"]
    assert told["extents"] == 3
    assert not {"places", "picture"} & set(told), "they are in the set's own file"
    assert "on the disk" not in together.page(STORM)
    assert STORM.as_json()["boot_set"] is None


def test_hits_by_requests_are_shown_where_they_are_counted() -> None:
    assert "not known" in together.page(replace(STORM, hits=None))
    page = together.page(replay(2))
    assert "<figcaption>By bytes, of all clones together.</figcaption>" in page
    assert "50.00%" in page
    assert "by requests" not in page
    assert "not known" not in page


def test_many_clones_lose_their_names_and_are_one_column() -> None:
    few, many = replay(5), replay(together.MOST_CLONES + 1)
    assert together.bounded(few.latencies) == few.latencies
    [all_] = together.bounded(many.latencies)
    assert (all_.device, all_.total) == ("clone all 101", 101)
    page = together.page(many)
    assert "&lt;a&gt;.trace replayed by 101 clones" in page
    plot = page[page.index("<svg") : page.index("</svg>")]
    assert "replay-7" not in plot
    assert "replay-7<" in page, "its time is in the table"
    assert "No latencies were recorded." in together.page(replace(few, latencies=()))


def test_what_clones_did_at_once_is_kept_and_compared(
    appliance: Appliance, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "replay", lambda uris, reads, _: Replay((2.0,) * len(uris), len(reads), 1))
    appliance.json("template", "add", "debian", str(image))
    trace, history, page = tmp_path / "boot.trace", tmp_path / "kept", tmp_path / "replay.html"
    trace.write_text("0 4096\n")
    words = ["measure", "replay", str(trace), "-t", "debian", "--history", str(history)]
    status, out, err = appliance.run(*words, "--clones", "2", "--html", str(page))
    assert status == 0, err
    assert out.startswith("boot.trace replayed by 2 clones of debian@1 at once, cache as-it-is")
    assert "kept in" in err
    assert "boot.trace replayed" in page.read_text()
    assert appliance.run(*words)[0] == 0
    status, _, err = appliance.run("measure", "compare", "--history", str(history))
    assert status == 4, "one clone is not compared with two"
    assert appliance.run(*words, "--clones", "2")[0] == 0
    found = appliance.json("measure", "compare", "--history", str(history))
    assert {each["phase"] for each in found["differences"]} == {"replay"}
    kinds = [json.loads(file.read_text())["kind"] for file in history.iterdir()]
    assert kinds == ["replay"] * 3


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, together.Together]:
    """What measures many clones at once, without its options, and what each finds."""
    found: dict[str, together.Together] = {"storm": STORM, "replay": replace(replay(2), facts=FACTS)}
    monkeypatch.setattr(storm, "run", lambda *_, **__: found["storm"])
    monkeypatch.setattr(replaying, "run", lambda *_, **__: found["replay"])
    (tmp_path / "boot.trace").write_text("0 4096\n")
    return found


@pytest.mark.parametrize("name", ["storm", "replay"])
def test_what_many_clones_did_goes_to_files_too(
    appliance: Appliance, commands: dict[str, together.Together], tmp_path: Path, name: str
) -> None:
    words = ["measure", name, *([str(tmp_path / "boot.trace")] if name == "replay" else []), "-t", "debian"]
    files = {option: tmp_path / option for option in ("json-file", "html", "text")}
    options = [word for option, file in files.items() for word in (f"--{option}", str(file))]
    status, out, err = appliance.run(*words, *options, "--history", str(tmp_path / "kept"))
    assert (status, out) == (0, commands[name].text()), err
    [kept] = (tmp_path / "kept").iterdir()
    assert files["json-file"].read_text() == kept.read_text()
    assert json.loads(kept.read_text()) == json.loads(json.dumps(commands[name].as_json()))
    assert files["text"].read_text() == out
    assert files["html"].read_text() == together.page(commands[name])
    assert appliance.json(*words, "--history", str(tmp_path / "kept"))["kind"] == name


@pytest.mark.parametrize("name", ["storm", "replay"])
@pytest.mark.parametrize("option", ["json-file", "html", "text"])
def test_a_file_that_cannot_be_written_is_told_of_before_anything_is_measured(
    appliance: Appliance, commands: dict[str, together.Together], tmp_path: Path, name: str, option: str
) -> None:
    words = ["measure", name, *([str(tmp_path / "boot.trace")] if name == "replay" else []), "-t", "debian"]
    commands.clear()  # to measure would fail
    status, _, err = appliance.run(*words, f"--{option}", str(tmp_path / "none/x"), "--history", str(tmp_path / "kept"))
    assert (status, "is not a folder" in err) == (3, True)
    assert not (tmp_path / "kept").exists()
