import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import AlreadyExists, BadImage, HatcheryError, InUse, InvalidInput, NoSpace, NotFound, Refused
from appliance.model import GIB, MIB, Access, ImageFormat, TemplateState
from appliance.schema import PathSource, TemplateCreate, TemplateRemoval, UploadSource, UrlSource
from tests.unit.model import Crash
from tests.unit.qcow2_files import CLUSTER, Image
from tests.unit.service_harness import IMAGE, Box, box, counting


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


def nothing_left(box: Box) -> bool:
    return not (box.pool.volumes or box.pool.active or box.service.core.catalog.thin_ids())


def test_a_raw_image_is_written_as_it_is_without_its_zeros(empty: Box) -> None:
    operation = empty.add_template("debian")
    assert (operation.state, operation.subject, operation.error) == ("succeeded", "debian@1", None)
    (template,) = empty.service.list_templates().templates
    assert template.state is TemplateState.READY
    assert template.size == len(IMAGE)
    assert template.sha256 == hashlib.sha256(IMAGE).hexdigest()
    assert empty.pool.bytes_of(1) == IMAGE
    assert empty.pool.active == {1: Access.READ_ONLY}
    assert template.mapped_bytes == 2 * 64 * 1024


def test_a_size_that_is_no_multiple_of_a_sector_is_filled_up(empty: Box) -> None:
    assert empty.add_template("odd", b"x" * 1000).state == "succeeded"
    assert empty.pool.bytes_of(1) == (b"x" * 1000).ljust(1024, b"\0")


def test_a_raw_image_that_looks_like_qcow2_is_plain_data(empty: Box) -> None:
    image = Image(backing_offset=512).build()
    assert empty.add_template("trap", image).state == "succeeded"
    assert empty.pool.bytes_of(1) == image


def test_a_qcow2_is_converted_and_its_staging_volume_removed(empty: Box) -> None:
    empty.converter.result = IMAGE.ljust(4 * CLUSTER, b"\0")[: 4 * CLUSTER]
    operation = empty.add_template("debian", Image().build(), kind=ImageFormat.QCOW2)
    assert operation.state == "succeeded"
    template = empty.service.show_template("debian")
    assert template.size == 4 * CLUSTER
    assert template.sha256 == hashlib.sha256(Image().build()).hexdigest()
    assert set(empty.pool.volumes) == {1}
    assert empty.pool.bytes_of(1) == empty.converter.result


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Image(backing_offset=512).build(), "backing file"),
        (Image().build()[: 4 * CLUSTER], "truncated"),
        (b"#!/bin/sh\n" * 100, "not a qcow2 image"),
        (b"QFI\xfb", "truncated"),
        (Image(size=2 * GIB, l1_entries=4, l1=[0, 0, 0, 0]).build(), "larger than the pool"),
    ],
)
def test_a_bad_qcow2_leaves_nothing(empty: Box, content: bytes, words: str) -> None:
    operation = empty.add_template("bad", content, kind=ImageFormat.QCOW2)
    assert operation.state == "failed"
    assert operation.error is not None
    assert words in f"{operation.error.what} {operation.error.why}"
    assert nothing_left(empty)


def test_a_failed_conversion_leaves_nothing(empty: Box) -> None:
    empty.converter.error = BadImage("the qcow2 image cannot be converted")
    assert empty.add_template("bad", Image().build(), kind=ImageFormat.QCOW2).state == "failed"
    assert nothing_left(empty)


def test_a_short_upload_leaves_nothing(empty: Box) -> None:
    operation = empty.add_template("short", IMAGE, size=len(IMAGE) + 1)
    assert operation.error is not None
    assert "1 of" in operation.error.why
    assert nothing_left(empty)


def test_a_long_upload_leaves_nothing(empty: Box) -> None:
    operation = empty.add_template("long", IMAGE, size=len(IMAGE) - 1)
    assert operation.error is not None
    assert operation.error.code == "bad-image"
    assert nothing_left(empty)


def test_a_wrong_checksum_leaves_nothing(empty: Box) -> None:
    operation = empty.add_template("wrong", sha256="0" * 64)
    assert operation.error is not None
    assert "SHA-256" in operation.error.why
    assert nothing_left(empty)
    assert empty.add_template("right", sha256=hashlib.sha256(IMAGE).hexdigest()).state == "succeeded"


def test_an_upload_that_nobody_sends_ends_by_itself(empty: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.images import sources

    patient = sources.UploadSource.__init__
    monkeypatch.setattr(sources.UploadSource, "__init__", lambda self, size: patient(self, size, patience=0.05))
    request = TemplateCreate(name="late", format=ImageFormat.RAW, source=UploadSource(), size=100)
    job = empty.service.imports.begin(request)
    assert job.finished.wait(10)
    assert job.operation.error is not None
    assert job.operation.error.code == "deadline"
    assert nothing_left(empty)
    source, same = empty.service.imports.upload("late")
    assert same is job
    assert not source.put(b"too late")


def test_a_service_that_ends_takes_its_imports_back(empty: Box) -> None:
    request = TemplateCreate(name="late", format=ImageFormat.RAW, source=UploadSource(), size=len(IMAGE))
    job = empty.service.imports.begin(request)
    source, _ = empty.service.imports.upload("late")
    source.put(IMAGE[: len(IMAGE) // 2])
    empty.service.imports.close()
    assert job.operation.state == "cancelled"
    assert job.operation.error is not None
    assert job.operation.error.why == "hatcheryd ends"
    assert nothing_left(empty)


def test_only_one_may_send_an_upload(empty: Box) -> None:
    job = empty.service.imports.begin(TemplateCreate(name="one", format=ImageFormat.RAW, source=UploadSource(), size=4))
    source, _ = empty.service.imports.upload("one")
    with pytest.raises(NotFound, match="another request"):
        empty.service.imports.upload("one")
    source.put(b"1234")
    source.end()
    assert job.finished.wait(10)
    assert job.operation.state == "succeeded"


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (TemplateCreate(name="Bad Name", format=ImageFormat.RAW, source=UploadSource(), size=1), InvalidInput),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=UploadSource()), InvalidInput),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=UploadSource(), size=2 * GIB), NoSpace),
        (TemplateCreate(name="x", format=ImageFormat.QCOW2, source=UploadSource(), size=2 * GIB), NoSpace),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=UrlSource(url="ftp://a/b")), InvalidInput),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=UrlSource(url="file:///etc/shadow")), InvalidInput),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=PathSource(path="relative")), InvalidInput),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=PathSource(path="/no/such/file")), NotFound),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=PathSource(path="/usr")), InvalidInput),
        (TemplateCreate(name="x", format=ImageFormat.RAW, source=PathSource(path="/etc/shadow")), Refused),
    ],
)
def test_what_can_be_refused_at_once_is(empty: Box, request_: TemplateCreate, error: type[HatcheryError]) -> None:
    with pytest.raises(error):
        empty.service.imports.begin(request_)
    assert nothing_left(empty)


def test_a_file_on_the_appliance_is_imported(empty: Box) -> None:
    path = Path("/etc/os-release").resolve()
    job = empty.service.imports.begin(
        TemplateCreate(name="os", format=ImageFormat.RAW, source=PathSource(path="/etc/os-release"))
    )
    assert job.finished.wait(10)
    assert job.operation.state == "succeeded"
    assert empty.pool.bytes_of(1).rstrip(b"\0") == path.read_bytes()


def test_a_name_is_taken_while_it_is_imported(empty: Box) -> None:
    request = TemplateCreate(name="one", format=ImageFormat.RAW, source=UploadSource(), size=len(IMAGE))
    job = empty.service.imports.begin(request)
    with pytest.raises(AlreadyExists, match="being imported"):
        empty.service.imports.begin(request)
    source, _ = empty.service.imports.upload("one")
    with pytest.raises(InUse):
        empty.service.templates.remove("one")
    source.put(IMAGE)
    source.end()
    assert job.finished.wait(10)
    assert empty.service.templates.remove("one") == TemplateRemoval(name="one@1", removed=True)
    assert empty.service.templates.remove("one") == TemplateRemoval(name="one", removed=False)
    assert nothing_left(empty)


def test_a_pool_that_fills_up_meanwhile_stops_the_import(empty: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.service.imports.CHECK_SPACE_EVERY", 1 * MIB)
    empty.pool.data_total = 8 * MIB
    operation = empty.add_template("big", b"x" * (7 * MIB))
    assert operation.error is not None
    assert operation.error.code == "no-space"
    assert nothing_left(empty)


def test_two_imports_may_not_promise_themselves_the_same_space(empty: Box) -> None:
    empty.pool.data_total = 10 * MIB
    half = TemplateCreate(name="one", format=ImageFormat.QCOW2, source=UploadSource(), size=6 * MIB)
    job = empty.service.imports.begin(half)
    with pytest.raises(NoSpace):
        empty.service.imports.begin(half.model_copy(update={"name": "two"}))
    source, _ = empty.service.imports.upload("one")
    source.end()
    assert job.finished.wait(10)
    job = empty.service.imports.begin(half.model_copy(update={"name": "two"}))
    source, _ = empty.service.imports.upload("two")
    source.end()
    assert job.finished.wait(10)


@pytest.mark.parametrize("kind", [ImageFormat.RAW, ImageFormat.QCOW2])
@pytest.mark.parametrize("limit", range(14))
def test_an_error_at_any_step_leaves_nothing(empty: Box, limit: int, kind: ImageFormat) -> None:
    empty.converter.result = bytes(4 * CLUSTER)
    content = IMAGE if kind is ImageFormat.RAW else Image().build()
    empty.pool.step = counting(limit, NoSpace("the pool is full"))
    operation = empty.add_template("debian", content, kind=kind)
    if operation.state == "failed":
        empty.restart()
        assert nothing_left(empty)
    elif operation.error is None:
        empty.restart()
        assert set(empty.pool.volumes) == {1}
    assert empty.service.status().problems == ()


@pytest.mark.parametrize("kind", [ImageFormat.RAW, ImageFormat.QCOW2])
@pytest.mark.parametrize("limit", range(14))
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_at_any_step_leaves_nothing(empty: Box, limit: int, kind: ImageFormat) -> None:
    empty.converter.result = bytes(4 * CLUSTER)
    content = IMAGE if kind is ImageFormat.RAW else Image().build()
    once = counting(limit, Crash())
    dead = False

    def step(name: str) -> None:
        nonlocal dead
        try:
            once(name)
        except Crash:
            dead = True
        if dead:
            raise Crash

    empty.pool.step = step
    empty.add_template("debian", content, kind=kind)
    empty.restart()
    known = empty.service.core.catalog.thin_ids()
    assert set(empty.pool.volumes) == known
    assert known <= {1}
    assert [t.state for t in empty.service.core.catalog.templates()] in ([], [TemplateState.READY])
    assert empty.service.status().problems == ()
    assert empty.add_template("again").state == "succeeded"
