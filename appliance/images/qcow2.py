"""The qcow2 format, as far as it takes to tell an acceptable image from a damaged or hostile one.

Pure: it is given bytes, or a function that reads them. Source: QEMU's docs/interop/qcow2.rst (header, L1 and L2
tables) and the limits in QEMU's block/qcow2.h.
"""

import struct
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from appliance.errors import BadImage
from appliance.model import GIB, MIB

MAGIC = b"QFI\xfb"

HEADER_BYTES = 112
"""Enough of the file's beginning for ``parse_header``; its extensions may reach to the end of the first cluster."""

MAX_L1_BYTES = 32 * MIB
"""QEMU's own limit."""

MAX_CLUSTERS = 1 << 26
"""Guest clusters that are looked at: 4 TiB with the usual 64 KiB clusters. It bounds the time a hostile image takes."""

_DIRTY, _CORRUPT, _DATA_FILE, _COMPRESSION_TYPE, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_FEATURES = _DIRTY | _CORRUPT | _DATA_FILE | _COMPRESSION_TYPE | _EXTENDED_L2

_EXTENSION_END = 0x00000000
_EXTENSION_BACKING_FORMAT = 0xE2792ACA
_EXTENSION_DATA_FILE = 0x44415441
_EXTENSION_LUKS = 0x0537BE77

_OFFSET_MASK = 0x00FFFFFFFFFFFE00
_COMPRESSED = 1 << 62
_ZERO = 1

Read = Callable[[int, int], bytes]
"""Reads ``length`` bytes at ``offset``; fewer at the end of the file."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says. Sizes and offsets are bytes."""

    virtual_size: int
    cluster_bytes: int
    l1_entries: int
    l1_offset: int
    extended_l2: bool

    @property
    def l2_entry_bytes(self) -> int:
        """Size of an entry in an L2 table."""
        return 16 if self.extended_l2 else 8

    @property
    def l2_entries(self) -> int:
        """Entries in an L2 table, which is one cluster."""
        return self.cluster_bytes // self.l2_entry_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """A checked image: its virtual size, and how many of its bytes are more than holes."""

    virtual_size: int
    allocated_bytes: int


def parse_header(data: bytes) -> Header:
    """Read and judge the header; ``data`` is the file's first cluster or all of a shorter file.

    Raises BadImage for what is not accepted: no qcow2, a backing file, an external data file, encryption, a feature
    that is unknown, sizes out of range, a file shorter than its header.
    """
    if data[:4] != MAGIC:
        raise BadImage("this is not a qcow2 image", why="its magic number is missing", hint="state its real format")
    if len(data) < 72:
        raise _truncated("it ends in its header")
    (version, backing_offset, _, cluster_bits, size, crypt, l1_entries, l1_offset) = struct.unpack_from(
        ">IQIIQIIQ", data, 4
    )
    if version not in (2, 3):
        raise BadImage("the qcow2 image cannot be read", why=f"version {version} is unknown")
    features, header_bytes = 0, 72
    if version == 3:
        if len(data) < 104:
            raise _truncated("it ends in its header")
        (features,) = struct.unpack_from(">Q", data, 72)
        (header_bytes,) = struct.unpack_from(">I", data, 100)
    _check_features(features)
    if backing_offset:
        raise BadImage(
            "the qcow2 image has a backing file",
            why="it is no whole image, and what it points to could be any file",
            hint="flatten it first: qemu-img convert -O qcow2 OLD NEW",
        )
    if crypt:
        raise BadImage(
            "the qcow2 image is encrypted", why="guests would see what is encrypted", hint="decrypt it first"
        )
    if not 9 <= cluster_bits <= 21:
        raise BadImage("the qcow2 image is damaged", why=f"its clusters have 2**{cluster_bits} bytes")
    cluster = 1 << cluster_bits
    if features & _EXTENDED_L2 and cluster_bits < 14:
        raise BadImage("the qcow2 image is damaged", why="its clusters are too small for its extended L2 entries")
    if header_bytes < (104 if version == 3 else 72) or header_bytes > cluster or header_bytes % 8:
        raise BadImage("the qcow2 image is damaged", why=f"its header claims {header_bytes} bytes")
    _check_extensions(data[:cluster], header_bytes)
    header = Header(size, cluster, l1_entries, l1_offset, bool(features & _EXTENDED_L2))
    _check_sizes(header)
    return header


def _check_features(features: int) -> None:
    if features & _DATA_FILE:
        raise BadImage(
            "the qcow2 image keeps its data in another file",
            why="what it points to could be any file",
            hint="make it whole: qemu-img convert -O qcow2 OLD NEW",
        )
    if features & _CORRUPT:
        raise BadImage(
            "the qcow2 image is marked corrupt",
            why="QEMU found it damaged, and wrote that into its header",
            hint="repair it: qemu-img check -r all FILE",
        )
    if unknown := features & ~_KNOWN_FEATURES:
        raise BadImage("the qcow2 image needs features that are unknown", why=f"incompatible feature bits {unknown:#x}")


def _check_extensions(first_cluster: bytes, offset: int) -> None:
    while offset + 8 <= len(first_cluster):
        kind, length = struct.unpack_from(">II", first_cluster, offset)
        if kind == _EXTENSION_END:
            return
        if kind in (_EXTENSION_DATA_FILE, _EXTENSION_BACKING_FORMAT, _EXTENSION_LUKS):
            raise BadImage(
                "the qcow2 image is not whole",
                why=f"header extension {kind:#010x} speaks of a backing file, a data file or encryption",
                hint="flatten it first: qemu-img convert -O qcow2 OLD NEW",
            )
        offset += 8 + (length + 7) // 8 * 8


def _check_sizes(header: Header) -> None:
    if header.virtual_size == 0:
        raise BadImage("the qcow2 image is empty", why="its virtual size is 0")
    clusters = -(-header.virtual_size // header.cluster_bytes)
    if clusters > MAX_CLUSTERS:
        raise BadImage(
            "the qcow2 image is too large",
            why=f"{header.virtual_size / GIB:.0f} GiB in clusters of {header.cluster_bytes} bytes",
            hint="use larger clusters: qemu-img convert -O qcow2 -o cluster_size=2M OLD NEW",
        )
    needed = -(-clusters // header.l2_entries)
    if header.l1_entries < needed or header.l1_entries * 8 > MAX_L1_BYTES:
        raise BadImage(
            "the qcow2 image is damaged", why=f"its L1 table has {header.l1_entries} entries where {needed} belong"
        )
    if header.l1_offset == 0 or header.l1_offset % header.cluster_bytes:
        raise BadImage("the qcow2 image is damaged", why=f"its L1 table is at {header.l1_offset}")


def scan(header: Header, read: Read, file_bytes: int) -> Layout:
    """Follow the L1 and L2 tables: everything they point to must lie inside the file's ``file_bytes``.

    Raises BadImage when something does not, which is what a truncated file looks like.
    """
    clusters = -(-header.virtual_size // header.cluster_bytes)
    needed = -(-clusters // header.l2_entries)
    if header.l1_offset + needed * 8 > file_bytes:
        raise _truncated("its L1 table reaches past its end")
    allocated = 0
    for number, entry in enumerate(_words(read(header.l1_offset, needed * 8), needed)):
        offset = entry & _OFFSET_MASK
        if offset == 0:
            continue
        if offset % header.cluster_bytes:
            raise BadImage("the qcow2 image is damaged", why=f"its L2 table {number} is at {offset}")
        if offset + header.cluster_bytes > file_bytes:
            raise _truncated(f"its L2 table {number} lies past its end")
        table = _words(read(offset, header.cluster_bytes), header.cluster_bytes // 8)
        allocated += _scan_l2(header, table[:: header.l2_entry_bytes // 8], number * header.l2_entries, file_bytes)
    return Layout(header.virtual_size, allocated * header.cluster_bytes)


def _scan_l2(header: Header, table: "array[int]", first: int, file_bytes: int) -> int:
    allocated = 0
    cluster = header.cluster_bytes
    # A compressed entry's offset is in its lower bits; their number depends on the cluster size.
    compressed_mask = (1 << (62 - (cluster.bit_length() - 1 - 8))) - 1
    for index, entry in enumerate(table, start=first):
        if not entry:
            continue
        guest = index * cluster
        if guest >= header.virtual_size:
            break
        if entry & _COMPRESSED:
            offset, length = entry & compressed_mask, 1
        else:
            offset = entry & _OFFSET_MASK
            if offset == 0 or (entry & _ZERO and not header.extended_l2):
                continue
            if offset % cluster:
                raise BadImage("the qcow2 image is damaged", why=f"its cluster {index} is at {offset}")
            # Of the last cluster only what the guest can see has to be there.
            length = min(cluster, header.virtual_size - guest)
        if offset + length > file_bytes:
            raise _truncated(f"its cluster {index} lies past its end")
        allocated += 1
    return allocated


def _words(data: bytes, count: int) -> "array[int]":
    if len(data) < count * 8:
        raise _truncated("a table reaches past its end")
    words = array("Q", data[: count * 8])
    if sys.byteorder == "little":
        words.byteswap()
    return words


def _truncated(why: str) -> BadImage:
    return BadImage("the qcow2 image is truncated", why=why, hint="copy it again, and compare its checksum")
