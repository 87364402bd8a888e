"""Boot sets of a service: given, learned, guessed; and what keeps them in the cache."""

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from appliance import wait
from appliance.bootset import boot_set, file, prefetch
from appliance.bootset.boot_set import BootSet
from appliance.bootset.extents import PAGE
from appliance.bootset.file import BootSetFile
from appliance.bootset.trace import Read
from appliance.catalog import Template
from appliance.errors import InUse, InvalidInput, NotFound, NotReady, Refused, Unhealthy
from appliance.model import GIB, MIB, Extent, Health, TemplateRef
from appliance.schema import CacheView, StoreView
from appliance.service import prefetching
from appliance.service.bootsets import BootSets
from appliance.service.operations import Job, Operations
from appliance.service.prefetching import Ports, Prefetching
from tests.unit import service_harness
from tests.unit.model_cache import ModelCache
from tests.unit.service_harness import IMAGE, Box

SIZE = len(IMAGE)
EXTENTS = (Extent(MIB, 64 * PAGE), Extent(0, 2 * PAGE))


def as_file(extents: tuple[Extent, ...] = EXTENTS, sha256: str | None = None, size: int = SIZE) -> str:
    return file.dump(BootSetFile("other@1", sha256, BootSet(extents, size, 3)))


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    # The model's volumes are files, which have no read-only flag; tests/kernel/test_rule_02_prefetch.py has real ones.
    monkeypatch.setattr(prefetching, "check_sealed", lambda _: None)
    with service_harness.box(tmp_path) as made:
        yield made


def settled(box: Box) -> None:
    ids = [template.thin_id for template in box.service.core.catalog.templates()]
    wait.until(lambda: not any(map(box.service.prefetching.is_busy_with, ids)), "the prefetch", deadline=10)


# --- boot sets


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


# --- by command


def test_warm_reads_the_boot_set_and_all_of_a_template_without_one(box: Box) -> None:
    box.add_template("debian")
    job = box.service.prefetching.warm("debian")
    assert job.finished.wait(10)
    assert (job.operation.state, job.operation.done_bytes) == ("succeeded", SIZE)
    box.service.put_boot_set("debian", as_file())
    settled(box)
    job = box.service.prefetching.warm("debian")
    assert job.finished.wait(10)
    assert job.operation.done_bytes == 66 * PAGE
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.why, view.total_bytes) == ("warm", "asked for", 66 * PAGE)


def test_a_template_that_is_being_read_is_not_removed_and_not_read_twice(box: Box) -> None:
    box.add_template("debian")
    released = threading.Event()
    box.store.guests = lambda: 0 if released.wait(10) else 1
    job = box.service.prefetching.warm("debian")
    with pytest.raises(InUse):
        box.service.prefetching.warm("debian")
    with pytest.raises(InUse):
        box.service.templates.remove("debian")
    released.set()
    assert job.finished.wait(10)
    wait.until(lambda: not box.service.prefetching.is_busy_with(1), "the end", deadline=10)
    assert box.service.templates.remove("debian").removed


def test_emptying_the_cache_ends_what_runs_and_nothing_begins_unasked_for_a_while(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.add_template("debian")
    box.store.guests = lambda: 1
    monkeypatch.setattr(prefetch, "PAUSE", 30.0)
    job = box.service.prefetching.warm("debian")
    assert box.service.measure.cold().finished.wait(10)
    assert job.finished.wait(10)
    assert job.operation.error is not None
    assert "emptied by command" in job.operation.error.why
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert view.state == "stopped", "which no alert is about"
    template = box.service.core.catalog.templates()[0]
    box.service.prefetching.begin_unasked(template, "a boot was recorded")
    assert not box.service.prefetching.is_busy_with(template.thin_id)
    box.store.guests = lambda: 0
    assert box.service.prefetching.warm("debian").finished.wait(10), "by command it begins"
    assert box.store.cold_calls == 1


def test_how_much_is_missing_is_told(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.add_template("debian")
    cache = ModelCache(monkeypatch, lambda *_: False)
    box.store.flows = cache.flow
    job = box.service.prefetching.warm("debian")
    assert job.finished.wait(10)
    settled(box)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.left_bytes, view.backend_bytes) == ("incomplete", SIZE, SIZE)
    assert job.operation.error is not None
    assert job.operation.error.code == Unhealthy.code


def test_how_fast_it_is_is_told_while_it_runs(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "TELL_SECONDS", 0.0)
    monkeypatch.setattr(prefetch, "LEAST_ROOM", MIB // 8)
    box.add_template("debian")
    rates: list[int] = []

    def guests() -> int:
        view = box.service.prefetching.view(1)
        assert view is not None
        rates.append(view.rate)
        return 0

    box.store.guests = guests
    assert box.service.prefetching.warm("debian").finished.wait(10)
    assert rates[0] == 0
    assert rates[-1] > 0
    view = box.service.prefetching.view(1)
    assert view is not None
    assert view.rate == 0


def test_it_is_read_where_it_lies_in_the_pool_and_asked_for_as_guests_do(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool keeps it elsewhere, without the hole; the proof is in reading the volume."""
    box.add_template("debian")
    elsewhere = box.folder / "pool-data"
    elsewhere.write_bytes(bytes(MIB))
    monkeypatch.setattr(box.pool, "places", lambda *_: (elsewhere, (Extent(0, 8 * PAGE),)))
    read: list[tuple[Path, int]] = []
    watch_reads(monkeypatch, read)
    assert box.service.prefetching.warm("debian").finished.wait(10)
    settled(box)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.total_bytes) == ("warm", 8 * PAGE)
    assert {length for path, length in read if path == elsewhere} == {8 * PAGE}
    proof = [length for path, length in read if path != elsewhere]
    assert len(proof) == prefetching.PROOF
    assert set(proof) == {PAGE}


def test_what_was_read_elsewhere_and_is_not_it_is_read_as_a_volume(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box.add_template("debian")
    elsewhere = box.folder / "pool-data"
    elsewhere.write_bytes(bytes(MIB))
    monkeypatch.setattr(box.pool, "places", lambda *_: (elsewhere, (Extent(8 * MIB, 8 * PAGE),)))
    cache = ModelCache(monkeypatch)
    cache.held.update(range(8 * MIB, 9 * MIB, PAGE))
    box.store.flows = cache.flow
    assert box.service.prefetching.warm("debian").finished.wait(10)
    settled(box)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.total_bytes) == ("warm", SIZE)
    assert "is not where it was read" in caplog.text


def test_while_another_reads_the_metadata_it_is_read_as_a_volume(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.add_template("debian")

    def busy(*_: object) -> tuple[Path, Sequence[Extent]]:
        raise InUse("the pool's metadata is being read")

    monkeypatch.setattr(box.pool, "places", busy)
    assert box.service.prefetching.warm("debian").finished.wait(10)
    settled(box)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.total_bytes) == ("warm", SIZE)


def test_the_places_of_a_boot_set_are_asked_for_once_and_anew_for_another(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.add_template("debian")
    asked: list[int] = []
    places = box.pool.places

    def counted(thin_id: int, extents: Sequence[Extent]) -> tuple[Path, Sequence[Extent]]:
        asked.append(len(extents))
        return places(thin_id, extents)

    monkeypatch.setattr(box.pool, "places", counted)
    for _ in range(2):
        assert box.service.prefetching.warm("debian").finished.wait(10)
        settled(box)
    box.service.put_boot_set("debian", as_file())
    settled(box)
    assert asked == [1, 2]


def watch_reads(patch: pytest.MonkeyPatch, found: list[tuple[Path, int]]) -> None:
    """Note what is read, and of which file."""
    preadv = os.preadv

    def watched(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        done = preadv(fd, buffers, offset)
        found.append((Path(f"/proc/self/fd/{fd}").readlink(), done))
        return done

    patch.setattr(os, "preadv", watched)


def test_a_boot_set_that_was_learned_is_fetched(box: Box) -> None:
    box.add_template("debian")
    box.service.learning.begin()
    [clone] = box.service.clones.create("web", "debian", None, "local")
    box.tracer.boot(f"254:{clone.thin_id}")
    box.service.learning.look()
    settled(box)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.why, view.total_bytes) == ("warm", "a boot was recorded", 2 * MIB)


def test_what_cannot_be_read_has_failed(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.add_template("debian")

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", broken)
    assert box.service.prefetching.warm("debian").finished.wait(10)
    settled(box)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert view.state == "failed"


def test_a_boot_set_that_comes_during_a_prefetch_is_fetched_after_it(box: Box) -> None:
    box.add_template("debian")
    released = threading.Event()
    box.store.guests = lambda: 0 if released.wait(10) else 1
    job = box.service.prefetching.warm("debian")
    box.service.put_boot_set("debian", as_file())
    released.set()
    assert job.finished.wait(10)

    def fetched() -> bool:
        view = box.service.show_template("debian").prefetch
        return view is not None and (view.state, view.total_bytes) == ("warm", 66 * PAGE)

    wait.until(fetched, "the new boot set", deadline=10)


# --- by itself


def store(*, attached: bool) -> StoreView:
    cache = CacheView(
        health=Health.OK,
        attached=attached,
        mode="writethrough",
        size=64 * MIB,
        settings_ok=True,
        bypassed_bytes=0,
        available_percent=None,
    )
    return StoreView(backend=None, meta=None, cache=cache, pool=None)


class Looker:
    """A prefetching that looks after the box's templates.

    Between two questions the backend reads ``missing``, for it or for ``guests``; or another ``flow`` tells.
    """

    def __init__(self, box: Box) -> None:
        self.box = box
        self.marks = 0
        self.guests = 0
        self.missing = 0
        self.read = 0
        self.flow = self._flow
        self.operations = Operations()
        self.made = self.begin()

    def begin(self) -> Prefetching:
        core = self.box.service.core
        ports = Ports(lambda: self.flow, lambda: self.guests, lambda: self.marks)
        return Prefetching(core, self.operations, BootSets(core), ports)

    def _flow(self) -> tuple[int, int]:
        self.read += self.missing
        return self.read, 0

    def look(self, *, attached: bool = True) -> None:
        self.made.look(store(attached=attached))
        wait.until(lambda: all(thread.name != "boot sets" for thread in threading.enumerate()), "the look", deadline=10)

    def state(self, name: str) -> str | None:
        view = self.made.view(self.box.service.core.catalog.template(TemplateRef(name)).thin_id)
        return None if view is None else view.state

    def read_templates(self) -> list[str]:
        return [operation.subject for operation in reversed(self.operations.list())]


@pytest.fixture
def looker(box: Box) -> Looker:
    box.add_template("few")
    box.add_template("many")
    box.add_template("none")
    box.service.clones.create("a", "few", None, None)
    box.service.clones.create("b", "many", 2, None)
    return Looker(box)


def test_when_the_cache_is_back_the_templates_of_clones_are_read(looker: Looker) -> None:
    for attached in (True, False, False, True, True):
        looker.look(attached=attached)
    assert looker.read_templates() == ["many@1", "few@1"]


def test_a_cache_that_was_there_from_the_beginning_is_asked_for_boot_sets_alone(looker: Looker) -> None:
    looker.box.service.put_boot_set("none", as_file())
    looker.look()
    assert looker.read_templates() == [], "the cache has it"
    looker.missing = MIB
    looker.made = looker.begin()
    looker.look()
    assert looker.read_templates() == ["none@1"], "the cache had lost it"
    looker.look()
    assert looker.read_templates() == ["none@1"], "the next look is due in minutes"


def test_that_the_cache_came_back_is_not_forgotten(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no time for it at first, or it is broken off."""
    looker.look()
    looker.made.hold()
    for attached in (False, True):
        looker.look(attached=attached)
    assert looker.read_templates() == []
    looker.made._held_until = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(looker.made, "begin", held_after_the_first(looker))
        looker.look()
    assert looker.read_templates() == ["many@1"]
    looker.made._held_until = 0.0
    looker.look()
    assert looker.read_templates() == ["many@1", "many@1", "few@1"]


def held_after_the_first(looker: Looker) -> Callable[..., Job]:
    begin = looker.made.begin

    def once(template: Template, why: str, *, unasked: bool) -> Job:
        job = begin(template, why, unasked=unasked)
        assert job.finished.wait(10)
        looker.made.hold()
        return job

    return once


@pytest.mark.parametrize(
    ("guests", "pages", "read"),
    [
        pytest.param(0, 0, False, id="all there"),
        pytest.param(0, 1, True, id="one missing"),
        pytest.param(1, 1, False, id="perhaps a guest's"),
        pytest.param(1, 30, True, id="too many to be guests'"),
    ],
)
def test_one_page_that_is_missing_is_enough(
    looker: Looker, monkeypatch: pytest.MonkeyPatch, guests: int, pages: int, *, read: bool
) -> None:
    monkeypatch.setattr(prefetch, "PAUSE", 0.0)
    looker.box.service.put_boot_set("many", as_file((Extent(0, 64 * PAGE),)))
    settled(looker.box)
    cache = ModelCache(monkeypatch)
    cache.held.update(range(pages * PAGE, SIZE, PAGE))
    looker.guests, looker.flow = guests, cache.flow
    looker.look()
    assert looker.read_templates() == (["many@1"] if read else [])


def test_what_did_not_get_in_is_tried_again_and_again_later(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    looker.box.service.put_boot_set("many", as_file())
    now = 0.0
    monkeypatch.setattr(prefetching, "monotonic", lambda: now)
    looker.missing = MIB
    tried = []
    for number in range(12):
        now = number * prefetching.CHECK_SECONDS
        looker.look()
        tried.append(len(looker.read_templates()))
    assert tried == [1, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]
    assert looker.state("many") == "incomplete"
    looker.missing = 0
    now += 4 * prefetching.CHECK_SECONDS
    looker.look()
    assert looker.state("many") == "warm"


def test_a_template_whose_boot_set_was_forgotten_is_not_read_whole_for_it(looker: Looker) -> None:
    looker.box.service.put_boot_set("many", as_file())
    looker.missing = MIB
    looker.look()
    assert (looker.state("many"), looker.read_templates()) == ("incomplete", ["many@1"])
    looker.box.service.boot_sets.remove("many")
    looker.made._next_check = 0.0
    looker.look()
    assert looker.read_templates() == ["many@1"]


def test_boot_sets_that_would_fill_the_cache_are_left_out_and_smaller_ones_are_not(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looker.box.service.put_boot_set("many", as_file())
    looker.box.service.put_boot_set("few", as_file())
    looker.box.service.put_boot_set("none", as_file((Extent(0, 2 * PAGE),)))
    monkeypatch.setattr(prefetching, "SHARE", 70 * PAGE / (64 * MIB))
    looker.missing = MIB
    looker.look()
    assert looker.read_templates() == ["many@1", "none@1"], "the one that clones use, and what fits beside it"
    assert looker.state("few") == "incomplete", "which is told"
    template = looker.box.service.core.catalog.template(TemplateRef("few"))
    looker.made.begin_unasked(template, "a boot was recorded")
    assert looker.read_templates() == ["many@1", "none@1"]
    job = looker.made.warm("few")
    assert job.finished.wait(10), "by command it is read"


def test_templates_without_a_boot_set_are_read_whole_as_far_as_the_cache_has_room(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetching, "SHARE", 1.5 * SIZE / (64 * MIB))
    for attached in (True, False, True):
        looker.look(attached=attached)
    assert looker.read_templates() == ["many@1"], "which most clones use"
    assert looker.state("few") == "incomplete", "which is told"
    assert looker.state("none") is None, "nobody uses it"


def test_one_that_nobody_asked_for_does_not_begin_after_the_cache_was_emptied(looker: Looker) -> None:
    """However late it is noticed that it is to be cold."""
    template = looker.box.service.core.catalog.template(TemplateRef("many"))
    looker.made.hold()
    with pytest.raises(Refused, match="emptied by command"):
        looker.made.begin(template, "the cache was found without it", unasked=True)
    assert looker.made.warm("many").finished.wait(10)
    looker.marks = 1
    with pytest.raises(Refused, match="is being emptied"):
        looker.made.warm("many")


def test_what_was_in_the_cache_is_not_said_to_be_there_when_it_was_emptied(looker: Looker) -> None:
    assert looker.made.warm("many").finished.wait(10)
    assert looker.state("many") == "warm"
    looker.made.hold()
    assert looker.state("many") == "stopped"


def test_without_a_cache_nothing_is_read(looker: Looker) -> None:
    looker.look(attached=False)
    with pytest.raises(NotReady, match="no cache"):
        looker.made.warm("many")


def under_way(looker: Looker) -> None:
    looker.marks = 1
    looker.look(attached=False)
    looker.marks = 2


def over_since_the_look(looker: Looker) -> None:
    looker.marks = 2
    looker.look(attached=False)


@pytest.mark.parametrize("case", [under_way, over_since_the_look])
def test_a_cache_that_was_emptied_by_command_stays_cold(looker: Looker, case: Callable[[Looker], None]) -> None:
    looker.box.service.put_boot_set("many", as_file())
    looker.look()
    looker.missing = MIB
    case(looker)
    for _ in range(3):
        looker.look()
    assert looker.read_templates() == []
