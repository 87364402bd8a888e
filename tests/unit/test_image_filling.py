"""A disk is copied into its own volume: what is first, that all is once, and that zeros are not written."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import NotReady
from appliance.images import filling
from appliance.images.filling import BLOCK, PIECE, Filling, Hooks
from appliance.model import KIB, Extent

DATA = b"".join(bytes([1 + number % 250]) * BLOCK for number in range(40)) + b"end" * 512
HOLES = (*range(8, 16), 30)
"""Blocks that hold nothing."""


@pytest.fixture
def device(tmp_path: Path) -> Path:
    content = bytearray(DATA)
    for block in HOLES:
        content[block * BLOCK : (block + 1) * BLOCK] = bytes(BLOCK)
    made = tmp_path / "volume"
    made.write_bytes(content)
    return made


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that are written, in their order."""
    found: list[int] = []
    write = filling._write

    def note(fd: int, offset: int, data: bytes) -> None:
        assert len(data) == BLOCK or offset + len(data) == len(DATA)
        found.append(offset // BLOCK)
        write(fd, offset, data)

    monkeypatch.setattr(filling, "_write", note)
    return found


def hooks(
    before: Callable[[], None] = lambda: None,
    told: Callable[[int], None] = lambda _: None,
    saved: Callable[[int], None] = lambda _: None,
) -> Hooks:
    return Hooks(before, told, saved)


def test_what_is_first_comes_first_and_each_block_once(device: Path, written: list[int]) -> None:
    before, told = device.read_bytes(), list[int]()
    first = (Extent(33 * BLOCK + 5, 4 * KIB), Extent(20 * BLOCK, BLOCK), Extent(21 * BLOCK, BLOCK))
    digest = Filling(device, len(DATA), 0, hooks(told=told.append)).run(first)
    assert digest == hashlib.sha256(before).hexdigest()
    assert device.read_bytes() == before
    # Whole pieces, in the order of the disk; then the rest.
    assert written[:8] == [20, 21, 22, 23, 32, 33, 34, 35]
    assert sorted(written) == [block for block in range(41) if block not in HOLES]
    assert told == sorted(told)
    assert told[-1] == len(DATA)


def test_what_was_in_before_is_only_read(device: Path, written: list[int]) -> None:
    digest = Filling(device, len(DATA), 4 * PIECE, hooks()).run(())
    assert digest == hashlib.sha256(device.read_bytes()).hexdigest()
    assert written == [block for block in range(16, 41) if block not in HOLES]


def test_what_is_durable_is_told_now_and_then(device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "SAVE_BYTES", 2 * PIECE)
    saved: list[int] = []
    Filling(device, len(DATA), 0, hooks(saved=saved.append)).run(())
    assert saved == [2 * PIECE * number for number in range(1, 6)]


def test_it_can_be_ended_at_any_piece(device: Path) -> None:
    asked = 0

    def before() -> None:
        nonlocal asked
        asked += 1
        if asked == 4:
            raise NotReady("ended")

    with pytest.raises(NotReady, match="ended"):
        Filling(device, len(DATA), 0, hooks(before)).run(())
    with pytest.raises(NotReady, match="cannot be opened"):
        Filling(device.with_name("gone"), len(DATA), 0, hooks()).run(())
