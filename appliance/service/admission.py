"""Refusing what a pool could not keep, before it is full (rule 4). Pure arithmetic; sizes are bytes."""

from appliance.errors import NoSpace
from appliance.model import GIB, KIB, MIB
from appliance.service.ports import PoolNumbers

HEADROOM_PERCENT = 5
"""Share of a pool's data and metadata that new templates and clones leave to the writes of those that exist."""

METADATA_PER_BLOCK = 100
"""Bytes of metadata that a newly mapped block is counted with; the best case is 48."""

METADATA_PER_CLONE = 3 * 4 * KIB
"""Bytes of metadata that a new clone is counted with: a root of its own, and a leaf with what leads to it, once it
has written its first block."""

_LATER = "remove clones or templates first, or add a disk"


def usable(total: int) -> int:
    """What may be used of ``total`` before new things are refused."""
    return total - total * HEADROOM_PERCENT // 100


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
            why=f"its size is {show(virtual_size)}; the pool holds {show(limit)} besides its headroom",
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
            why=f"{show(wanted)} are needed, {show(max(free, 0))} are free besides the headroom"
            f" ({show(numbers.data_used)} of {show(numbers.data_total)} in use)",
            hint=_LATER,
        )
    _admit_metadata(numbers, -(-wanted // numbers.block_bytes) * METADATA_PER_BLOCK)


def admit_clones(numbers: PoolNumbers, count: int) -> None:
    """Refuse new clones when the headroom is touched: they will write. Raises NoSpace."""
    # A clone begins with a block or two of its own as soon as it boots.
    admit_data(numbers, max(count, 1) * numbers.block_bytes)
    _admit_metadata(numbers, count * METADATA_PER_CLONE)


def admit_promise(numbers: PoolNumbers, wanted: int, promised: int, overcommit_percent: int) -> None:
    """Refuse to promise ``wanted`` more bytes to guests than the overcommit ratio allows; 0 allows all.

    ``promised`` is what the pool's clones could hold together were all of them written. Raises NoSpace.
    """
    limit = numbers.data_total * overcommit_percent // 100
    if overcommit_percent and promised + wanted > limit:
        raise NoSpace(
            "more would be promised than the overcommit ratio allows",
            why=f"the sizes of all clones would be {show(promised + wanted)}; {overcommit_percent} % of"
            f" {show(numbers.data_total)} are {show(limit)}",
            hint="remove clones first, or raise clone_store_overcommit_percent",
        )


def _admit_metadata(numbers: PoolNumbers, wanted: int) -> None:
    free = usable(numbers.metadata_total) - numbers.metadata_used
    if wanted > free:
        raise NoSpace(
            "the pool has not enough metadata space",
            why=f"{show(wanted)} are needed, {show(max(free, 0))} are free"
            f" ({show(numbers.metadata_used)} of {show(numbers.metadata_total)} in use)",
            hint=_LATER,
        )
