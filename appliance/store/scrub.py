"""Scrubbing: all that the arrays hold is read and compared, while what a bad sector held is still known elsewhere.

The kernel does it (``sync_action`` in ``Documentation/admin-guide/md.rst``), slows down to a megabyte a second while
there is other I/O, and writes a sector that cannot be read anew from the others. What differs otherwise it counts.
"""

import logging
import signal
import sys
from dataclasses import dataclass
from types import FrameType

from appliance import wait
from appliance.config import RaidLevel
from appliance.errors import HatcheryError
from appliance.host import md
from appliance.host.md import Array
from appliance.model import MIB, SECTOR
from appliance.store import backend, cache_mirror, mirror, names
from appliance.store.machine import Machine

log = logging.getLogger(__name__)

SPEED = 100 * MIB
"""Bytes a second of each member, at most; with guests' I/O beside it, far less."""

DEADLINE = 30 * 24 * 3600.0
"""Seconds that an array may take."""


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """An array that was read from beginning to end, and how many of its bytes differ from their copy or parity."""

    name: str
    differing: int


def arrays(machine: Machine) -> tuple[tuple[str, Array], ...]:
    """The store's arrays that run, by name. Raises NotReady when the backend does not."""
    found = [(names.array(names.BACKEND), backend.running(machine.config.require_backend()))]
    found.append((names.array(names.META), mirror.running(machine)))
    cached = cache_mirror.find(machine)
    if cached is not None:
        found.append((names.array(names.CACHE), cached))
    return tuple(found)


def scrub(name: str, array: Array, *, interval: float = 5.0) -> Scrubbed | None:
    """Scrub an array; None, with a line in the log, when it has something more urgent to do.

    Raises Unhealthy, DeadlineExceeded; however this ends, no check goes on.
    """
    if array.degraded or array.sync_action != "idle" or array.reshaping:
        why = "it is degraded" if array.degraded else f"it is busy: {array.sync_action}"
        log.warning("%s is not scrubbed now: %s", name, why)
        return None
    log.info("%s: scrubbing", name)
    md.begin_check(array, SPEED)
    try:
        wait.until(
            lambda: md.again(array).sync_action != "check",
            f"{name} to be scrubbed",
            deadline=DEADLINE,
            interval=interval,
        )
    finally:
        md.end_check(array)
    after = md.again(array)
    if after.degraded or after.sync_action != "idle" or after.reshaping:
        log.warning("%s: broken off, there is something more urgent: %s", name, after.sync_action)
        return None
    return Scrubbed(name, md.mismatches(array) * SECTOR)


def judge(found: Scrubbed, level: str) -> bool:
    """Say what a scrub found; whether nothing has to be done about it. Pure, but for the log."""
    if found.name == names.array(names.CACHE):
        # It was never synchronised: what was not written yet differs, and is not read.
        log.info("%s: everything can be read", found.name)
        return True
    if not found.differing:
        log.info("%s: everything can be read, and no copy differs", found.name)
        return True
    if level in (RaidLevel.RAID1, RaidLevel.RAID10):
        # A guest that changes memory while it is being written leaves two versions of what it does not need.
        log.warning("%s: copies of %d bytes differ, which on a mirror may be harmless", found.name, found.differing)
        return True
    log.error(
        "%s: data and parity of %d bytes do not agree: a disk, its cable or the memory changes data without an error "
        "(compare the disks with smartctl; a rebuild would spread it)",
        found.name,
        found.differing,
    )
    return False


def run(machine: Machine) -> bool:
    """Scrub all arrays, one after the other; false when one of them shows what an operator has to look at."""
    signal.signal(signal.SIGTERM, _end)
    good = True
    for name, array in arrays(machine):
        try:
            found = scrub(name, array)
        except HatcheryError as error:
            log.error("%s: %s", name, error)  # noqa: TRY400 - it says all there is to say
            good = False
            continue
        good = (found is None or judge(found, array.level)) and good
    return good


def _end(_number: int, _frame: FrameType | None) -> None:
    """Being stopped is no error: the check that runs is broken off on the way out."""
    sys.exit(0)
