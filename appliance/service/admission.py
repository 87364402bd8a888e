"""Refusing what the pool could not keep, before it is full (rule 4). Pure arithmetic; sizes are bytes."""

from appliance.errors import NoSpace
from appliance.model import GIB, KIB, MIB
from appliance.service.ports import PoolNumbers

RESERVE_PERCENT = 5
"""Share of the pool's data and metadata that new templates and clones leave to the writes of those that exist."""

METADATA_PER_BLOCK = 100
"""Bytes of metadata that a newly mapped block is counted with; the best case is 48."""


def usable(total: int) -> int:
    """What may be used of ``total`` before new things are refused."""
    return total - total * RESERVE_PERCENT // 100


def show(size: int) -> str:
    """A size in words, exact enough to compare two."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} bytes"


def admit_size(numbers: PoolNumbers, virtual_size: int) -> None:
    """Refuse an image that the whole pool could not hold, were all of it written. Raises NoSpace."""
    limit = usable(numbers.data_total)
    if virtual_size > limit:
        raise NoSpace(
            "the image is larger than the pool",
            why=f"its size is {show(virtual_size)}; the pool holds {show(limit)} besides its reserve",
            hint="use a smaller image, or a store with larger disks",
        )


def admit_data(numbers: PoolNumbers, wanted: int, promised: int = 0) -> None:
    """Refuse ``wanted`` more bytes of data when they do not fit beside what others were ``promised``.

    Raises NoSpace, with the numbers.
    """
    free = usable(numbers.data_total) - numbers.data_used - promised
    if wanted > free:
        raise NoSpace(
            "the pool has not enough space",
            why=f"{show(wanted)} are needed, {show(max(free, 0))} are free besides the reserve"
            f" ({show(numbers.data_used)} of {show(numbers.data_total)} in use)",
            hint="remove clones or templates first",
        )
    blocks = -(-wanted // numbers.block_bytes)
    metadata_free = usable(numbers.metadata_total) - numbers.metadata_used
    if blocks * METADATA_PER_BLOCK > metadata_free:
        raise NoSpace(
            "the pool has not enough metadata space",
            why=f"{show(blocks * METADATA_PER_BLOCK)} are needed, {show(max(metadata_free, 0))} are free"
            f" ({show(numbers.metadata_used)} of {show(numbers.metadata_total)} in use)",
            hint="remove clones or templates first",
        )


def admit_clones(numbers: PoolNumbers, count: int) -> None:
    """Refuse new clones when the reserve is touched: they will write. Raises NoSpace."""
    # A clone begins with a block or two of its own as soon as it boots.
    admit_data(numbers, max(count, 1) * numbers.block_bytes)
