"""The header of the fast pool's partitions: what says which pool they hold, and how it is laid out. Sizes in bytes.

It stands in the first 4 KiB of each partition as three lines: a magic word, JSON, and the SHA-256 of the JSON. So a
pool is recognised without the catalog, and a drive that was replaced or a pool that was made anew is never taken for
the one that clones were made in.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.errors import Unhealthy

HEADER_BYTES = 4096
_MAGIC = b"HATCHERY-FAST 1"


@dataclass(frozen=True, slots=True)
class Header:
    """One partition's part in a pool: number ``index`` of ``count``.

    ``identity`` is the pool's own id, ``guid`` that of the partition, ``metadata`` the size of its metadata area,
    ``block`` the pool's block size. A ``fresh`` pool has never run: nobody can miss anything in it.
    """

    identity: str
    guid: str
    index: int
    count: int
    metadata: int
    block: int
    fresh: bool = False


def render(header: Header) -> bytes:
    """The header as it stands on the partition."""
    body = json.dumps(asdict(header), sort_keys=True).encode()
    text = b"\n".join([_MAGIC, body, hashlib.sha256(body).hexdigest().encode(), b""])
    return text.ljust(HEADER_BYTES, b"\0")


def parse(data: bytes) -> Header | None:
    """Read the first bytes of a partition; None when they are blank. Raises Unhealthy when they are anything else."""
    if not any(data[:HEADER_BYTES]):
        return None
    lines = data[:HEADER_BYTES].split(b"\n", 3)
    if len(lines) != 4 or lines[0] != _MAGIC:
        raise Unhealthy(
            "the partition holds something that is not the fast pool's", hint="see `wipefs` of that partition"
        )
    if hashlib.sha256(lines[1]).hexdigest().encode() != lines[2]:
        raise Unhealthy("the header of the fast pool is damaged", why="its checksum is wrong")
    try:
        return Header(**json.loads(lines[1]))
    except (ValueError, TypeError) as error:
        raise Unhealthy("the header of the fast pool cannot be read", why=str(error)) from error


def write(path: Path, header: Header) -> None:
    """Put the header on the partition, on stable storage. Raises Unhealthy."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, render(header), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise Unhealthy(f"cannot write to {path}", why=error.strerror or str(error)) from error
