"""One boot as it is recorded: what a clone's guest makes the store read of its template. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from appliance.bootset.boot_set import CAP
from appliance.bootset.extents import PAGE, Covered
from appliance.bootset.trace import Read
from appliance.catalog import Clone, Template
from appliance.host.trace import Request
from appliance.model import MIB

QUIET = 120_000_000
"""Microseconds without a first read of anything after which a boot is over. Long enough for what a guest does between
two reads: a boot menu, unpacking an initrd, waiting for an address; all of it ten times as long under emulation."""

LONGEST = 600_000_000
"""Microseconds after which the rest does not belong to the boot."""

MOST_READS = 65_536
"""A boot has some thousands. The catalog keeps the reads of the last boots, and its file system is small."""

MOST = CAP
"""Bytes after which the rest does not belong to the boot."""

LEAST = 1 * MIB
"""Bytes below which it was no boot: a server that looks at a disk's size, a tool that looks at its partitions."""


class Recording:
    """What a clone's device is asked for, from its first request on: the reads that bring pages not read before.

    A write counts as well, if it is the first to a pool block and does not fill it: the pool then reads all of the
    block from the template, to copy it. What was copied is the clone's own, and reading it says nothing of the
    template.
    """

    def __init__(self, template: Template, clone: Clone, device: str, block_bytes: int) -> None:
        """``device`` is the clone's, ``block_bytes`` the size of a block of the pool that it is in."""
        self.template = template
        self.clone = clone
        self.device = device
        self._block = block_bytes
        self.forget()

    def forget(self) -> None:
        """Begin again, with the next request."""
        self.reads: list[Read] = []
        self._first: int | None = None
        self._news = 0
        self._pages = Covered()
        self._copied: set[int] = set()

    @property
    def begun(self) -> bool:
        """Whether there was a request."""
        return self._first is not None

    @property
    def total(self) -> int:
        """Bytes of the template that were read, each counted once."""
        return self._pages.total() * PAGE

    @property
    def is_boot(self) -> bool:
        """Whether so much was read that it was a boot."""
        return self.total >= LEAST

    def add(self, request: Request) -> None:
        """The next request, in order of time."""
        if self._first is None:
            self._first = self._news = request.micros
        blocks = range(request.offset // self._block, -(-(request.offset + request.length) // self._block))
        if not request.write:
            if not self._copied.issuperset(blocks):
                self._read(request.offset, request.length, request.micros)
            return
        for block in {blocks[0], blocks[-1]} - self._copied:
            start, end = block * self._block, (block + 1) * self._block
            if request.offset > start or request.offset + request.length < end:
                self._read(start, min(end, self.template.size) - start, request.micros)
        self._copied.update(blocks)

    def over(self, now: int) -> bool:
        """Whether the boot has ended, at ``now`` in microseconds of the monotonic clock."""
        return self._first is not None and (
            now - self._news >= QUIET
            or now - self._first >= LONGEST
            or self.total >= MOST
            or len(self.reads) >= MOST_READS
        )

    def _read(self, offset: int, length: int, micros: int) -> None:
        if length <= 0 or self._first is None:
            return  # past the end of the template, on a clone that was made larger
        # A guest may read the same a million times, past its page cache; nothing is learned from that.
        if len(self.reads) < MOST_READS and self._pages.add(offset // PAGE, -(-(offset + length) // PAGE)):
            self.reads.append(Read(offset, length, micros - self._first))
            self._news = micros


@dataclass(frozen=True, slots=True)
class Keep:
    """What takes recorded boots.

    ``learn`` makes the boot set of them: the template, the clone's name, its reads, and of how many boots it is to be
    made if they were asked for. ``judge`` sees how much of the boot set one read.
    """

    learn: Callable[[Template, str, Sequence[Read], int | None], object]
    judge: Callable[[Template, Sequence[Read]], object]
