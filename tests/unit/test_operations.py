"""Long jobs can be cancelled: each kind ends soon, says so, and leaves nothing half done."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wait
from appliance.bootset import prefetch
from appliance.cli import options
from appliance.errors import Cancelled, HatcheryError, Refused
from appliance.images.sources import DeviceSource, Source
from appliance.model import MIB, ImageFormat, PoolName
from appliance.schema import CloneCreate, Operation, TemplateCreate, UploadSource, UrlSource
from appliance.service import core as core_module
from appliance.service import imports, prefetching, setbacks
from appliance.service.operations import NEVER, Job, Operations
from appliance.service.setbacks import Part
from tests.unit.model import ModelPool
from tests.unit.qcow2_files import Image
from tests.unit.service_harness import IMAGE, Box
from tests.unit.service_harness import box as make_box
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(prefetching, "check_sealed", lambda _: None)
    with make_box(tmp_path) as made:
        yield made


def cancelled(job: Job) -> Operation:
    """The job's operation after it was cancelled by somebody and has ended."""
    assert job.operation.cancellable
    asked = job.cancel()
    assert asked.state in ("running", "cancelled")
    assert not asked.cancellable
    assert job.finished.wait(10)
    found = job.operation
    assert found.error is not None
    assert (found.state, found.error.code) == ("cancelled", Cancelled.code)
    assert job.cancel() == found, "once more changes nothing"
    return found


def nothing_left(box: Box) -> bool:
    return not (box.pool.volumes or box.pool.active or box.service.core.catalog.thin_ids())


# --- the job itself


def test_what_has_not_said_how_cannot_be_cancelled() -> None:
    job = Operations().begin("promote", "debian@1", "running")
    with pytest.raises(Refused, match="the promote of debian@1 cannot be cancelled"):
        job.cancel()
    assert job.operation.state == "running"


def test_past_the_last_step_that_can_be_taken_back_it_cannot_be_cancelled() -> None:
    job = Operations().begin("import", "debian@1", "running")
    job.cancellable(lambda: None)
    job.settle()
    assert not job.operation.cancellable
    with pytest.raises(Refused, match="past the step"):
        job.cancel()
    job.succeed()
    assert job.cancel().state == "succeeded", "one that has ended stays as it is"


def test_who_cancels_in_time_keeps_the_last_step_from_being_taken() -> None:
    job = Operations().begin("import", "debian@1", "running")
    job.cancellable(lambda: None)
    job.cancel()
    for step in (job.settle, job.check):
        with pytest.raises(Cancelled, match="the import of debian@1 was cancelled"):
            step()
    job.phase("a word of the thread that does not know yet")
    assert job.operation.phase == "being cancelled"


def test_a_bug_is_not_taken_for_the_end_that_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    operations = Operations()
    job = operations.begin("import", "debian@1", "running")
    asked = threading.Event()
    job.cancellable(asked.set)

    def work(_: Job) -> None:
        assert asked.wait(10)
        raise KeyError("a bug")

    operations.run(job, work)
    job.cancel()
    assert job.finished.wait(10)
    assert job.operation.state == "failed"


# --- each kind


def test_an_upload_that_is_under_way_is_taken_back(box: Box) -> None:
    job = box.service.imports.begin(
        TemplateCreate(name="big", format=ImageFormat.RAW, source=UploadSource(), size=len(IMAGE))
    )
    source, _ = box.service.imports.upload("big")
    assert source.put(IMAGE[: 1 * MIB])
    cancelled(job)
    assert not source.put(b"more"), "its sender is told"
    assert nothing_left(box)
    assert box.add_template("big").state == "succeeded", "and the name is free"


def test_an_upload_that_nobody_sends_yet_is_taken_back(box: Box) -> None:
    wanted = TemplateCreate(name="big", format=ImageFormat.QCOW2, source=UploadSource(), size=MIB)
    cancelled(box.service.imports.begin(wanted))
    assert nothing_left(box)


class Endless:
    """A server that never stops sending."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def size(self) -> int | None:
        return 64 * MIB

    def chunks(self) -> Iterator[bytes]:
        while not self.closed.wait(0.001):
            yield bytes(4096)

    def close(self) -> None:
        self.closed.set()


def test_a_fetch_is_taken_back(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(_: str) -> Source:
        return Endless()

    monkeypatch.setattr(box.service.imports, "_open_url", opened)
    wanted = TemplateCreate(name="far", format=ImageFormat.RAW, source=UrlSource(url="http://far/image"))
    job = box.service.imports.begin(wanted)
    wait.until(lambda: job.operation.done_bytes > 0, "the first bytes", deadline=10)
    cancelled(job)
    assert nothing_left(box)


@pytest.mark.parametrize("ends", ["with an error", "as if it were done"])
def test_a_conversion_is_stopped(box: Box, monkeypatch: pytest.MonkeyPatch, ends: str) -> None:
    monkeypatch.setattr(imports, "CONVERSION_LOOK", 0.01)
    begun, stopped = threading.Event(), threading.Event()

    def convert(source: Path, target: Path, staging: int) -> None:
        assert source.exists()
        assert staging
        begun.set()
        target.write_bytes(b"a part")
        assert stopped.wait(10)
        if ends == "with an error":
            raise HatcheryError("killed")

    monkeypatch.setattr(box.converter, "convert", convert)
    monkeypatch.setattr(box.converter, "stop", lambda _: stopped.set())
    content = Image().build()
    job = box.service.imports.begin(
        TemplateCreate(name="web", format=ImageFormat.QCOW2, source=UploadSource(), size=len(content))
    )
    source, _ = box.service.imports.upload("web")
    assert source.put(content)
    assert source.end()
    assert begun.wait(10)
    cancelled(job)
    assert nothing_left(box), "half an image is no template"


def test_an_import_whose_bytes_are_all_there_is_still_cancelled(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_check_digest", lambda *_: cancel_all(box))
    operation = box.add_template("late")
    assert operation.state == "cancelled"
    assert nothing_left(box)


def cancel_all(box: Box) -> None:
    for operation in box.service.operations.list():
        box.service.operations.job(operation.id).cancel()


def test_a_promotion_that_copies_is_taken_back_and_the_clone_goes_on(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fast").mkdir()
    box.pools[PoolName.FAST] = ModelPool(tmp_path / "fast", name="drive-1")
    box.restart()
    box.add_template("debian")
    box.service.create_clones(CloneCreate.model_validate({"name": "q", "template": "debian", "kind": "ephemeral"}))
    held, chunks = threading.Event(), DeviceSource.chunks

    def slow(source: DeviceSource) -> Iterator[bytes]:
        for chunk in chunks(source):
            held.wait(0.2)
            yield chunk

    monkeypatch.setattr(DeviceSource, "chunks", slow)
    cancelled(box.service.life.promote("q", "made"))
    assert [template.ref for template in box.service.list_templates().templates] == ["debian@1"]
    wait.until(lambda: "q" in box.exported(), "the clone to be exported again", deadline=10)
    assert box.service.plan().steps == ()


def test_warming_ends_at_once_and_does_not_begin_again_by_itself(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    box.add_template("debian")
    box.add_template("other")
    box.store.guests = lambda: 1
    monkeypatch.setattr(prefetch, "PAUSE", 30.0)
    runs = box.service.prefetching.warm("debian")
    waits = box.service.prefetching.warm("other")
    cancelled(waits)
    assert runs.operation.state == "running", "the one that had its turn goes on"
    cancelled(runs)
    view = box.service.show_template("debian").prefetch
    assert view is not None
    assert (view.state, view.why) == ("stopped", "it was cancelled")
    looker = box.service.prefetching
    wait.until(lambda: not looker.is_busy_with(1), "the end", deadline=10)
    monkeypatch.setattr(looker, "lost", lambda *_: True)
    template, keeping = box.service.core.catalog.templates()[0], box.service.keeping
    assert keeping._why(template, Part.WHOLE, came_back=False) is None
    monkeypatch.setattr(setbacks, "monotonic", lambda: 1e12)
    assert keeping._why(template, Part.WHOLE, came_back=False) is not None, "but later it does"


def test_boots_that_were_asked_for_are_not_waited_for_any_more(box: Box) -> None:
    box.add_template("debian")
    box.service.learning.begin()
    job = box.service.learning.learn("debian", 5)
    cancelled(job)
    view = box.service.show_template("debian").learning
    assert view is not None
    assert view.missing == 3, "those that it learns by itself"
    assert box.service.learning.learn("debian", 2).operation.id != job.operation.id


def test_a_collection_ends_between_two_pieces_and_the_rest_is_not_lost(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core_module, "SMALL", 0)
    monkeypatch.setattr("appliance.service.collector.SMALL", 0)
    box.add_template("debian")
    box.service.create_clones(CloneCreate(name="web", template="debian", count=2))
    for clone in box.service.core.catalog.clones():
        box.pool.path(clone.thin_id).write_bytes(b"x" * MIB)
    begun, released = threading.Event(), threading.Event()
    empty = box.pool.empty

    def slow(thin_id: int, go_on: object) -> bool:
        begun.set()
        assert released.wait(10)
        assert callable(go_on)
        return bool(go_on()) and empty(thin_id, go_on)

    monkeypatch.setattr(box.pool, "empty", slow)
    box.service.clones.remove("web-1", force=False)
    box.service.clones.remove("web-2", force=False)
    job = box.service.collect()
    assert begun.wait(10)
    waits = box.service.collect()
    cancelled(waits)
    job.cancel()
    released.set()
    assert job.finished.wait(10)
    assert job.operation.state == "cancelled"
    assert len(box.service.core.catalog.garbage()) == 2
    monkeypatch.setattr(box.pool, "empty", empty)
    done = box.service.collect()
    assert done.finished.wait(10)
    assert box.service.core.catalog.garbage() == ()


def test_the_emptying_of_the_cache_says_why_it_cannot_be_cancelled(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(box.store, "cold", lambda _: released.wait(10))
    job = box.service.measure.cold()
    try:
        with pytest.raises(Refused) as caught:
            job.cancel()
        assert caught.value.why == NEVER["cold"]
    finally:
        released.set()
    assert job.finished.wait(10)
    assert job.operation.state == "succeeded"


# --- the commands


def test_operations_are_listed_shown_followed_and_cancelled(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian", str(image))
    made = appliance.box.service.learning.learn("debian", 4).operation
    [first] = appliance.json("operation", "list", "--running")
    assert first["id"] == made.id
    assert len(appliance.json("operation", "list")) > 1
    status, out, _ = appliance.run("operation", "list")
    assert (status, made.id in out, "import" in out) == (0, True, True)
    status, out, _ = appliance.run("operation", "show", made.id)
    assert (status, "can be cancelled:" in out) == (0, True)
    assert appliance.json("operation", "cancel", made.id)["state"] == "cancelled"
    status, out, _ = appliance.run("operation", "cancel", made.id)
    assert (status, out) == (0, "learn of debian@1: cancelled\n")
    status, out, err = appliance.run("operation", "follow", made.id)
    assert (status, "was cancelled" in err) == (14, True)
    assert "do:" in err
    assert appliance.run("operation", "cancel", "none")[0] == 4


def test_ctrl_c_in_the_progress_bar_cancels_what_was_begun(
    appliance: Appliance, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.json("template", "add", "debian", str(image))

    def interrupted(*_: object, **__: object) -> Operation:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "_follow", interrupted)
    status, _, err = appliance.run("template", "learn", "debian", "--wait")
    assert status == 130
    assert "Cancelling the learn of debian@1" in err
    assert "The learn of debian@1 was cancelled." in err
    [learn] = [each for each in appliance.box.service.operations.list() if each.kind == "learn"]
    assert learn.state == "cancelled"


def test_ctrl_c_does_not_cancel_what_somebody_else_began_and_says_what_goes_on(
    appliance: Appliance, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.json("template", "add", "debian", str(image))
    made = appliance.box.service.learning.learn("debian", 4)

    def interrupted(*_: object, **__: object) -> Operation:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "_follow", interrupted)
    assert appliance.run("operation", "follow", made.operation.id)[0] == 130
    assert made.operation.state == "running"
    released = threading.Event()
    monkeypatch.setattr(appliance.box.store, "cold", lambda _: released.wait(10))
    try:
        status, _, err = appliance.run("cache", "cold")
    finally:
        released.set()
    assert status == 130
    assert "The cold of cache goes on" in err
    assert NEVER["cold"] in " ".join(err.split())
