"""Images that are compressed, or come from the standard input."""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from appliance.cli import image_file
from appliance.cli.main import main
from appliance.errors import BadImage, InvalidInput, NoSpace
from appliance.model import MIB, Compression
from appliance.progress import QUIET
from appliance.unpack import HEAD, UNPACK, Damaged, ZstdFile, kind_of
from tests.unit.api_server import serving
from tests.unit.qcow2_files import Image
from tests.unit.service_harness import IMAGE, Box, box

SPARSE = bytes(2 * MIB) + b"data" * 1024 + bytes(3 * MIB)


def zstd(content: bytes) -> bytes:
    """As the tool packs a file: with a checksum at the end."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstd}


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made, serving(made):
        yield made


def add(appliance: Box, *words: str) -> int:
    return main(["--json", "--socket", str(appliance.paths.api_socket), "template", "add", "debian", *words])


@pytest.mark.parametrize("suffix", PACK)
def test_a_compressed_image_is_the_image(
    appliance: Box, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"disk.raw{suffix}"
    file.write_bytes(PACK[suffix](IMAGE))
    packed = hashlib.sha256(file.read_bytes()).hexdigest()
    assert add(appliance, str(file), "--sha256", packed) == 0
    view = json.loads(capsys.readouterr().out)
    assert (view["size"], view["format"]) == (len(IMAGE), "raw")
    assert view["sha256"] == hashlib.sha256(IMAGE).hexdigest()


def test_the_standard_input_is_an_image(
    appliance: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for status, words in ((3, ["-"]), (0, ["-", "--format", "raw", "--sha256", hashlib.sha256(IMAGE).hexdigest()])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(IMAGE)))
        assert add(appliance, *words) == status, "its format is stated, never guessed"
    assert '"debian@1"' in capsys.readouterr().out


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Puts bytes into the standard input, which is a pipe, as from `curl`: it does not go back."""

    def give(content: bytes) -> None:
        reading, writing = os.pipe()

        def write() -> None:
            with os.fdopen(writing, "wb") as pipe, contextlib.suppress(BrokenPipeError):
                pipe.write(content)

        threads.append(threading.Thread(target=write))
        threads[-1].start()
        pipes.append(io.TextIOWrapper(os.fdopen(reading, "rb")))
        monkeypatch.setattr("sys.stdin", pipes[-1])

    pipes: list[io.TextIOWrapper] = []
    threads: list[threading.Thread] = []
    yield give
    for pipe in pipes:
        pipe.close()
    for thread in threads:
        thread.join(10)


@pytest.mark.parametrize("suffix", PACK)
def test_the_standard_input_may_be_packed(
    appliance: Box, suffix: str, given: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    packed = PACK[suffix](IMAGE)
    digest = hashlib.sha256(packed).hexdigest()
    for words in ([], ["--sha256", digest], ["--compression", suffix.removeprefix(".")]):
        given(packed)
        assert add(appliance, "-", "--format", "raw", *words) == 0
        assert json.loads(capsys.readouterr().out)["sha256"] == hashlib.sha256(IMAGE).hexdigest()
    begun = len(appliance.service.operations.list())
    for content, words in (
        (packed, ["--sha256", hashlib.sha256(IMAGE).hexdigest()]),
        (packed[: len(packed) // 2], []),
        (IMAGE, ["--compression", suffix.removeprefix(".")]),
        (b"", []),
    ):
        given(content)
        assert add(appliance, "-", "--format", "raw", *words) == 3
    assert len(appliance.service.operations.list()) == begun


@pytest.mark.parametrize("suffix", PACK)
def test_what_a_file_begins_with_tells_more_than_its_name(
    appliance: Box, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = PACK[suffix](IMAGE)
    for name in ("download", "disk.img", "disk.raw.gz", "disk.raw.xz"):
        (tmp_path / name).write_bytes(packed)
        assert add(appliance, str(tmp_path / name), "--format", "raw") == 0
        assert json.loads(capsys.readouterr().out)["sha256"] == hashlib.sha256(IMAGE).hexdigest()
    assert add(appliance, str(tmp_path / "disk.img"), "--compression", "none") == 0, "it is believed who knows better"
    assert json.loads(capsys.readouterr().out)["sha256"] == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("suffix", PACK)
def test_a_packed_file_is_known_by_its_first_bytes(suffix: str) -> None:
    kind = Compression(suffix.removeprefix("."))
    for content in (b"", b"x", IMAGE):
        head = PACK[suffix](content)[:HEAD]
        assert kind_of(head, "disk.raw") is kind
        assert kind_of(head[:2], "disk.raw") is None, "less does not tell"
    assert kind_of(bytes(HEAD), f"disk{suffix}") is kind, "then its name does"


def test_what_is_not_packed_is_not_taken_for_it() -> None:
    for head in (b"", bytes(HEAD), Image().build()[:HEAD], b"\xeb\x63\x90\x10\x8e\xd0", b"\x1f\x8b\x00\x00\x00\x00"):
        assert kind_of(head, "disk.raw") is None


def test_zstd_may_begin_with_what_is_passed_over() -> None:
    """As pzstd makes it."""
    for kind in (0x184D2A50, 0x184D2A5F):
        packed = kind.to_bytes(4, "little") + (5).to_bytes(4, "little") + b"aside" + zstd(IMAGE)
        assert kind_of(packed[:HEAD], "download") is Compression.ZSTD
        assert unpacked(packed) == IMAGE


@pytest.mark.parametrize("tool", ["gzip", "xz", "zstd"])
def test_what_the_tools_pack_is_known(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    packed = subprocess.run([tool, "-c"], input=IMAGE, capture_output=True, check=True).stdout
    kind = kind_of(packed[:HEAD], "download")
    assert kind is {"gzip": Compression.GZIP, "xz": Compression.XZ, "zstd": Compression.ZSTD}[tool]
    assert UNPACK[kind](io.BytesIO(packed)).read(len(IMAGE)) != b""


@pytest.mark.parametrize("suffix", PACK)
def test_a_damaged_file_is_refused_and_nothing_is_begun(
    appliance: Box, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = PACK[suffix](IMAGE)
    file = tmp_path / f"disk.raw{suffix}"
    for content in (whole[: len(whole) // 2], b"no archive", whole[:-9] + b"x" * 9):
        file.write_bytes(content)
        assert add(appliance, str(file)) == 3
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["code"] == "bad-image"
        assert error["why"]
    assert add(appliance, str(file), "--sha256", "0" * 64) == 3
    assert hashlib.sha256(file.read_bytes()).hexdigest() in capsys.readouterr().out
    assert appliance.service.operations.list() == ()


@pytest.mark.parametrize("suffix", PACK)
def test_holes_stay_holes(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"disk.raw{suffix}"
    file.write_bytes(PACK[suffix](SPARSE))
    told: list[int] = []
    with image_file.opened(str(file), None, QUIET) as image:
        assert image.length == len(SPARSE)
        assert b"".join(image.blocks(told.append)) == SPARSE
    assert sum(told) == len(SPARSE)


def test_what_is_empty_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.raw.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "empty.raw").write_bytes(b"")
    for name in ("empty.raw.gz", "empty.raw", "missing.raw.xz", "missing.raw"):
        with pytest.raises(InvalidInput), image_file.opened(str(tmp_path / name), None, QUIET):
            pass


def test_a_full_disk_says_where_there_is_to_be_more_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "disk.raw.gz"
    file.write_bytes(gzip.compress(IMAGE))
    monkeypatch.setattr(image_file, "_spool", full)
    with pytest.raises(NoSpace) as caught, image_file.opened(str(file), None, QUIET):
        pass
    assert "TMPDIR" in caught.value.hint


def test_the_format_is_what_is_left_of_the_name() -> None:
    assert image_file.inner_name("/a/disk.qcow2.xz") == "/a/disk.qcow2"
    assert image_file.inner_name("disk.img.zst") == "disk.img"
    assert image_file.inner_name("disk.raw") == "disk.raw"
    assert image_file.inner_name("DISK.RAW.GZ") == "DISK.RAW"


def unpacked(packed: bytes) -> bytes:
    file = ZstdFile(io.BytesIO(packed))
    return b"".join(iter(lambda: file.read(MIB), b""))


def test_zstd_s_frames_follow_each_other() -> None:
    """As pzstd and `cat` make them; and what is to be passed over may be among them."""
    passed_over = (0x184D2A50).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"aside"
    many = [bytes([number]) * number for number in range(200)]
    assert unpacked(b"".join(map(zstd, many))) == b"".join(many)
    assert unpacked(zstd(IMAGE) + passed_over + zstd(SPARSE)) == IMAGE + SPARSE
    for end in (b"\0", passed_over[:-1], zstd(IMAGE)[:-1]):
        with pytest.raises(Damaged):
            unpacked(zstd(IMAGE) + end)


def test_a_zstd_bomb_is_unpacked_in_bounded_pieces() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(256 * MIB))
    assert len(bomb) < 16 * 1024
    file, whole = ZstdFile(io.BytesIO(bomb)), 0
    while piece := file.read(MIB):
        whole += len(piece)
        assert len(piece) <= MIB
        assert len(file._plain) <= 32 * MIB
    assert whole == 256 * MIB


def test_what_needs_too_much_memory_is_refused(tmp_path: Path) -> None:
    greedy = zstandard.ZstdCompressionParameters.from_level(3, window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=greedy).compressobj()
    file = tmp_path / "disk.raw.zst"
    file.write_bytes(packer.compress(IMAGE) + packer.flush())
    with pytest.raises(BadImage, match="memory"), image_file.opened(str(file), None, QUIET):
        pass
