"""Boots are recorded by themselves until a template is known, and on request; what is no boot is left out."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.bootset.trace import parse_trace
from appliance.errors import InvalidInput, NotFound, NotReady
from appliance.model import KIB, MIB, TemplateRef
from appliance.schema import CloneCreate, LearningView
from appliance.service import learning
from appliance.service.learning import RUNS, SLOTS
from tests.unit.learning_box import attach, boot, learner, recorded, view
from tests.unit.service_harness import Box

BLOCK = 64 * KIB


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with learner(tmp_path) as made:
        yield made


def test_what_a_clone_reads_that_does_not_boot_its_template_teaches_nothing(box: Box) -> None:
    made = box.service.create_clones(CloneCreate(name="replay", template="debian", count=2, learn=False)).clones
    devices = {f"254:{box.service.core.catalog.clone(clone.name).thin_id}" for clone in made}
    assert not devices & box.tracer.watched
    box.service.learning.learn("debian", 1)
    assert not devices & box.tracer.watched, "nor when somebody asks for boots"
    box.service.clones.remove("replay-1", force=False)
    box.service.clones.remove("replay-2", force=False)
    assert box.service.core.untaught == set()
    boot(box, "web")
    assert recorded(box) == ["web"]


def test_looks_are_few_and_come_soon_where_much_is_asked_for(box: Box) -> None:
    teaching = box.service.learning
    assert teaching.pause() is None, "nobody is listened to"
    [device] = attach(box, "web")
    assert teaching.pause() == learning.LOOK_SECONDS
    box.tracer.boot(device, megabytes=learning.MANY // 16, ago=5)
    teaching.look()
    assert teaching.pause() == learning.HASTE_SECONDS
    teaching.look()
    assert teaching.pause() == learning.LOOK_SECONDS


def test_a_recorded_boot_is_handed_out_as_a_trace(box: Box) -> None:
    with pytest.raises(NotFound, match="no recorded boot 1") as caught:
        box.service.boot_trace("debian", 1)
    assert "template learn" in caught.value.hint
    boot(box, "first")
    boot(box, "second")
    text = box.service.boot_trace("debian", 1)
    assert text.startswith("# Reads of one boot of debian@1 (")
    assert "by clone second, recorded 20" in text.splitlines()[0]
    assert "by clone first," in box.service.boot_trace("debian", 2)
    reads = parse_trace(text)
    assert [(read.offset, read.length) for read in reads[:2]] == [(0, BLOCK), (BLOCK, BLOCK)]
    assert reads[1].micros is not None
    with pytest.raises(NotFound, match="2 of its boots are kept"):
        box.service.boot_trace("debian", 3)


# --- by itself


def test_the_first_boots_of_a_template_teach_its_boot_set(box: Box) -> None:
    assert view(box) == LearningView(missing=RUNS, listening=0, recording=(), cannot="")
    for number in range(RUNS):
        boot(box, f"clone-{number}")
        shown = box.service.show_template("debian")
        assert shown.boot_set is not None
        assert (shown.boot_set.runs, shown.boot_set.guessed) == (number + 1, False)
        assert shown.boot_set.total_bytes == 2 * MIB
    assert view(box) is None
    assert box.tracer.watched == frozenset()
    boot(box, "one-more")
    assert recorded(box) == [f"clone-{number}" for number in range(RUNS)]


def test_what_reads_little_is_no_boot_and_is_listened_to_further(box: Box) -> None:
    [device] = attach(box, "web")
    box.tracer.request(device, 0, ago=200)
    box.service.learning.look()
    assert recorded(box) == []
    assert box.tracer.watched == {device}
    box.tracer.boot(device)
    box.service.learning.look()
    assert recorded(box) == ["web"]


def test_a_boot_under_way_is_shown_and_not_taken_yet(box: Box) -> None:
    [device] = attach(box, "web")
    box.tracer.boot(device, ago=3)
    box.service.learning.look()
    assert view(box) == LearningView(missing=RUNS, listening=1, recording=("web",), cannot="")
    assert recorded(box) == []


def test_a_clone_that_goes_has_booted_if_it_read_enough(box: Box) -> None:
    for name, megabytes in (("web", 2), ("tool", 0)):
        [device] = attach(box, name)
        box.tracer.boot(device, megabytes=megabytes, ago=3)
        box.tracer.request(device, 0, ago=3)
        box.service.clones.detach(name, force=False)
        assert box.tracer.watched == frozenset()
        # Another device may have the number now.
        box.tracer.boot(device)
    box.service.learning.look()
    assert recorded(box) == ["web"]


def test_boots_with_lost_requests_are_not_learned_from(box: Box) -> None:
    first, second = attach(box, "web", 2)
    box.tracer.boot(first)
    box.tracer.lost = 3
    box.service.learning.look()
    assert recorded(box) == []
    assert box.tracer.watched == {second}, "one that has not begun missed nothing"


def test_a_boot_that_broke_off_does_not_make_the_boot_set_small(box: Box) -> None:
    for name, megabytes in (("whole", 3), ("again", 3), ("broken", 1), ("last", 2)):
        boot(box, name, megabytes)
    assert recorded(box) == ["whole", "again", "last"]


def test_a_first_boot_that_was_more_than_that_does_not_make_it_large(box: Box) -> None:
    for name, megabytes in (("used", 3), ("second", 1), ("third", 1)):
        boot(box, name, megabytes)
    assert recorded(box) == ["used", "second", "third"]
    assert box.service.boot_sets.show("debian").total_bytes == 1 * MIB


def test_of_many_that_boot_at_once_only_so_many_are_kept(box: Box) -> None:
    devices = attach(box, "storm", SLOTS + 4)
    assert box.tracer.watched == frozenset(devices[4:]), "the ones that are silent for longest make room"
    for device in devices:
        box.tracer.boot(device)
    box.service.learning.look()
    assert len(recorded(box)) == RUNS
    assert box.tracer.watched == frozenset()


def test_a_clone_that_boots_keeps_its_place(box: Box) -> None:
    [device] = attach(box, "early")
    box.tracer.boot(device, ago=1)
    box.service.learning.look()
    attach(box, "storm", SLOTS + 4)
    assert device in box.tracer.watched
    assert len(box.tracer.watched) == SLOTS


def test_clones_that_did_not_boot_yet_are_heard_after_a_restart(box: Box) -> None:
    quiet, booted = attach(box, "web", 2)
    box.store.read_bytes[int(booted.removeprefix("254:"))] = 100 * MIB
    box.restart().learning.begin()
    assert box.tracer.watched == {quiet}


def test_a_clone_that_was_used_tells_nothing_of_its_template(box: Box) -> None:
    attach(box, "web")
    box.service.clones.detach("web", force=False)
    box.service.clones.attach("web", "local")
    assert box.tracer.watched == frozenset(), "it is exported again"
    box.service.learning.learn("debian")
    assert box.tracer.watched == frozenset()
    box.service.clones.detach("web", force=False)
    box.restart().learning.begin()
    box.service.clones.attach("web", "local")
    assert box.tracer.watched == frozenset(), "nor after a restart"
    box.service.life.reset("web", force=False)
    assert box.tracer.watched != frozenset(), "it is as its template again"


def test_after_the_machine_started_clones_of_before_are_not_heard(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    attach(box, "web")
    monkeypatch.setattr(time, "clock_gettime", lambda _: -1.0)
    box.reboot().learning.begin()
    assert box.tracer.watched == frozenset()
    [device] = attach(box, "new")
    assert box.tracer.watched == {device}


def test_a_given_boot_set_of_the_same_content_is_not_learned_again(box: Box) -> None:
    boot(box, "first")
    text = box.service.boot_sets.export("debian")
    assert box.service.boot_sets.remove("debian").removed
    assert view(box) is not None
    template = box.service.core.catalog.template(TemplateRef("debian"))
    box.service.put_boot_set(template.ref, text)
    assert view(box) is None


def test_without_tracepoints_clones_are_attached_and_one_is_told(box: Box) -> None:
    box.tracer.error = NotReady("requests cannot be recorded here", why="no tracefs")
    box.restart().learning.begin()
    attach(box, "web")
    shown = view(box)
    assert shown is not None
    assert "no tracefs" in shown.cannot
    with pytest.raises(NotReady, match="no tracefs"):
        box.service.learning.learn("debian")


def test_a_tracer_that_fails_later_stops_learning_and_nothing_else(box: Box) -> None:
    [device] = attach(box, "web")
    job = box.service.learning.learn("debian", 1)
    box.tracer.boot(device)
    box.tracer.error = NotReady("the tracer is gone")
    box.service.learning.look()
    box.service.clones.detach("web", force=False)
    attach(box, "other")
    assert recorded(box) == []
    assert job.operation.state == "failed"


def test_after_an_error_it_is_tried_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    [device] = attach(box, "web")
    box.tracer.error = NotReady("the tracer is busy")
    box.service.learning.look()
    box.tracer.error = None
    box.service.learning.look()
    assert box.tracer.watched == frozenset(), "not at once"
    monkeypatch.setattr(learning, "DEAF_SECONDS", 0.0)
    box.service.learning.look()
    assert box.tracer.watched == {device}
    box.tracer.boot(device)
    box.service.learning.look()
    assert recorded(box) == ["web"]


def test_a_boot_a_day_tells_what_is_wasted_and_changes_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(RUNS):
        boot(box, f"clone-{number}")
    shown = box.service.boot_sets.show("debian")
    assert (shown.wasted_bytes, shown.judged) == (0, 0)
    now = box.service.core.now() + learning.JUDGE_SECONDS
    monkeypatch.setattr(box.service.core, "now", lambda: now)
    first, second = attach(box, "later", 2)
    assert view(box) is None, "nothing is to be learned"
    box.tracer.boot(first, megabytes=1)
    box.tracer.boot(second)
    box.service.learning.look()
    judged = box.service.show_template("debian").boot_set
    assert judged is not None
    assert (judged.wasted_bytes, judged.judged) == (1 * MIB, 1), "one is enough"
    assert judged.changed == shown.changed
    assert recorded(box) == [f"clone-{number}" for number in range(RUNS)]
    assert box.tracer.watched == frozenset()
    attach(box, "same-day")
    assert box.tracer.watched == frozenset()


def test_a_given_boot_set_is_judged_by_the_first_boot(box: Box) -> None:
    boot(box, "first", 3)
    text = box.service.boot_sets.export("debian")
    box.service.put_boot_set("debian", text)
    assert box.service.boot_sets.show("debian").wasted_bytes is None
    boot(box, "second", 1)
    shown = box.service.boot_sets.show("debian")
    assert (shown.wasted_bytes, shown.judged, shown.runs) == (2 * MIB, 1, 1)
    boot(box, "third", 3)
    assert box.service.boot_sets.show("debian").judged == 1
    box.service.put_boot_set("debian", text)
    assert box.service.boot_sets.show("debian").judged == 0, "that was of another"


# --- on request


def test_boots_are_recorded_on_request(box: Box) -> None:
    for number in range(RUNS):
        boot(box, f"clone-{number}")
    [device] = attach(box, "waiting")
    assert box.tracer.watched == frozenset()
    job = box.service.learning.learn("debian", 2)
    assert box.tracer.watched == {f"254:{clone.thin_id}" for clone in box.service.core.catalog.clones()}
    assert "0 of 2 boots" in job.operation.phase
    box.tracer.boot(device, ago=1)
    box.service.learning.look()
    assert "recording waiting" in job.operation.phase
    assert job.operation.done_bytes == 2 * MIB
    box.service.clones.detach("waiting", force=False)
    box.service.learning.look()
    assert "1 of 2 boots" in job.operation.phase
    boot(box, "last")
    assert job.operation.state == "succeeded"
    assert recorded(box)[-2:] == ["waiting", "last"]
    assert view(box) is None


def test_the_boot_set_is_made_of_the_boots_that_were_asked_for(box: Box) -> None:
    for number in range(RUNS):
        boot(box, f"before-{number}", 3)
    box.service.learning.learn("debian", 1)
    boot(box, "after", 1)
    shown = box.service.boot_sets.show("debian")
    assert (shown.runs, shown.total_bytes) == (1, 1 * MIB)
    box.service.learning.learn("debian", 7)
    for number in range(7):
        boot(box, f"many-{number}")
    assert box.service.boot_sets.show("debian").runs == 7
    assert recorded(box) == [f"many-{number}" for number in range(7)]


def test_asked_again_it_counts_anew(box: Box) -> None:
    job = box.service.learning.learn("debian", 5)
    boot(box, "first")
    assert box.service.learning.learn("debian", 1) is job
    boot(box, "second")
    assert job.operation.state == "succeeded"


def test_what_cannot_be_learned_is_refused(box: Box) -> None:
    for runs in (0, -1, learning.MOST_RUNS + 1):
        with pytest.raises(InvalidInput):
            box.service.learning.learn("debian", runs)
    with pytest.raises(NotFound):
        box.service.learning.learn("missing")


def test_a_request_ends_with_its_template(box: Box) -> None:
    job = box.service.learning.learn("debian")
    box.service.templates.remove("debian")
    box.service.learning.look()
    assert job.operation.state == "failed"


def test_buffers_are_given_back_when_nothing_is_wanted_for_long(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    boot(box, "first")
    before = box.tracer.closed
    box.service.clones.remove("first", force=False)
    box.service.learning.look()
    assert box.tracer.closed == before
    monkeypatch.setattr(learning, "CLOSE_SECONDS", -1.0)
    box.service.learning.look()
    assert box.tracer.closed == before + 1


def test_it_is_looked_at_by_itself(box: Box) -> None:
    box.service.learning.start()
    job = box.service.learning.learn("debian", 1)
    [device] = attach(box, "web")
    box.tracer.boot(device)
    assert job.finished.wait(10)


def test_an_error_that_nobody_expected_ends_no_listening_for_good(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "DEAF_SECONDS", 0.05)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    box.service.learning.start()
    with monkeypatch.context() as patch:
        patch.setattr(box.service.core.catalog, "add_boot_run", full)
        job = box.service.learning.learn("debian", 1)
        [device] = attach(box, "web")
        box.tracer.boot(device)
        assert job.finished.wait(10), "it is said that it failed"
        assert job.operation.state == "failed"
    job = box.service.learning.learn("debian", 1)
    [device] = attach(box, "later")
    box.tracer.boot(device)
    assert job.finished.wait(10)
    assert job.operation.state == "succeeded"
