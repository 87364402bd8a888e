"""The counts of a pool whose bitmaps were corrected by thin_check, on metadata made here."""

import struct
from pathlib import Path

import pytest

from appliance.errors import CannotTell
from appliance.host import thin_counts
from appliance.host.thin_counts import BLOCK, ENTRIES, Correction

SUPERBLOCK, NODE, INDEX = 160774, 121107, 160478
DATA_BLOCKS = ENTRIES + 5000
META_BLOCKS = 1024


def sealed(body: bytes, salt: int) -> bytes:
    block = body.ljust(BLOCK, b"\0")
    return thin_counts.checksum(block, salt).to_bytes(4, "little") + block[4:]


def bitmap(*used: int) -> bytes:
    bits = bytearray(BLOCK)
    for number in used:
        bits[16 + number // 4] |= 1 + number % 3 << 2 * (number % 4)
    return bytes(bits)


def leaf(*entries: tuple[int, int, int]) -> bytes:
    """A node of the tree of bitmaps: key, block of the bitmap, free entries."""
    most = 168
    keys = b"".join(struct.pack("<Q", key) for key, _, _ in entries).ljust(8 * most, b"\0")
    values = b"".join(struct.pack("<QII", where, free, 7) for _, where, free in entries)
    return sealed(struct.pack("<IIQIII4x", 0, 2, 0, len(entries), most, 16) + keys + values, NODE)


def inner(*children: int) -> bytes:
    most = 252
    keys = b"".join(struct.pack("<Q", number) for number in range(len(children))).ljust(8 * most, b"\0")
    values = struct.pack(f"<{len(children)}Q", *children)
    return sealed(struct.pack("<IIQIII4x", 0, 1, 0, len(children), most, 8) + keys + values, NODE)


def metadata(data_used: int, meta_used: int, free: tuple[int, int], meta_free: int) -> bytes:
    """Two data bitmaps with 3 and 2 blocks in use, one of metadata with 6; the counts as given."""
    roots = struct.pack("<QQQQ", DATA_BLOCKS, data_used, 1, 9).ljust(128, b"\0")
    roots += struct.pack("<QQQQ", META_BLOCKS, meta_used, 6, 9)
    blocks = [
        sealed(bytes(64) + roots, SUPERBLOCK),
        inner(2, 3),
        leaf((0, 4, free[0])),
        leaf((1, 5, free[1])),
        bitmap(0, 1, 700),
        bitmap(17, 4999),
        sealed(bytes(16) + struct.pack("<QII", 7, meta_free, 7), INDEX),
        bitmap(*range(6)),
    ]
    return b"".join(blocks)


RIGHT = metadata(5, 6, (ENTRIES - 3, ENTRIES - 2), ENTRIES - 6)


def test_right_counts_are_left_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "metadata"
    file.write_bytes(RIGHT)
    assert thin_counts.recount(file) == Correction()
    assert file.read_bytes() == RIGHT


def test_counts_that_are_too_high_are_corrected_once(tmp_path: Path) -> None:
    file = tmp_path / "metadata"
    file.write_bytes(metadata(9, 8, (ENTRIES - 3, ENTRIES - 6), ENTRIES - 8))
    assert thin_counts.recount(file) == Correction(data=4, metadata=2)
    assert thin_counts.recount(file) == Correction()
    found = file.read_bytes()
    assert struct.unpack_from("<QQQQ", found, 64) == (DATA_BLOCKS, 5, 1, 9)
    assert struct.unpack_from("<QQQQ", found, 192) == (META_BLOCKS, 6, 6, 9)
    # The second bitmap's entry: as many free ones as there are, looked for from the beginning.
    assert struct.unpack_from("<QII", found, 3 * BLOCK + 32 + 8 * 168) == (5, ENTRIES - 2, 0)
    assert found[4 * BLOCK : 6 * BLOCK] == RIGHT[4 * BLOCK : 6 * BLOCK]


def test_a_count_that_was_cut_off_before_the_superblock_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "metadata"
    file.write_bytes(metadata(9, 6, (ENTRIES - 3, ENTRIES - 2), ENTRIES - 6))
    assert thin_counts.recount(file) == Correction(data=4)
    assert file.read_bytes() == RIGHT


@pytest.mark.parametrize("damaged", [0, 1, 2, 6])
def test_nothing_is_written_over_what_cannot_be_read(tmp_path: Path, damaged: int) -> None:
    file = tmp_path / "metadata"
    content = bytearray(metadata(9, 8, (ENTRIES - 3, ENTRIES - 2), ENTRIES - 6))
    content[damaged * BLOCK + 3000] ^= 1
    file.write_bytes(content)
    with pytest.raises(CannotTell, match="checksum"):
        thin_counts.recount(file)
    assert file.read_bytes() == content


def test_metadata_that_is_cut_short_cannot_be_counted(tmp_path: Path) -> None:
    file = tmp_path / "metadata"
    file.write_bytes(RIGHT[: 5 * BLOCK])
    with pytest.raises(CannotTell, match="no block 5"):
        thin_counts.recount(file)


def test_the_checksum_is_crc32c() -> None:
    # RFC 3720, B.4: 32 bytes of zeros give aa 36 91 8a on the wire, inverted, which it is not here.
    assert thin_counts.checksum(bytes(4 + 32), 0) ^ 0xFFFFFFFF == 0x8A9136AA
