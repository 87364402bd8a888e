"""Templates that have no boot set of their own yet: kept in the cache as a whole, as far as there is room."""

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance import wait
from appliance.bootset.extents import PAGE
from appliance.errors import InUse
from appliance.model import MIB, ImageFormat
from appliance.schema import NbdSource, PrefetchView, TemplateCreate
from appliance.service import keeping, shares
from tests.unit import boot_set_box
from tests.unit.boot_set_box import CACHE, OWN, SIZE, as_file, missing, settled, store
from tests.unit.service_harness import IMAGE, Box

OTHER = b"else" + IMAGE[4:]
SET = 66 * PAGE


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A service that has seen its cache."""
    with boot_set_box.box(tmp_path, monkeypatch) as made:
        look(made)
        yield made


def look(box: Box) -> None:
    """Have the service look at its cache, and read what it wants then."""
    box.service.keeping._next_check = 0.0
    box.service.keeping.look(store())
    wait.until(lambda: all(thread.name != "boot sets" for thread in threading.enumerate()), "the look", deadline=10)
    settled(box)


def view(box: Box, ref: str = "debian") -> PrefetchView:
    found = box.service.show_template(ref).prefetch
    assert found is not None
    return found


def read(box: Box) -> list[tuple[str, int | None]]:
    """What was read, in order: templates and bytes."""
    warmed = [each for each in reversed(box.service.operations.list()) if each.kind == "warm"]
    return [(each.subject, each.total_bytes) for each in warmed]


def test_a_new_template_is_read_whole(box: Box) -> None:
    box.add_template("debian")
    settled(box)
    assert (view(box).state, view(box).total_bytes) == ("warm", SIZE)
    assert view(box).why == "the template is new, and it has no boot set of its own"


def test_before_the_cache_was_seen_it_waits_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with boot_set_box.box(tmp_path, monkeypatch) as made:
        made.add_template("debian")
        settled(made)
        assert (read(made), made.service.show_template("debian").prefetch) == ([], None)
        made.store.flows = missing()
        look(made)
        assert read(made) == [("debian@1", SIZE)]


def test_one_that_has_no_room_is_not_and_that_is_said_once(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held = 2 * box.pool.block_bytes  # two blocks have data, and those between are holes
    monkeypatch.setattr(shares, "SHARE", (held - 1) / CACHE)
    box.add_template("debian")
    for _ in range(2):
        look(box)
    assert read(box) == []
    assert (view(box).state, view(box).left_bytes, view(box).why) == ("incomplete", held, keeping.NO_ROOM_WHOLE)
    assert caplog.text.count(keeping.NO_ROOM_WHOLE) == 1
    monkeypatch.setattr(shares, "SHARE", held / CACHE)
    look(box)
    assert read(box) == [("debian@1", SIZE)], "as soon as there is room"
    assert view(box).state == "warm"


def test_the_newest_of_those_that_nobody_uses_has_room_first(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "SHARE", 2 * box.pool.block_bytes / CACHE)
    for name in ("old", "new"):
        box.add_template(name)
        settled(box)
    assert [view(box, name).state for name in ("old", "new")] == ["warm", "warm"]
    box.store.flows = missing()
    look(box)
    assert read(box) == [("old@1", SIZE), ("new@1", SIZE), ("new@1", SIZE)], "the old one is let go"


def test_one_with_a_boot_set_of_its_own_is_not(box: Box) -> None:
    box.service.measure.before_cold()  # so that it is not read as it comes
    box.add_template("debian")
    box.service.prefetching._held_until = 0.0
    box.service.put_boot_set("debian", as_file(sha256=OWN))
    settled(box)
    box.store.flows = missing()
    look(box)
    assert read(box) == [("debian@1", SET), ("debian@1", SET)]


def test_one_that_begins_with_a_guess_is_read_whole_after_it(box: Box) -> None:
    box.add_template("debian")
    settled(box)
    box.service.put_boot_set("debian", as_file(sha256=OWN))
    settled(box)
    box.add_template("debian", OTHER)
    settled(box)
    assert read(box)[-2:] == [("debian@2", SET), ("debian@2", SIZE)]
    assert (view(box, "debian@2").state, view(box, "debian@2").total_bytes) == ("warm", SIZE)


def test_one_that_begins_with_a_guess_and_has_no_room_shows_how_that_went(
    box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box.add_template("debian")
    settled(box)
    box.service.put_boot_set("debian", as_file(sha256=OWN))
    monkeypatch.setattr(shares, "SHARE", 2 * SET / CACHE)
    monkeypatch.setattr(box.pool, "held_bytes", lambda _: SET + 1)
    box.add_template("debian", OTHER)
    for _ in range(2):
        look(box)
    assert read(box)[-1] == ("debian@2", SET)
    assert (view(box, "debian@2").state, view(box, "debian@2").why) == ("warm", "the template is new")
    assert caplog.text.count(keeping.NO_ROOM_WHOLE) == 1


def test_one_that_is_being_fetched_is_read_when_all_of_it_is_here(box: Box) -> None:
    released = threading.Event()
    box.remotes.disks["debian@1"] = IMAGE
    box.store.guests = lambda: 0 if released.wait(10) else 1
    source = NbdSource(uri="nbd://192.0.2.1/debian@1", lazy=True)
    job = box.service.import_template(TemplateCreate(name="far", format=ImageFormat.RAW, source=source))
    assert job.finished.wait(10)
    box.store.flows = missing()
    look(box)
    assert read(box) == [], "what is not here yet would be asked of the other server"
    box.store.flows = lambda: (0, 0)
    released.set()
    wait.until(lambda: box.service.show_template("far").prefetch, "its end", deadline=10)
    settled(box)
    assert (read(box), view(box, "far").state) == ([("far@1", SIZE)], "warm")


class Held:
    """A template that is being read whole, and does not get on until it is released."""

    def __init__(self, box: Box, name: str = "debian") -> None:
        self.box = box
        self.released = threading.Event()
        self.begun = threading.Event()
        box.store.guests = self._guests
        box.add_template(name)
        assert self.begun.wait(10)

    def _guests(self) -> int:
        self.begun.set()
        stops = [run.stop for run in list(self.box.service.prefetching._runs.values())]
        wait.until(lambda: self.released.is_set() or any(stop.is_set() for stop in stops), "its release", deadline=10)
        return 0


def test_it_ends_early_when_a_boot_was_recorded_meanwhile(box: Box) -> None:
    box.service.learning.begin()
    Held(box)
    [clone] = box.service.clones.create("web", "debian", None, "local")
    box.tracer.boot(f"254:{clone.thin_id}")
    box.service.learning.look()
    box.store.guests = lambda: 0
    wait.until(lambda: view(box).total_bytes == 2 * MIB, "what was learned", deadline=10)
    settled(box)
    [_, ended] = [each for each in box.service.operations.list() if each.kind == "warm"]
    assert (ended.state, ended.phase) == ("succeeded", "ended early: its boot set is read")
    assert (view(box).state, view(box).why) == ("warm", "a boot was recorded")
    box.store.flows = missing()
    look(box)
    assert read(box)[-1] == ("debian@1", 2 * MIB), "it is not kept as a whole any more"


def test_a_template_that_is_read_unasked_is_removed_all_the_same(box: Box) -> None:
    Held(box)
    assert box.service.templates.remove("debian").removed
    assert box.pool.volumes == {}
    wait.until(lambda: box.service.operations.list()[0].state != "running", "its end", deadline=10)
    ended = box.service.operations.list()[0]
    assert (ended.state, ended.phase) == ("succeeded", "ended early: the template is to be removed")


def test_one_that_is_asked_for_then_is_not_read_twice_nor_removed(box: Box) -> None:
    held = Held(box)
    job = box.service.prefetching.warm("debian")
    with pytest.raises(InUse):
        box.service.templates.remove("debian")
    held.released.set()
    assert job.finished.wait(10)
    settled(box)
    assert (job.operation.state, read(box)) == ("succeeded", [("debian@1", SIZE)])
    assert view(box).why == "asked for"


def test_it_waits_while_another_template_is_read(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Path] = []
    preadv = os.preadv

    def watched(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        done.append(Path(f"/proc/self/fd/{fd}").readlink())
        return preadv(fd, buffers, offset)

    class Turn:
        """What another one has, asked for by whoever waits."""

        def __init__(self) -> None:
            self.given_back = False
            self.asked = 0

        def locked(self) -> bool:
            self.asked += 1
            return not self.given_back

    turn = Turn()
    monkeypatch.setattr(os, "preadv", watched)
    monkeypatch.setattr(box.service.prefetching.reading, "_turn", turn)
    box.add_template("debian")
    wait.until(lambda: turn.asked > 100, "it to ask whether it may go on", deadline=10)
    assert done == []
    turn.given_back = True
    settled(box)
    assert done
    assert view(box).state == "warm"
    monkeypatch.undo()
