"""dm-thin: tables, status lines and the tools that read a pool's metadata.

Source: ``Documentation/admin-guide/device-mapper/thin-provisioning.rst`` of Linux 6.12; thin-provisioning-tools 1.1.
"""

import logging
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from appliance.errors import CannotTell, CommandFailed, DeadlineExceeded, Unhealthy
from appliance.host import block, thin_counts
from appliance.host.dm_ioctl import Target
from appliance.model import SECTOR
from appliance.run import Runner

METADATA_BLOCK = 4096
"""Bytes in a block of a pool's metadata device, the unit of its usage in the status line."""


_MAGIC = 27022010
"""In the superblock of a pool's metadata: THIN_SUPERBLOCK_MAGIC of dm-thin-metadata.c."""


log = logging.getLogger(__name__)


class PoolMode(StrEnum):
    """What a pool still lets happen, from the status line."""

    READ_WRITE = "rw"
    READ_ONLY = "ro"
    OUT_OF_DATA_SPACE = "out_of_data_space"
    FAILED = "fail"


@dataclass(frozen=True, slots=True)
class PoolLine:
    """A pool's status line. Data in pool blocks, metadata in blocks of 4 KiB."""

    transaction_id: int
    metadata_used: int
    metadata_total: int
    data_used: int
    data_total: int
    held_root: int | None
    mode: PoolMode
    discard_passdown: bool
    error_if_no_space: bool
    needs_check: bool


def parse_pool_status(params: str) -> PoolLine:
    """Read the status of a ``thin-pool`` target. Raises CannotTell for a line that is not one.

    ``ID USED/TOTAL USED/TOTAL ROOT MODE [no_]discard_passdown error_if_no_space|queue... needs_check|- LOW_WATER``
    """
    words = params.split()
    if words and words[0] in {"Fail", "Error"}:
        return PoolLine(0, 0, 0, 0, 0, None, PoolMode.FAILED, False, False, True)
    try:
        metadata_used, metadata_total = (int(part) for part in words[1].split("/"))
        data_used, data_total = (int(part) for part in words[2].split("/"))
        return PoolLine(
            transaction_id=int(words[0]),
            metadata_used=metadata_used,
            metadata_total=metadata_total,
            data_used=data_used,
            data_total=data_total,
            held_root=None if words[3] == "-" else int(words[3]),
            mode=PoolMode(words[4]),
            discard_passdown=words[5] == "discard_passdown",
            error_if_no_space=words[6] == "error_if_no_space",
            needs_check=len(words) > 7 and words[7] == "needs_check",
        )
    except (IndexError, ValueError) as error:
        raise CannotTell("a thin pool's status cannot be read", why=repr(params)) from error


def parse_pool_table(params: str) -> tuple[int, frozenset[str]]:
    """Block size (sectors) and features of a ``thin-pool`` table line. Raises CannotTell."""
    words = params.split()
    try:
        count = int(words[4]) if len(words) > 4 else 0
        return int(words[2]), frozenset(words[5 : 5 + count])
    except (IndexError, ValueError) as error:
        raise CannotTell("a thin pool's table cannot be read", why=repr(params)) from error


def parse_mapped(params: str) -> int:
    """Mapped bytes of a ``thin`` target, from its status line. Raises Unhealthy when the volume has failed."""
    word = params.split()[0] if params else ""
    if not word.isdecimal():
        raise Unhealthy("a thin volume does not tell how much it holds", why=params or "its status line is empty")
    return int(word) * SECTOR


def parse_end(params: str) -> int:
    """First byte after the last mapped one of a ``thin`` target, from its status line; 0 when it holds nothing."""
    words = params.split()
    return (int(words[1]) + 1) * SECTOR if len(words) > 1 and words[1].isdecimal() else 0


def pool_table(data: Path, metadata: Path, *, length: int, block: int, low_water: int) -> Target:
    """The table of a pool. ``length`` and ``block`` in sectors, ``low_water`` in blocks.

    Rules 3, 4 and 13: new blocks are zeroed (``skip_block_zeroing`` stays out), a full pool answers with an error
    at once, and discards end at the pool.
    """
    features = "2 error_if_no_space no_discard_passdown"
    return Target(0, length, "thin-pool", f"{metadata} {data} {block} {low_water} {features}")


def thin_table(pool: Path, thin_id: int, length: int, origin: Path | None = None) -> Target:
    """The table of a thin volume of ``length`` sectors. What it does not hold is read from ``origin``, if there is one.

    The external origin may be shorter: past its end the volume reads as zeros.
    """
    return Target(0, length, "thin", f"{pool} {thin_id}" + (f" {origin}" if origin else ""))


def parse_origin(params: str) -> str:
    """The external origin (``MAJOR:MINOR``) in the table of a thin volume; empty when it has none."""
    words = params.split()
    return words[2] if len(words) > 2 else ""


class Check(StrEnum):
    """What ``thin_check`` found."""

    CLEAN = "clean"
    MENDED = "leaked blocks were given back"
    NOT_FINISHED = "not finished"


def check(runner: Runner, metadata: Path, *, deadline: float) -> Check:
    """Check the metadata of a pool that is not active; at most ``deadline`` seconds. Raises Unhealthy on damage.

    Running out of time is not damage: the check only reads, so that it may be cut off anywhere, and a pool recovers
    to its last commit by itself. Nor are blocks that leaked: after a power cut the last commit may count blocks as
    used whose mapping was still to come. They are given back, by a second run that may take four times as long as
    the first was allowed to: it begins to write only when it has found nothing worse. The same run takes away the
    flag that makes the kernel open the pool read-only.
    """
    try:
        good = runner.run(["thin_check", metadata], timeout=deadline, check=False).returncode == 0
        if good and not flagged(metadata):
            # A repair that was cut off may have left the counts for this run.
            return Check.MENDED if _recounted(metadata) else Check.CLEAN
        runner.run(["thin_check", "--auto-repair", metadata], timeout=4 * deadline)
    except DeadlineExceeded:
        return Check.NOT_FINISHED
    except CommandFailed as error:
        raise Unhealthy(
            "the pool's metadata is damaged",
            why=error.why,
            hint="do not write to it; keep a copy, then see thin_repair(8)",
        ) from error
    _recounted(metadata)
    return Check.MENDED


def _recounted(metadata: Path) -> bool:
    """Whether the pool's counts of used blocks were wrong, and are not any more."""
    try:
        found = thin_counts.recount(metadata)
    except CannotTell as error:
        # The metadata is sound, by thin_check's word; some space may not be seen as free.
        log.warning("%s", error)
        return False
    if found != thin_counts.Correction():
        log.info("gave back %d blocks of data and %d of metadata", found.data, found.metadata)
    return found != thin_counts.Correction()


def flagged(metadata: Path) -> bool:
    """Whether the superblock asks for a check: flags bit 0, after 4 bytes of checksum (dm-thin-metadata.c)."""
    return bool(block.read(metadata, 0, METADATA_BLOCK)[4] & 1)


def data_blocks(superblock: bytes) -> int:
    """Blocks of data that a pool has, from the superblock of its metadata; 0 while that is blank.

    After csum, flags, blocknr, uuid, magic, version, time, trans_id and held_root comes the root of the data space map,
    which begins with the number of its blocks (dm-thin-metadata.c: thin_disk_superblock; dm-space-map-common.h:
    disk_sm_root). Raises CannotTell when it is not the superblock of a pool.
    """
    if not any(superblock):
        return 0
    magic, blocks = struct.unpack_from("<32xQ24xQ", superblock)
    if magic != _MAGIC:
        raise CannotTell("the size of a pool cannot be read", why="its metadata does not begin with a superblock")
    return int(blocks)


def listed_ids(runner: Runner, metadata: Path) -> frozenset[int]:
    """Ids of all thin devices, from the metadata snapshot that the caller has reserved."""
    done = runner.run(["thin_ls", "--metadata-snap", "--no-headers", "--format", "DEV", metadata])
    return parse_ids(done.stdout)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a thin device maps, and what of that no other device maps: in pool blocks, or in bytes after ``times``."""

    thin_id: int
    mapped: int
    exclusive: int

    def times(self, size: int) -> "Usage":
        """The same in another unit."""
        return Usage(self.thin_id, self.mapped * size, self.exclusive * size)


def usage(runner: Runner, metadata: Path) -> tuple[Usage, ...]:
    """What each thin device maps (blocks), from the metadata snapshot that the caller has reserved."""
    fields = "DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS"
    done = runner.run(["thin_ls", "--metadata-snap", "--no-headers", "--format", fields, metadata], timeout=600)
    return parse_usage(done.stdout)


def parse_usage(text: str) -> tuple[Usage, ...]:
    """Read the output of ``thin_ls --no-headers --format DEV,MAPPED_BLOCKS,EXCLUSIVE_BLOCKS``. Raises CannotTell."""
    try:
        found = [[int(word) for word in line.split()] for line in text.splitlines() if line.strip()]
        return tuple(Usage(thin_id, mapped, exclusive) for thin_id, mapped, exclusive in found)
    except ValueError as error:
        raise CannotTell("the list of thin devices cannot be read", why=text[:200]) from error


def parse_ids(text: str) -> frozenset[int]:
    """Read the output of ``thin_ls --no-headers --format DEV``. Raises CannotTell."""
    try:
        return frozenset(int(word) for word in text.split())
    except ValueError as error:
        raise CannotTell("the list of thin devices cannot be read", why=text[:200]) from error
