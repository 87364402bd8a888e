"""What a service's look at its cache makes it prefetch, and what it leaves alone."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import wait
from appliance.bootset import prefetch
from appliance.bootset.extents import PAGE
from appliance.catalog import Template
from appliance.errors import NotReady, Refused
from appliance.model import MIB, Extent, TemplateRef
from appliance.service import keeping, setbacks, shares
from appliance.service.bootsets import BootSets
from appliance.service.keeping import Keeping
from appliance.service.operations import Job, Operations
from appliance.service.ports import CacheWatch
from appliance.service.prefetching import Prefetching
from tests.unit import boot_set_box
from tests.unit.boot_set_box import CACHE, OWN, SIZE, as_file, settled, store
from tests.unit.model_cache import ModelCache
from tests.unit.service_harness import Box


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with boot_set_box.box(tmp_path, monkeypatch) as made:
        yield made


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

    def begin(self) -> Keeping:
        core = self.box.service.core
        ports = CacheWatch(lambda: self.flow, lambda: self.guests, lambda: self.marks)
        self.reads = Prefetching(core, self.operations, BootSets(core), ports)
        return Keeping(core, BootSets(core), self.reads, ports)

    def _flow(self) -> tuple[int, int]:
        self.read += self.missing
        return self.read, 0

    def look(self, *, attached: bool = True) -> None:
        self.made.look(store(attached=attached))
        wait.until(lambda: all(thread.name != "boot sets" for thread in threading.enumerate()), "the look", deadline=10)
        ids = [template.thin_id for template in self.box.service.core.catalog.templates()]
        wait.until(lambda: not any(map(self.reads.is_busy_with, ids)), "what it began", deadline=10)

    def held(self, name: str) -> int:
        """Bytes that the pool has of a template."""
        return self.box.pool.held_bytes(self.box.service.core.catalog.template(TemplateRef(name)).thin_id)

    def state(self, name: str) -> str | None:
        view = self.reads.view(self.box.service.core.catalog.template(TemplateRef(name)).thin_id)
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


def test_when_the_cache_is_back_all_that_is_kept_is_read(looker: Looker) -> None:
    looker.box.service.put_boot_set("none", as_file(sha256=OWN))
    for attached in (True, False, False, True, True):
        looker.look(attached=attached)
    assert looker.read_templates() == ["none@1", "many@1", "few@1"], "boot sets first, then what clones use most"


def test_a_cache_that_was_there_from_the_beginning_is_asked_what_it_has(looker: Looker) -> None:
    looker.box.service.put_boot_set("none", as_file(sha256=OWN))
    looker.look()
    assert looker.read_templates() == [], "the cache has it"
    looker.missing = MIB
    looker.made = looker.begin()
    looker.look()
    assert looker.read_templates() == ["none@1", "many@1", "few@1"], "the cache had lost it"
    looker.look()
    assert looker.read_templates() == ["none@1", "many@1", "few@1"], "the next look is due in minutes"


def test_that_the_cache_came_back_is_not_forgotten(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    """When there is no time for it at first, or it is broken off."""
    looker.look()
    looker.reads.hold()
    for attached in (False, True):
        looker.look(attached=attached)
    assert looker.read_templates() == []
    looker.reads._held_until = 0.0
    with monkeypatch.context() as patch:
        patch.setattr(looker.reads, "begin", held_after_the_first(looker))
        looker.look()
    assert looker.read_templates() == ["many@1"]
    looker.reads._held_until = 0.0
    looker.look()
    assert looker.read_templates() == ["many@1", "many@1", "few@1", "none@1"]


def held_after_the_first(looker: Looker) -> Callable[..., Job]:
    begin = looker.reads.begin

    def once(template: Template, why: str, *, unasked: bool, whole: bool) -> Job:
        job = begin(template, why, unasked=unasked, whole=whole)
        assert job.finished.wait(10)
        looker.reads.hold()
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
    monkeypatch.setattr(shares, "SHARE", 64 * PAGE / CACHE)
    looker.box.service.put_boot_set("many", as_file((Extent(0, 64 * PAGE),), OWN))
    settled(looker.box)
    cache = ModelCache(monkeypatch)
    cache.held.update(range(pages * PAGE, SIZE, PAGE))
    looker.guests, looker.flow = guests, cache.flow
    looker.look()
    assert looker.read_templates() == (["many@1"] if read else [])


def test_what_did_not_get_in_is_tried_again_and_again_later(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    looker.box.service.put_boot_set("many", as_file(sha256=OWN))
    monkeypatch.setattr(shares, "SHARE", 66 * PAGE / CACHE)
    now = 0.0
    for module in (keeping, setbacks):
        monkeypatch.setattr(module, "monotonic", lambda: now)
    looker.missing = MIB
    tried = []
    for number in range(12):
        now = number * setbacks.CHECK_SECONDS
        looker.look()
        tried.append(len(looker.read_templates()))
    assert tried == [1, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4]
    assert looker.state("many") == "incomplete"
    looker.missing = 0
    now += 4 * setbacks.CHECK_SECONDS
    looker.look()
    assert looker.state("many") == "warm"


def test_boot_sets_that_would_fill_the_cache_are_left_out_and_smaller_ones_are_not(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looker.box.service.put_boot_set("many", as_file(sha256=OWN))
    looker.box.service.put_boot_set("few", as_file(sha256=OWN))
    looker.box.service.put_boot_set("none", as_file((Extent(0, 2 * PAGE),), OWN))
    monkeypatch.setattr(shares, "SHARE", 70 * PAGE / CACHE)
    looker.missing = MIB
    looker.look()
    assert looker.read_templates() == ["many@1", "none@1"], "the one that clones use, and what fits beside it"
    assert looker.state("few") == "incomplete", "which is told"
    template = looker.box.service.core.catalog.template(TemplateRef("few"))
    looker.made.begin_unasked(template, "a boot was recorded")
    assert looker.read_templates() == ["many@1", "none@1"]
    job = looker.reads.warm("few")
    assert job.finished.wait(10), "by command it is read"


def test_templates_without_a_boot_set_are_read_whole_as_far_as_the_cache_has_room(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "SHARE", 1.5 * looker.held("many") / CACHE)
    for attached in (True, False, True):
        looker.look(attached=attached)
    assert looker.read_templates() == ["many@1"], "which most clones use"
    assert (looker.state("few"), looker.state("none")) == ("incomplete", "incomplete"), "which is told"


def test_boot_sets_leave_what_is_whole_no_room(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    looker.box.service.put_boot_set("none", as_file(sha256=OWN))
    monkeypatch.setattr(shares, "SHARE", (66 * PAGE + looker.held("many") - 1) / CACHE)
    looker.missing = MIB
    looker.look()
    assert looker.read_templates() == ["none@1"], "though no clone uses it, and clones use the others"


def test_a_template_with_a_boot_set_takes_no_room_as_a_whole(looker: Looker, monkeypatch: pytest.MonkeyPatch) -> None:
    looker.box.service.put_boot_set("many", as_file((Extent(0, 2 * PAGE),), OWN))
    monkeypatch.setattr(shares, "SHARE", (2 * PAGE + looker.held("few")) / CACHE)
    looker.missing = MIB
    looker.look()
    assert looker.read_templates() == ["many@1", "few@1"]


def test_a_template_whose_boot_set_was_forgotten_is_kept_as_one_that_never_had_any(
    looker: Looker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "SHARE", looker.held("many") / CACHE)
    looker.box.service.put_boot_set("many", as_file((Extent(0, PAGE),), OWN))
    looker.missing = MIB
    looker.look()
    assert looker.read_templates() == ["many@1"]
    looker.box.service.boot_sets.remove("many")
    looker.missing = 0
    looker.made._next_check = 0.0
    looker.look()
    assert looker.read_templates() == ["many@1"], "all of it is there"
    looker.missing = MIB
    looker.made._next_check = 0.0
    looker.look()
    view = looker.reads.view(looker.box.service.core.catalog.template(TemplateRef("many")).thin_id)
    assert view is not None
    assert (looker.read_templates(), view.total_bytes) == (["many@1", "many@1"], SIZE)


def test_one_that_nobody_asked_for_does_not_begin_after_the_cache_was_emptied(looker: Looker) -> None:
    """However late it is noticed that it is to be cold."""
    template = looker.box.service.core.catalog.template(TemplateRef("many"))
    looker.reads.hold()
    with pytest.raises(Refused, match="emptied by command"):
        looker.reads.begin(template, "the cache was found without it", unasked=True)
    assert looker.reads.warm("many").finished.wait(10)
    looker.marks = 1
    with pytest.raises(Refused, match="is being emptied"):
        looker.reads.warm("many")


def test_what_was_in_the_cache_is_not_said_to_be_there_when_it_was_emptied(looker: Looker) -> None:
    assert looker.reads.warm("many").finished.wait(10)
    assert looker.state("many") == "warm"
    looker.reads.hold()
    assert looker.state("many") == "stopped"


def test_without_a_cache_nothing_is_read(looker: Looker) -> None:
    looker.look(attached=False)
    with pytest.raises(NotReady, match="no cache"):
        looker.reads.warm("many")


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
