"""A retry layer over a device that can be broken, without a store: ``NAME`` over ``NAME-below`` over a disk."""

import mmap
import os
import time

from appliance.host import multipath
from appliance.host.dm import Dm, Target
from appliance.run import Runner

SECTORS = 2048 * 16


def _linear(number: int) -> Target:
    return Target(0, SECTORS, "linear", f"/dev/ubd{'abcdefg'[number]} 0")


def make(number: int) -> str:
    """A retry layer over the beginning of a disk; returns its name."""
    name = f"hatchery-clone-{number}"
    below = f"below-{number}"
    Runner().run(["modprobe", "--all", "dm-multipath", "dm-round-robin"])
    params = f"3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 /dev/mapper/{below} 1"
    with Dm() as dm:
        dm.create(below, f"LAB-{below}", [_linear(number)])
        dm.create(name, f"HATCHERY-clone-{number}", [Target(0, SECTORS, multipath.KIND, params)])
    return name


def break_all(number: int) -> None:
    """Every request fails from now on."""
    with Dm() as dm:
        dm.reload(f"below-{number}", [Target(0, SECTORS, "error", "")])


def break_sectors(number: int, first: int, count: int) -> None:
    """Requests that touch these sectors fail from now on."""
    after = first + count
    disk = f"/dev/ubd{'abcdefg'[number]}"
    parts = [Target(0, first, "linear", f"{disk} 0"), Target(first, count, "error", "")]
    parts.append(Target(after, SECTORS - after, "linear", f"{disk} {after}"))
    with Dm() as dm:
        dm.reload(f"below-{number}", parts)


def mend(number: int) -> None:
    """It works again."""
    with Dm() as dm:
        dm.reload(f"below-{number}", [_linear(number)])


def read(number: int, sector: int) -> dict[str, object]:
    """Read 4 KiB, past the page cache: whether it came, and the seconds that it took."""
    begin = time.monotonic()
    fd = os.open(f"/dev/mapper/hatchery-clone-{number}", os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4096) as buffer:
            os.preadv(fd, [buffer], sector * 512)
        error = 0
    except OSError as failure:
        error = failure.errno or -1
    finally:
        os.close(fd)
    return {"errno": error, "seconds": time.monotonic() - begin}


def state(number: int) -> dict[str, object]:
    """The path's state, how often it failed, and whether requests are held when it does."""
    name = f"hatchery-clone-{number}"
    with Dm() as dm:
        path = multipath.path_status(dm, name)
        return {"active": path.active, "failures": path.failures, "holds": multipath.is_queueing(dm, name)}


def stop_holding(number: int) -> None:
    """What the kernel's own time limit does."""
    with Dm() as dm:
        multipath.let_go(dm, f"hatchery-clone-{number}")
