"""What all peers are built on: an array of the lab's slow disks, one NVMe drive, and what both have done. In bytes."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance import wait
from appliance.host import block
from appliance.host.dm import Dm
from appliance.model import MIB
from appliance.run import Runner
from tests.kernel.inside import setup

ARRAY = Path("/dev/md/peers")
CHUNK_KIB = 64
"""As the product's array has it."""

REST = 0.5
"""Seconds without a write after which disks are taken to rest. md writes its superblocks 0.2 s after the last write."""

_SERVERS = ("qemu-storage-daemon", "nbdkit", "hatcheryd", "hatchery-retry")


def nvme() -> Path:
    """The NVMe drive."""
    return Path(setup.drives()[0]).resolve()


def delay(milliseconds: int) -> None:
    """Make each request to the backend's disks take so long: 0 while something is built, which is not measured."""
    run = Runner().run
    for number, link in enumerate(setup.disks(), start=1):
        name = f"lab-disk-{number}"
        sectors = block.get(link).size // 512
        table = f"0 {sectors} delay /dev/ubd{'abcdefg'[number]} 0 {milliseconds}"
        run(["dmsetup", "load", name], stdin=table)
        run(["dmsetup", "suspend", "--noudevsync", name])
        run(["dmsetup", "resume", "--noudevsync", name])


@contextmanager
def unhurried() -> Iterator[None]:
    """Nothing is slow while the block runs."""
    before = _delay()
    delay(0)
    try:
        yield
    finally:
        delay(before)


def _delay() -> int:
    table = Runner().run(["dmsetup", "table", "lab-disk-1"]).stdout.split()
    return int(table[5])


def make_array() -> Path:
    """RAID5 of all slow disks, as the product makes it, in sync by definition: nothing is resynchronised meanwhile."""
    words = ["mdadm", "--create", str(ARRAY), "--run", "--level=5", f"--chunk={CHUNK_KIB}", "--metadata=1.2"]
    disks = [str(Path(link).resolve()) for link in setup.disks()]
    Runner().run([*words, "--bitmap=none", "--assume-clean", f"--raid-devices={len(disks)}", *disks])
    if not ARRAY.exists():
        ARRAY.parent.mkdir(exist_ok=True)
        ARRAY.symlink_to(f"../{array_name()}")
    return ARRAY


def array_name() -> str:
    """The kernel's name of the array of the slow disks, whoever made it; of two the larger. Raises RuntimeError."""
    found = [(block.get(f"/dev/{path.name}").size, path.name) for path in Path("/sys/block").glob("md*")]
    if not found:
        raise RuntimeError("no array runs")
    return max(found)[1]


def stop_array() -> None:
    """Stop the array and make its disks and the NVMe drive blank, as far as anything recognises them."""
    run = Runner().run
    for path in Path("/sys/block").glob("md*"):
        run(["mdadm", "--stop", f"/dev/{path.name}"])
    ARRAY.unlink(missing_ok=True)
    for disk in (*map(Path, setup.disks()), nvme()):
        blank(disk.resolve())


def blank(device: Path) -> None:
    """Forget what a whole disk holds: its first and last MiB become zeros, its partitions go."""
    size = block.get(device).size
    for offset in (0, size - MIB):
        block.zero(device, offset, MIB)
    Runner().run(["blockdev", "--rereadpt", device], check=False)


def copy(source: Path, target: Path) -> None:
    """Copy an image to a device or file, past the page cache where that works, and flush."""
    Runner().run(
        ["dd", f"if={source}", f"of={target}", "bs=4M", "oflag=direct", "conv=fsync,notrunc", "status=none"],
        timeout=600,
    )


def drop_page_cache() -> None:
    """Nothing is in the machine's own memory afterwards, and nothing waits to be written."""
    os.sync()
    block.write_text(Path("/proc/sys/vm/drop_caches"), "3")


def rest() -> None:
    """Write out what waits to be written, and return when no disk has written anything for a while.

    What a clone's making and removal leave to be written would take the time of whatever is measured next: dm-delay
    looks at its clock all the time while it holds a request. Raises DeadlineExceeded.
    """
    os.sync()
    devices = [block.get(path) for path in (*map(Path, setup.disks()), nvme())]
    seen: list[tuple[int, float]] = []

    def quiet() -> bool:
        written = sum(block.statistics(device).writes for device in devices)
        busy = any(block.inflight(device) for device in devices)
        if busy or not seen or seen[-1][0] != written:
            seen.append((written, time.monotonic()))
        return time.monotonic() - seen[-1][1] > REST

    wait.until(quiet, "the disks to rest", deadline=60, interval=0.05)


def array_reads() -> int:
    """Bytes read from the array so far."""
    return block.statistics(block.get(f"/dev/{array_name()}")).read_bytes


def written_bytes(path: Path) -> int:
    """Bytes written to a device so far."""
    return block.statistics(block.get(path)).write_bytes


def used(folder: Path) -> int:
    """Bytes that a file system has in use."""
    os.sync()
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@contextmanager
def mounted(device: Path, folder: Path) -> Iterator[Path]:
    """A new ext4 on a device, mounted while the block runs."""
    run = Runner().run
    folder.mkdir(parents=True, exist_ok=True)
    run(["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", device], timeout=300)
    run(["mount", "-o", "noatime", device, folder])
    try:
        yield folder
    finally:
        run(["umount", folder])
        shutil.rmtree(folder, ignore_errors=True)


def leftovers() -> list[str]:
    """What of a peer is still there: servers, devices, arrays, caches, mounts."""
    with Dm() as dm:
        found = [f"device {entry.name}" for entry in dm.list() if not entry.name.startswith("lab-disk-")]
    found += [f"array {path.name}" for path in Path("/sys/block").glob("md*") if (path / "md/level").exists()]
    found += [f"cache set {path.name}" for path in Path("/sys/fs/bcache").glob("*-*")]
    mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    found += [f"mount {line.split()[1]}" for line in mounts if line.startswith(("/dev/md", "/dev/ubd", "/dev/mapper"))]
    return found + [f"process {name}" for name in running(*_SERVERS)]


def running(*names: str) -> list[str]:
    """Which of these programs run. Scripts go by the name of their file."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        said = {Path(word.decode(errors="replace")).name for word in words[:3] if word}
        found += [name for name in names if name in said]
    return found


def settle() -> None:
    """Wait until nothing of a peer is left. Raises DeadlineExceeded, with what is left in the words."""
    try:
        wait.until(lambda: not leftovers(), "the peer to be gone", deadline=30, interval=0.2)
    except Exception as error:
        error.add_note(f"still there: {', '.join(leftovers())}")
        raise
