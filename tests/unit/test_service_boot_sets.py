"""Boot sets of a service: given, learned, guessed."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance.bootset import boot_set, file
from appliance.bootset.boot_set import BootSet
from appliance.bootset.extents import PAGE
from appliance.bootset.trace import Read
from appliance.errors import InvalidInput, NotFound
from appliance.model import GIB, MIB, Extent, TemplateRef
from tests.unit import boot_set_box
from tests.unit.boot_set_box import EXTENTS, as_file, settled
from tests.unit.service_harness import IMAGE, Box


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with boot_set_box.box(tmp_path, monkeypatch) as made:
        yield made


def test_a_boot_set_is_given_shown_written_out_and_forgotten(box: Box) -> None:
    box.add_template("debian")
    with pytest.raises(NotFound, match="no boot set"):
        box.service.boot_sets.show("debian")
    given = box.service.put_boot_set("debian", as_file())
    assert (given.template, given.total_bytes, given.extents, given.runs) == ("debian@1", 66 * PAGE, 2, 3)
    assert given.guessed, "it was learned from other content"
    assert given.places == ((MIB, 64 * PAGE), (0, 2 * PAGE)), "in the order of first reads"
    assert len(given.picture.splitlines()) == 8
    written = file.load(box.service.boot_sets.export("debian"))
    assert written.boot_set.extents == EXTENTS
    shown = box.service.show_template("debian").boot_set
    assert shown is not None
    assert shown.total_bytes == 66 * PAGE
    settled(box)
    assert box.service.boot_sets.remove("debian").removed
    assert not box.service.boot_sets.remove("debian").removed
    assert box.service.show_template("debian").boot_set is None


def test_a_boot_set_of_the_same_content_is_no_guess(box: Box) -> None:
    done = box.add_template("debian")
    assert done.state == "succeeded"
    digest = box.service.show_template("debian").sha256
    assert not box.service.put_boot_set("debian", as_file(sha256=digest)).guessed


def test_a_given_boot_set_takes_the_place_of_the_boots_recorded_before(box: Box) -> None:
    box.add_template("debian")
    template = box.service.core.catalog.templates()[0]
    box.service.boot_sets.add_run(template, "a", [Read(MIB, 16 * PAGE)])
    box.service.put_boot_set("debian", as_file(sha256=template.sha256))
    assert box.service.core.catalog.boots_to_learn(template.thin_id, 3) == 0
    assert box.service.boot_sets.show("debian").wasted_bytes is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "no boot set"),
        ("nonsense", "not JSON"),
        (as_file((Extent(0, 4 * MIB),), size=1 << 30), "does not fit"),
        (as_file((Extent(0, 2 * GIB),), size=2 * GIB), "too large"),
    ],
)
def test_what_is_no_boot_set_of_it_is_refused(box: Box, content: str, words: str) -> None:
    box.add_template("debian")
    with pytest.raises(InvalidInput, match=words):
        box.service.put_boot_set("debian", content)
    assert box.service.show_template("debian").boot_set is None


def test_a_boot_that_was_recorded_makes_the_boot_set_and_more_of_them_make_it_better(box: Box) -> None:
    box.add_template("debian")
    template = box.service.core.catalog.templates()[0]
    always, once = Read(MIB, 16 * PAGE), Read(2 * MIB, 4 * PAGE)
    assert box.service.boot_sets.add_run(template, "a", [always, once]).total == 20 * PAGE
    assert box.service.boot_sets.add_run(template, "b", [always]).total == 16 * PAGE
    shown = box.service.boot_sets.show("debian")
    assert (shown.runs, shown.guessed, shown.wasted_bytes) == (2, False, 0)


def test_a_boot_set_that_becomes_much_smaller_is_told(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """When boots were asked for, there is nothing to compare the first one with."""
    box.add_template("debian")
    template = box.service.core.catalog.templates()[0]
    box.service.boot_sets.add_run(template, "a", [Read(MIB, 16 * PAGE)], 1)
    box.service.boot_sets.add_run(template, "b", [Read(MIB, 12 * PAGE)], 1)
    assert "broke off" not in caplog.text
    box.service.boot_sets.add_run(template, "c", [Read(MIB, 5 * PAGE)], 1)
    assert f"had {12 * PAGE} bytes before" in caplog.text


def test_boots_are_merged_while_others_work(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what changed meanwhile counts."""
    box.add_template("debian")
    template = box.service.core.catalog.templates()[0]
    box.service.boot_sets.add_run(template, "a", [Read(0, 16 * PAGE)])
    merge = boot_set.merge
    merged: list[int] = []

    def forget() -> None:
        with box.service.core.lock:
            box.service.boot_sets.remove("debian")

    def watched(runs: Sequence[Sequence[Read]], size: int) -> BootSet:
        if not merged:
            other = threading.Thread(target=forget, daemon=True)
            other.start()
            other.join(10)
            assert not other.is_alive(), "the lock is held"
        merged.append(len(runs))
        return merge(runs, size)

    monkeypatch.setattr(boot_set, "merge", watched)
    reads = [Read(0, 8 * PAGE), Read(MIB, PAGE)]
    assert box.service.boot_sets.add_run(template, "b", reads).total == 9 * PAGE
    assert merged == [2, 1]


def test_the_next_version_begins_with_the_last_ones_as_far_as_it_reaches(box: Box) -> None:
    box.add_template("debian")
    box.service.put_boot_set("debian", as_file())
    box.add_template("debian", IMAGE[: MIB + 8 * PAGE])
    found = box.service.boot_sets.show("debian@2")
    assert found.guessed
    assert found.places == ((MIB, 8 * PAGE), (0, 2 * PAGE))
    view = box.service.show_template("debian@2").prefetch
    assert view is not None
    assert view.why == "the template is new"


def test_the_next_versions_own_boot_takes_the_place_of_the_guess(box: Box) -> None:
    box.add_template("debian")
    box.service.put_boot_set("debian", as_file())
    box.add_template("debian", IMAGE[: MIB + 8 * PAGE])
    newer = box.service.core.catalog.template(TemplateRef("debian", 2))
    box.service.boot_sets.add_run(newer, "a", [Read(16 * PAGE, 4 * PAGE)])
    found = box.service.boot_sets.show("debian@2")
    assert (found.guessed, found.runs, found.places) == (False, 1, ((16 * PAGE, 4 * PAGE),))
    assert box.service.boot_sets.show("debian@1").places != found.places, "an older version keeps its own"
