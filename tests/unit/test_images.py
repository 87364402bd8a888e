import os
import threading
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import (
    BadImage,
    CommandFailed,
    DeadlineExceeded,
    HatcheryError,
    InvalidInput,
    NoSpace,
    NotFound,
    NotReady,
    Refused,
    Unhealthy,
)
from appliance.images import convert
from appliance.images.http_source import UrlSource
from appliance.images.sources import FileSource, UploadSource
from appliance.images.volume import BLOCK, VolumeWriter


@given(
    pieces=st.lists(st.tuples(st.booleans(), st.integers(1, 3 * BLOCK)), max_size=8),
    step=st.integers(1, 5 * BLOCK),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_what_came_whatever_its_pieces(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[bool, int]], step: int
) -> None:
    data = b"".join((b"data" * length)[:length] if full else bytes(length) for full, length in pieces)
    volume = tmp_path_factory.mktemp("volume") / "volume"
    size = -(-len(data) // 512) * 512
    volume.write_bytes(bytes(size))
    with VolumeWriter(volume, len(data)) as writer:
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
        writer.finish()
        assert writer.written <= size
    assert volume.read_bytes() == data.ljust(size, b"\0")


def test_zeros_are_left_out(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.write_bytes(b"\xff" * 4 * BLOCK)
    with VolumeWriter(volume, 4 * BLOCK) as writer:
        writer.write(b"a" * BLOCK + bytes(2 * BLOCK) + b"b" * BLOCK)
        writer.finish()
        assert writer.written == 2 * BLOCK
    assert volume.read_bytes()[BLOCK : 3 * BLOCK] == b"\xff" * 2 * BLOCK


def test_more_than_announced_is_refused_before_it_is_written(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.write_bytes(bytes(512))
    with VolumeWriter(volume, 100) as writer, pytest.raises(BadImage, match="longer than announced"):
        writer.write(b"x" * 101)
    assert volume.read_bytes() == bytes(512)


def test_a_file_is_read_if_everybody_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path("/etc/os-release").resolve()
    source = FileSource(Path("/etc/os-release"))
    assert source.size() == real.stat().st_size
    assert b"".join(source.chunks()) == real.read_bytes()
    closed = tmp_path / "closed"
    closed.write_bytes(b"secret")
    closed.chmod(0o600)
    # The folders that pytest makes are closed already; what counts here is the file.
    monkeypatch.setattr(Path, "parents", property(lambda _: ()))
    with pytest.raises(Refused, match="closed to other users"):
        FileSource(closed).size()
    closed.chmod(0o604)
    assert FileSource(closed).size() == 6


def test_a_file_in_a_closed_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").write_bytes(b"x")
    tmp_path.chmod(0o700)
    with pytest.raises(Refused, match="closed to other users"):
        FileSource(tmp_path / "open").size()


@pytest.mark.parametrize(
    ("path", "error"), [("etc/hosts", InvalidInput), ("/nowhere", NotFound), ("/usr", InvalidInput)]
)
def test_what_is_no_file_is_refused(path: str, error: type[HatcheryError]) -> None:
    with pytest.raises(error):
        FileSource(Path(path)).size()


def web(answer: httpx.Response) -> UrlSource:
    return UrlSource("https://images.test/a.raw", transport=httpx.MockTransport(lambda _: answer))


def test_a_url_is_fetched_as_it_is() -> None:
    source = web(httpx.Response(200, content=iter([b"im", b"age"]), headers={"Content-Length": "5"}))
    assert source.size() == 5
    assert b"".join(source.chunks()) == b"image"
    source.close()


def test_a_url_without_a_length_has_no_size() -> None:
    source = web(httpx.Response(200, content=iter([b"image"])))
    assert source.size() is None
    source.close()


@pytest.mark.parametrize(
    ("status", "error"), [(404, NotFound), (403, NotFound), (204, NotFound), (206, NotFound), (500, NotReady)]
)
def test_a_url_that_answers_something_else_is_not_fetched(status: int, error: type[HatcheryError]) -> None:
    source = web(httpx.Response(status))
    with pytest.raises(error, match=str(status)):
        source.size()
    source.close()


def test_a_url_that_cannot_be_reached_is_not_ready() -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    source = UrlSource("http://images.test/", transport=httpx.MockTransport(broken))
    with pytest.raises(NotReady, match="no route"):
        source.size()
    source.close()


@pytest.mark.parametrize("url", ["ftp://a/b", "file:///etc/passwd", "a/b", "http://", "nbd://a"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        UrlSource(url)


def test_an_upload_waits_for_the_slower_side_and_knows_how_it_ended() -> None:
    source = UploadSource(1000)
    taken: list[bytes] = []
    thread = threading.Thread(target=lambda: taken.extend(source.chunks()))
    thread.start()
    for _ in range(10):
        assert source.put(b"x" * 100)
    source.end()
    assert source.wait_taken()
    thread.join()
    assert b"".join(taken) == b"x" * 1000


def test_an_upload_that_breaks_off_is_a_bad_image() -> None:
    source = UploadSource(1000)
    source.put(b"x" * 999)
    source.end()
    with pytest.raises(BadImage, match="1 of 1000"):
        list(source.chunks())


def test_an_upload_that_stands_still_ends() -> None:
    with pytest.raises(DeadlineExceeded, match="1000 bytes are missing"):
        list(UploadSource(1000, patience=0.01).chunks())


def test_a_sender_learns_that_nobody_takes_its_bytes() -> None:
    source = UploadSource(1 << 30)
    source.close()
    assert not source.put(b"x")
    assert not source.wait_taken()


def test_nothing_is_probed_and_nothing_but_two_devices_is_seen() -> None:
    source, target = Path("/dev/mapper/hatchery-staging-1"), Path("/dev/mapper/hatchery-template-2")
    words = convert.sandbox("hatchery-import@1.service", source, target)
    command = words[words.index("qemu-img") :]
    assert command == convert.command(source, target)
    assert [command[command.index(option) + 1] for option in ("-f", "-O")] == ["qcow2", "raw"]
    properties = [word.removeprefix("--property=") for word in words if word.startswith("--property=")]
    assert [p for p in properties if p.startswith("DeviceAllow=")] == [
        f"DeviceAllow={source} r",
        f"DeviceAllow={target} rw",
    ]
    for needed in ("PrivateNetwork=yes", "DynamicUser=yes", "DevicePolicy=closed", "CapabilityBoundingSet="):
        assert needed in properties
    assert os.fspath(source) in command


@pytest.mark.parametrize(
    ("status", "stderr", "kind"),
    [
        (1, "qemu-img: error while reading at byte 0: Input/output error\n", BadImage),
        (1, "qemu-img: error while writing at byte 65536: No space left on device\n", NoSpace),
        (1, "Failed to start transient service unit: Cannot set property X\n", Unhealthy),
        (203, "", Unhealthy),
    ],
)
def test_only_what_qemu_img_says_is_blamed_on_the_image(status: int, stderr: str, kind: type[HatcheryError]) -> None:
    judged = convert.judged(CommandFailed("qemu-img convert", status, stderr))
    assert type(judged) is kind
    assert judged.why
    assert judged.hint
