"""Every state that a power cut may leave on a disk, from a log of what was written to it.

dm-log-writes keeps all writes to a device, in the order in which a disk with a volatile cache may count them as safe:
writes that completed before a flush come before that flush, a write with FUA counts at once, and a mark stands where
user space set it. Replayed up to any entry, the log is a state that a power cut may leave; so is one where writes after
the last flush are missing at random.

Source: ``drivers/md/dm-log-writes.c`` of Linux 6.12 and ``Documentation/admin-guide/device-mapper/log-writes.rst``.
"""

import os
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path
from typing import TypeAlias

from appliance.host import block
from appliance.host.dm import Dm, Target
from appliance.model import MIB, SECTOR
from appliance.run import Runner

NVME, BASE, REPLAY, CHANGES = (Path(f"/dev/ubd{letter}") for letter in "abcd")
"""The log, the disk that is logged, the one that it is replayed on, and what a look at a state changes."""

LOGGED = "lab-logged"
STATE = "lab-state"

_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAGIC = 0x6A736677736872


Marker: TypeAlias = Callable[[str], None]


class Flag(IntFlag):
    """What an entry is."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


@dataclass(frozen=True)
class Entry:
    """A write: where it goes and where its data is in the log (bytes), or a mark with its text."""

    offset: int
    length: int
    flags: Flag
    data: int
    text: str = ""

    @property
    def safe(self) -> bool:
        """Whether it is on stable storage once it has completed, without a flush."""
        return bool(self.flags & (Flag.FUA | Flag.MARK | Flag.DISCARD))


class Log:
    """A finished log."""

    def __init__(self, device: Path) -> None:
        self._fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        magic, version, count, size = _SUPER.unpack_from(os.pread(self._fd, SECTOR, 0))
        assert (magic, version) == (_MAGIC, 1), "this is no log"
        self.entries = tuple(self._read(count, size))

    def close(self) -> None:
        """Let go of the device."""
        os.close(self._fd)

    def _read(self, count: int, size: int) -> Iterator[Entry]:
        at = size
        for _ in range(count):
            head = os.pread(self._fd, size, at)
            sector, sectors, flags, length = _ENTRY.unpack_from(head)
            at += size
            flag = Flag(flags)
            text = head[_ENTRY.size : _ENTRY.size + length].decode(errors="replace") if flag & Flag.MARK else ""
            yield Entry(sector * size, sectors * size, flag, at, text)
            if not flag & (Flag.DISCARD | Flag.MARK):
                at += sectors * size

    def apply(self, entries: Sequence[Entry], target: Path) -> None:
        """Write what the entries wrote. Discards are left out: a disk may do nothing for them."""
        fd = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for entry in entries:
                if entry.length and not entry.flags & (Flag.DISCARD | Flag.MARK):
                    os.pwrite(fd, os.pread(self._fd, entry.length, entry.data), entry.offset)
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def logged(dm: Dm, size: int) -> Iterator[Marker]:
    """The disk with a log, as ``/dev/mapper/lab-logged``; gives the function that sets a mark."""
    Runner().run(["modprobe", "dm-log-writes"])
    for device in (NVME, BASE, REPLAY):
        assert not any(block.read(device, 0, MIB)), f"{device} is not blank: a replay begins with zeros"
    dm.create(LOGGED, "LAB-logged", [Target(0, size // SECTOR, "log-writes", f"{BASE} {NVME}")])
    try:
        yield lambda text: _mark(dm, text)
    finally:
        dm.remove(LOGGED, deadline=10)


def _mark(dm: Dm, text: str) -> None:
    dm.message(LOGGED, f"mark {text}")


@contextmanager
def state(dm: Dm, size: int) -> Iterator[Path]:
    """The replayed disk; what is changed on it is forgotten afterwards."""
    params = f"{REPLAY} {CHANGES} N 8"
    try:
        yield dm.create(STATE, "LAB-state", [Target(0, size // SECTOR, "snapshot", params)])
    finally:
        dm.remove(STATE, deadline=10)


@dataclass(frozen=True)
class Cut:
    """A power cut: everything before ``flushed`` is on the disk, of the entries up to ``end`` it may be.

    ``acknowledged`` is the number of the last mark ``ack N`` before it, -1 for none.
    """

    flushed: int
    end: int
    acknowledged: int


def cuts(entries: Sequence[Entry], first: int, most: int, seed: int) -> list[Cut]:
    """Cuts after the mark ``ready``: at flushes and in between; ``most`` of them, spread evenly, 0 for all."""
    found, flushed, acknowledged, ready = [], 0, -1, False
    for index, entry in enumerate(entries):
        if entry.flags & Flag.MARK:
            ready = ready or entry.text.startswith("ready")
            word, _, number = entry.text.rstrip("\0").partition("=")
            if word == "ack":
                acknowledged = int(number)
        if entry.flags & Flag.FLUSH:
            flushed = index + 1
        if ready and index >= first:
            found.append(Cut(flushed, index + 1, acknowledged))
    if not most or len(found) <= most:
        return found
    # A stretch each, and in it one at random: so that no kind of entry is always left out.
    chance, step = random.Random(seed), len(found) / most
    return [found[int(step * n) + chance.randrange(max(1, int(step)))] for n in range(most - 1)] + [found[-1]]


def replay(size: int, check: Callable[[Path, Cut], None], *, most: int, seed: int) -> dict[str, int]:
    """Bring the disk into the state of each cut and ``check`` it; says how much that was.

    Raises AssertionError with the cut that failed.
    """
    Runner().run(["modprobe", "dm-snapshot"])
    dm, log, chance = Dm(), Log(NVME), random.Random(seed)
    try:
        chosen, at = cuts(log.entries, 0, most, seed), 0
        for cut in chosen:
            log.apply(log.entries[at : cut.flushed], REPLAY)
            at = max(at, cut.flushed)
            with state(dm, size) as device:
                loose = log.entries[cut.flushed : cut.end]
                log.apply([entry for entry in loose if entry.safe or chance.random() < 0.7], device)
                try:
                    check(device, cut)
                except Exception as error:
                    raise AssertionError(f"{cut} of {len(log.entries)} entries, seed {seed}: {error!r}") from error
        flushes = sum(1 for entry in log.entries if entry.flags & Flag.FLUSH)
        return {"entries": len(log.entries), "flushes": flushes, "cuts": len(chosen)}
    finally:
        log.close()
        dm.close()


def slice_of(dm: Dm, name: str, below: Path, offset: int, size: int) -> block.Device:
    """A part of a device as a device."""
    target = Target(0, size // SECTOR, "linear", f"{below} {offset // SECTOR}")
    return block.get(dm.create(name, f"LAB-{name}", [target]))
