"""Disks that are written to image files, over the real API; what qemu-img does is shown in the kernel tier."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance import schema
from appliance.cli import image_export
from appliance.cli.image_export import Wanted
from appliance.cli.options import Session
from appliance.errors import AlreadyExists, InvalidInput, NoSpace, NotReady
from appliance.model import GIB, ImageFormat
from appliance.service.stills import DAEMON
from tests.unit.service_harness import IMAGE
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]

STILL = schema.StillView(
    id="1", subject="clone web", size=2 * GIB, data_bytes=GIB, uri="nbd+unix:///1?socket=/x", created=0
)


@pytest.fixture
def web(appliance: Appliance, image: Path, monkeypatch: pytest.MonkeyPatch) -> Appliance:
    """An appliance with the clone ``web`` of ``debian``; qemu-img is a function that writes the image."""
    appliance.json("template", "add", "debian", str(image))
    appliance.json("clone", "create", "web", "-t", "debian")
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/qemu-img")
    convert(monkeypatch, lambda file: file.write_bytes(IMAGE))
    return appliance


def convert(monkeypatch: pytest.MonkeyPatch, work: Callable[[Path], object]) -> list[str]:
    """What is done instead of a conversion; the addresses that were read."""
    uris: list[str] = []

    def done(uri: str, file: Path, *_: object, **__: object) -> None:
        uris.append(uri)
        work(file)

    monkeypatch.setattr(image_export, "_convert", done)
    return uris


def nothing_left(web: Appliance, folder: Path) -> None:
    assert web.box.service.stills.list().stills == ()
    assert DAEMON not in web.box.units.daemons
    assert web.box.service.core.catalog.garbage() == ()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("words", [("clone", "export", "web"), ("template", "export", "debian@1")])
def test_a_disk_is_written_to_a_file(web: Appliance, tmp_path: Path, words: tuple[str, ...], monkeypatch: Any) -> None:
    seen: list[str] = []

    def work(file: Path) -> None:
        seen.extend(still.subject for still in web.box.service.stills.list().stills)
        file.write_bytes(IMAGE)

    uris = convert(monkeypatch, work)
    target = tmp_path / "out.raw"
    told = web.json(*words, str(target))
    assert target.read_bytes() == IMAGE
    assert (told["file"], told["format"], told["size"]) == (str(target), "raw", len(IMAGE))
    assert seen == [f"{words[0]} {words[2]}"]
    assert uris[0].startswith("nbd+unix:///")
    nothing_left(web, tmp_path)
    status, out, _ = web.run(*words, str(tmp_path / "out.qcow2"))
    assert (status, f"{words[0]} {words[2]}" in out) == (0, True)


def test_a_file_that_is_there_is_replaced_by_force_alone(web: Appliance, tmp_path: Path) -> None:
    target = tmp_path / "out.raw"
    target.write_bytes(b"precious")
    status, _, err = web.run("clone", "export", "web", str(target))
    assert (status, target.read_bytes(), "--force" in err) == (5, b"precious", True)
    assert web.run("clone", "export", "web", str(target), "--force")[0] == 0
    assert target.read_bytes() == IMAGE
    for wrong in (tmp_path, tmp_path / "nowhere" / "out.raw"):
        assert web.run("clone", "export", "web", str(wrong), "--format", "raw", "--force")[0] == 3
    nothing_left(web, tmp_path)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NoSpace("it does not fit"), 8),
        (OSError(errno.ENOSPC, "No space left on device"), 8),
        (OSError(errno.EIO, "Input/output error"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_fails_leaves_neither_file_nor_still(
    web: Appliance, tmp_path: Path, error: BaseException, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.raw"
    target.write_bytes(b"precious")

    def work(file: Path) -> None:
        file.write_bytes(IMAGE[:100])
        raise error

    convert(monkeypatch, work)
    assert web.run("clone", "export", "web", str(target), "--force")[0] == expected
    assert target.read_bytes() == b"precious"
    nothing_left(web, tmp_path)


def test_the_standard_output_gets_the_image_alone(
    web: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "pipe").open("w") as output:
        monkeypatch.setattr("sys.stdout", output)
        wanted = image_export.wanted("-", ImageFormat.RAW, force=False, as_json=False)
        run = Session(None, False, web.socket)
        image_export.export(run, wanted, lambda connection: connection.still_of_clone("web"))
    assert (tmp_path / "pipe").read_bytes() == IMAGE
    nothing_left(web, tmp_path)


def test_what_is_asked_for_is_judged_first(web: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert web.run("clone", "export", "web", str(tmp_path / "out"))[0] == 3, "its format is stated, never guessed"
    assert web.run("clone", "export", "web", "-")[0] == 3
    assert web.run("--json", "clone", "export", "web", "-", "--format", "raw")[0] == 3
    assert web.run("clone", "export", "none", str(tmp_path / "out.raw"))[0] == 4
    assert web.run("template", "export", "none", str(tmp_path / "out.raw"))[0] == 4
    monkeypatch.setattr("shutil.which", lambda _: None)
    status, _, err = web.run("clone", "export", "web", str(tmp_path / "out.raw"))
    assert (status, "qemu-utils" in err) == (9, True)
    nothing_left(web, tmp_path)


def test_from_elsewhere_the_disk_is_read_through_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, Path]] = []

    @contextmanager
    def forwarded(host: str, remote: Path, _: object) -> Iterator[Path]:
        asked.append((host, remote))
        yield tmp_path / "here.sock"

    monkeypatch.setattr(image_export, "forwarded", forwarded)
    with image_export.reachable(Session("root@box", False, None), STILL) as uri:
        assert uri == f"nbd+unix:///1?socket={tmp_path}/here.sock"
    assert asked == [("root@box", Path("/x"))]


def test_progress_is_read_from_what_qemu_img_says() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"    (0.00/100%)\r    (1.5")
    os.write(writer, b"0/100%)\r    (100.00/100%)\r\n")
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        assert list(image_export._percents(output)) == [0.0, 1.5, 100.0]


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("qemu-img: error while writing at byte 4096: No space left on device", NoSpace, "1.0 GiB are needed"),
        ("qemu-img: error while writing at byte 4096: Disk quota exceeded", NoSpace, "1.0 GiB are needed"),
        ("qemu-img: out.raw: error: File too large", InvalidInput, "no file of 2.0 GiB"),
        ("qemu-img: error while reading at byte 0: Input/output error", NotReady, "Input/output error"),
    ],
)
def test_a_failure_is_told_by_its_cause(tmp_path: Path, said: str, kind: type[Exception], words: str) -> None:
    part = tmp_path / "part"
    part.write_bytes(b"half")
    found = image_export._judged(said, part, Wanted(str(tmp_path / "out.raw"), ImageFormat.RAW, False), STILL)
    assert type(found) is kind
    assert words in found.why
    assert found.hint


def test_a_file_that_comes_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "out.raw"

    def both_write() -> None:
        with image_export._beside(target, force=False) as part:
            part.write_bytes(IMAGE)
            target.write_bytes(b"precious")

    with pytest.raises(AlreadyExists):
        both_write()
    assert [path.name for path in tmp_path.iterdir()] == ["out.raw"]
    assert target.read_bytes() == b"precious"
