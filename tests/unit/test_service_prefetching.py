"""Prefetches of a service: by command, and when a boot set came to be."""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance import wait
from appliance.bootset import prefetch
from appliance.bootset.extents import PAGE
from appliance.errors import InUse, Unhealthy
from appliance.model import MIB, Extent, ImageFormat
from appliance.schema import TemplateCreate, UploadSource
from appliance.service import reading
from tests.unit import boot_set_box
from tests.unit.boot_set_box import SIZE, as_file, settled
from tests.unit.model_cache import ModelCache
from tests.unit.service_harness import IMAGE, Box


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with boot_set_box.box(tmp_path, monkeypatch) as made:
        yield made


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
    box.service.keeping.begin_unasked(template, "a boot was recorded")
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
    assert (view.state, view.total_bytes, view.held_bytes) == ("warm", 8 * PAGE, 8 * PAGE)
    assert {length for path, length in read if path == elsewhere} == {8 * PAGE}
    proof = [length for path, length in read if path != elsewhere]
    assert len(proof) == reading.PROOF
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
    assert (view.state, view.total_bytes, view.held_bytes) == ("warm", SIZE, None), "who knows what are holes"
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
    assert (view.state, view.total_bytes, view.held_bytes) == ("warm", SIZE, None)


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


def test_a_template_that_comes_with_a_boot_set_is_fetched(box: Box) -> None:
    request = TemplateCreate(
        name="debian", format=ImageFormat.RAW, source=UploadSource(), size=SIZE, boot_set=as_file()
    )
    job = box.service.imports.begin(request)
    source, _ = box.service.imports.upload("debian")
    assert source.put(IMAGE)
    source.end()
    assert job.finished.wait(10)
    settled(box)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.why, view.total_bytes) == ("warm", "the template is new", 66 * PAGE)


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
