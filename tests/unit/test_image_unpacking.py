"""Images that come packed: what is in them becomes the template, what came is what the checksum is of."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from appliance import wait
from appliance.cli.main import main
from appliance.errors import NotFound
from appliance.images import unpacking
from appliance.images.resuming import ResumingSource
from appliance.images.sources import Source
from appliance.model import MIB, Compression, ImageFormat
from appliance.schema import Operation, PathSource, TemplateCreate, UrlSource
from tests.unit.api_server import serving
from tests.unit.qcow2_files import CLUSTER, Image
from tests.unit.service_harness import IMAGE, Box, box
from tests.unit.test_cli_image_file import PACK
from tests.unit.test_image_resuming import Site
from tests.unit.test_service_imports import nothing_left

URL = "https://images.test/disk.raw"
PACKED = {Compression(suffix.removeprefix(".")): pack for suffix, pack in PACK.items()}
KINDS = pytest.mark.parametrize("kind", PACKED)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        made.pool.data_total = 32 * MIB
        yield made


def serve(box: Box, monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
    """Let it be the server of all URLs."""

    def opened(url: str) -> Source:
        return ResumingSource(url, site.open, (0.0,) * 3)

    monkeypatch.setattr(box.service.imports, "_open_url", opened)


def add(box: Box, kind: Compression, *, format_: ImageFormat = ImageFormat.RAW, **more: object) -> Operation:
    wanted = TemplateCreate(name="far", format=format_, source=UrlSource(url=URL, compression=kind))
    job = box.service.imports.begin(wanted.model_copy(update=more))
    assert job.finished.wait(20)
    return job.operation


@KINDS
def test_a_packed_image_becomes_a_template_though_the_server_hangs_up(
    empty: Box, monkeypatch: pytest.MonkeyPatch, kind: Compression
) -> None:
    packed = PACKED[kind](IMAGE)
    site = Site(cuts=[len(packed) // 2, 100], content=packed)
    serve(empty, monkeypatch, site)
    done = add(empty, kind, sha256=hashlib.sha256(packed).hexdigest())
    assert (done.state, done.error) == ("succeeded", None)
    assert len(site.asked) == 3, "it went on where it was"
    assert (done.done_bytes, done.total_bytes) == (len(packed), len(packed))
    view = empty.service.show_template("far")
    assert (view.size, view.sha256) == (len(IMAGE), hashlib.sha256(packed).hexdigest())
    assert empty.pool.bytes_of(1) == IMAGE
    assert empty.pool.devices()[1].size == len(IMAGE), "as large as the pool could keep only while it came"
    empty.restart()
    assert empty.pool.bytes_of(1) == IMAGE


def test_a_size_that_is_no_multiple_of_a_sector_is_filled_up(empty: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(empty, monkeypatch, Site(content=PACKED[Compression.XZ](b"x" * 1000)))
    assert add(empty, Compression.XZ).state == "succeeded"
    assert empty.pool.bytes_of(1) == (b"x" * 1000).ljust(1024, b"\0")


@KINDS
def test_a_packed_qcow2_is_converted(empty: Box, monkeypatch: pytest.MonkeyPatch, kind: Compression) -> None:
    empty.converter.result = IMAGE.ljust(4 * CLUSTER, b"\0")[: 4 * CLUSTER]
    serve(empty, monkeypatch, Site(content=PACKED[kind](Image().build())))
    assert add(empty, kind, format_=ImageFormat.QCOW2).state == "succeeded"
    assert set(empty.pool.volumes) == {1}
    assert empty.pool.bytes_of(1) == empty.converter.result


def test_a_packed_file_on_the_appliance_is_imported(empty: Box) -> None:
    with TemporaryDirectory(dir="/dev/shm") as folder:  # its folders are open to all, as it must be
        Path(folder).chmod(0o755)
        file = Path(folder) / "disk.raw.zst"
        file.write_bytes(PACKED[Compression.ZSTD](IMAGE))
        source = PathSource(path=str(file), compression=Compression.ZSTD)
        job = empty.service.imports.begin(TemplateCreate(name="here", format=ImageFormat.RAW, source=source))
        assert job.finished.wait(20)
    assert job.operation.state == "succeeded"
    assert empty.pool.bytes_of(1) == IMAGE


@KINDS
def test_what_is_not_what_it_should_be_leaves_nothing(
    empty: Box, monkeypatch: pytest.MonkeyPatch, kind: Compression
) -> None:
    packed = PACKED[kind](IMAGE)
    for content, words in (
        (packed[: len(packed) // 2], "cannot be unpacked"),
        (packed[:-9] + b"x" * 9, "cannot be unpacked"),
        (IMAGE, "cannot be unpacked"),
        (PACKED[kind](b""), "is empty"),
    ):
        serve(empty, monkeypatch, Site(content=content))
        failed = add(empty, kind)
        assert failed.error is not None
        assert (failed.error.code, words in failed.error.what) == ("bad-image", True), failed.error
        assert nothing_left(empty)
    serve(empty, monkeypatch, Site(content=packed))
    failed = add(empty, kind, sha256=hashlib.sha256(IMAGE).hexdigest())
    assert failed.error is not None
    assert hashlib.sha256(packed).hexdigest() in failed.error.why, "the checksum is that of what came"
    assert nothing_left(empty)


@KINDS
@pytest.mark.parametrize("format_", ImageFormat)
def test_a_bomb_ends_at_the_size_of_the_pool(
    empty: Box, monkeypatch: pytest.MonkeyPatch, kind: Compression, format_: ImageFormat
) -> None:
    begin = Image().build() if format_ is ImageFormat.QCOW2 else b""
    serve(empty, monkeypatch, Site(content=PACKED[kind](begin + bytes(empty.pool.data_total))))
    failed = add(empty, kind, format_=format_)
    assert failed.error is not None
    assert (failed.error.code, "larger than the pool" in failed.error.what) == ("no-space", True), failed.error
    assert nothing_left(empty)


def test_what_is_in_it_is_held_to_the_size_that_was_stated(empty: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, state in ((len(IMAGE) - 1, "failed"), (len(IMAGE) + 1, "failed"), (len(IMAGE), "succeeded")):
        serve(empty, monkeypatch, Site(content=PACKED[Compression.GZIP](IMAGE)))
        assert add(empty, Compression.GZIP, size=size).state == state


def test_another_file_is_never_put_behind_the_first(empty: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PACKED[Compression.XZ](IMAGE)
    serve(empty, monkeypatch, Site(cuts=[60], content=packed, then=(packed[::-1], '"two"')))
    failed = add(empty, Compression.XZ)
    assert failed.error is not None
    assert (failed.error.code, "cannot be gone on with" in failed.error.what) == ("refused", True)
    assert nothing_left(empty)


class Endless:
    """A server that sends more and more of what is packed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def size(self) -> int | None:
        return None

    def chunks(self) -> Iterator[bytes]:
        while not self.closed.wait(0.001):
            yield PACKED[Compression.GZIP](b"more")

    def close(self) -> None:
        self.closed.set()


class Torn(Endless):
    """As some that are closed while another thread reads."""

    def chunks(self) -> Iterator[bytes]:
        yield from super().chunks()
        raise ValueError("read of closed file")


@pytest.mark.parametrize("kind", [Endless, Torn])
def test_one_that_is_under_way_is_taken_back(empty: Box, monkeypatch: pytest.MonkeyPatch, kind: type[Endless]) -> None:
    source = kind()

    def opened(_: str) -> Source:
        return source

    monkeypatch.setattr(empty.service.imports, "_open_url", opened)
    wanted = TemplateCreate(name="far", format=ImageFormat.RAW, source=UrlSource(url=URL, compression=Compression.GZIP))
    job = empty.service.imports.begin(wanted)
    wait.until(lambda: job.operation.phase == "receiving the image", "its beginning", deadline=10)
    job.cancel()
    assert job.finished.wait(10)
    assert job.operation.state == "cancelled"
    assert source.closed.is_set()
    assert nothing_left(empty)


def test_what_is_not_there_is_said_at_once(empty: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing(Endless):
        def size(self) -> int | None:
            raise NotFound("it cannot be fetched")

    def opened(_: str) -> Source:
        return Missing()

    monkeypatch.setattr(empty.service.imports, "_open_url", opened)
    with pytest.raises(NotFound):
        add(empty, Compression.XZ)


@dataclass
class Watched:
    """An appliance, and what it had unpacked."""

    box: Box
    kinds: list[Compression]
    capsys: pytest.CaptureFixture[str]

    def add(self, source: str, *words: str) -> tuple[int, dict[str, Any]]:
        """Have an image imported by the command line: its exit status, and what it printed."""
        words = ("--json", "--socket", str(self.box.paths.api_socket), "template", "add", "far", source, *words)
        with serving(self.box):
            status = main(words)
        return status, json.loads(self.capsys.readouterr().out)


@pytest.fixture
def watched(empty: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Watched:
    found = Watched(empty, [], capsys)
    real = empty.service.imports._unpack

    def unpack(kind: Compression) -> unpacking.Unpacking:
        found.kinds.append(kind)
        return real(kind)

    monkeypatch.setattr(empty.service.imports, "_unpack", unpack)
    return found


@KINDS
@pytest.mark.parametrize("url", ["disk.raw.xz?token=a.b", "?id=7", "download", "disk.raw"])
def test_a_url_is_unpacked_as_what_comes_begins(
    watched: Watched, monkeypatch: pytest.MonkeyPatch, kind: Compression, url: str
) -> None:
    """The connection breaks in what tells, too."""
    packed = PACKED[kind](IMAGE)
    site = Site(cuts=[3, 100], content=packed)
    serve(watched.box, monkeypatch, site)
    digest = hashlib.sha256(packed).hexdigest()
    status, view = watched.add(f"https://images.test/{url}", "--format", "raw", "--sha256", digest)
    assert (status, view.get("size"), view.get("sha256")) == (0, len(IMAGE), digest)
    assert watched.box.pool.bytes_of(1) == IMAGE
    assert watched.kinds == [kind], "by the unit that has no rights"
    assert len(site.asked) == 3


@pytest.mark.parametrize("url", ["?id=7", "disk.raw"])
def test_a_url_that_is_not_packed_is_not_unpacked(watched: Watched, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    serve(watched.box, monkeypatch, Site(cuts=[3], content=IMAGE))
    status, view = watched.add(f"https://images.test/{url}", "--format", "raw")
    assert (status, view.get("error"), watched.kinds) == (0, None, [])
    assert watched.box.pool.bytes_of(1) == IMAGE


def test_who_says_how_it_is_packed_is_believed(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = PACKED[Compression.XZ](IMAGE)
    for said, code in (("none", None), ("xz", None), ("gz", "bad-image")):
        kinds = [Compression(said)] if said != "none" else []
        serve(watched.box, monkeypatch, Site(content=packed))
        watched.kinds.clear()
        _, found = watched.add("https://images.test/?id=7", "--format", "raw", "--compression", said)
        assert (found.get("error", {}).get("code"), watched.kinds) == (code, kinds), said
    assert watched.box.pool.bytes_of(1).rstrip(b"\0") == packed.rstrip(b"\0")


def test_a_url_that_gives_nothing_is_empty(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(watched.box, monkeypatch, Site(content=b""))
    status, found = watched.add("https://images.test/?id=7", "--format", "raw")
    assert (status, found["error"]["what"]) == (3, "the image is empty")
    assert nothing_left(watched.box)


@KINDS
def test_a_file_on_the_appliance_is_unpacked_as_it_begins(watched: Watched, kind: Compression) -> None:
    with TemporaryDirectory(dir="/dev/shm") as folder:  # its folders are open to all, as it must be
        Path(folder).chmod(0o755)
        file = Path(folder) / "download"
        file.write_bytes(PACKED[kind](IMAGE))
        assert watched.add(str(file), "--path", "--format", "raw")[0] == 0
    assert watched.kinds == [kind]
    assert watched.box.pool.bytes_of(1) == IMAGE


def test_it_unpacks_in_a_unit_without_a_network() -> None:
    words = unpacking.command("hatchery-unpack@1.service", Compression.XZ)
    assert "--property=PrivateNetwork=yes" in words
    assert "--property=BindsTo=hatcheryd.service" in words
    assert words[-3:] == ("-m", "appliance.images.unpacking", "xz")
