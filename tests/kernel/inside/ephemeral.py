"""Ephemeral clones in the fast pool: what they read, keep and give back. Each story asserts what it tells."""

import fcntl
import mmap
import os
import struct
import time
from pathlib import Path

from appliance import wait
from appliance.errors import InvalidInput, Refused
from appliance.host.dm import Dm
from appliance.model import KIB, MIB, SECTOR, Access
from appliance.store.names import Layer
from appliance.store.pool import Pool
from tests.kernel.inside import disks, rules, volumes
from tests.kernel.inside.pools import raises

_BLKDISCARD = 0x1277


def fast() -> Pool:
    """The running fast pool."""
    return Pool.open(Dm(), "fast")


def origin(template: int, mib: int) -> Path:
    """The device of a sealed template."""
    return Path(volumes.activate_template(template, mib))


def clone(thin_id: int, template: int, mib: int, *, template_mib: int = 0) -> str:
    """A new ephemeral clone, active; returns its device."""
    pool = fast()
    pool.create_thin(thin_id)
    return str(pool.activate_ephemeral(thin_id, mib * MIB, origin(template, template_mib or mib)))


def again(thin_id: int, template: int, mib: int) -> str:
    """The device of an ephemeral clone that exists, after a start."""
    return str(fast().activate_ephemeral(thin_id, mib * MIB, origin(template, mib)))


def read(path: str | Path, offset: int, length: int) -> bytes:
    """Read past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, length) as buffer:
            assert os.preadv(fd, [buffer], offset) == length
            return buffer[:length]
    finally:
        os.close(fd)


def discard(path: str | Path, offset: int, length: int) -> None:
    """What TRIM becomes."""
    fd = os.open(path, os.O_WRONLY)
    try:
        fcntl.ioctl(fd, _BLKDISCARD, struct.pack("=QQ", offset, length))
    finally:
        os.close(fd)


def writes_stay_its_own() -> None:
    """A clone begins as its template; what it writes is seen by itself alone; it takes only what it wrote."""
    digest = volumes.make_template(1, 16)
    pool = fast()
    used = pool.status().data_used
    one, two = clone(2, 1, 16), clone(3, 1, 16)
    assert volumes.digest(one, 16) == digest
    assert pool.mapped_bytes(2) == 0
    mine = volumes.content(2, 1)
    volumes.write(one, mine, 3 * MIB)
    assert read(one, 3 * MIB, MIB) == mine
    assert pool.mapped_bytes(2) == MIB
    assert volumes.digest(two, 16) == digest
    assert volumes.digest(str(origin(1, 16)), 16) == digest
    # 512 bytes of a block of 64 KiB: the rest of the block still reads as the template.
    volumes.write(two, b"x" * SECTOR, 5 * MIB + 10 * SECTOR)
    block = read(two, 5 * MIB, 64 * KIB)
    template = volumes.content(1, 16)[5 * MIB : 5 * MIB + 64 * KIB]
    assert block == template[: 10 * SECTOR] + b"x" * SECTOR + template[11 * SECTOR :]
    assert pool.active() == {2: {Layer.EPHEMERAL}, 3: {Layer.EPHEMERAL}}
    assert Pool.open(Dm()).active() == {1: {Layer.TEMPLATE}}
    assert pool.thin_ids() == {2, 3}
    assert pool.exists(2)
    assert not Pool.open(Dm()).exists(2)
    for thin_id in (2, 3):
        pool.deactivate(thin_id)
        pool.delete(thin_id)
    assert pool.status().data_used == used
    assert volumes.digest(str(origin(1, 16)), 16) == digest


def larger_than_its_template() -> None:
    """Past the template's end a clone reads zeros, also in a block that holds the end; it can be written there."""
    size = 3 * MIB + 8 * SECTOR
    durable = Pool.open(Dm())
    durable.create_thin(11)
    template = durable.activate_template(11, size, Access.READ_WRITE)
    data = volumes.content(11, 4)[:size]
    volumes.write(template, data)
    template = durable.activate_template(11, size, Access.READ_ONLY)
    pool = fast()
    pool.create_thin(12)
    path = pool.activate_ephemeral(12, 8 * MIB, template)
    assert read(path, 0, 4 * MIB) == data.ljust(4 * MIB, b"\0")
    assert read(path, 4 * MIB, 4 * MIB) == bytes(4 * MIB)
    volumes.write(path, b"y" * SECTOR, 3 * MIB + 64 * SECTOR)
    expected = bytearray(data.ljust(4 * MIB, b"\0"))
    expected[3 * MIB + 64 * SECTOR : 3 * MIB + 65 * SECTOR] = b"y" * SECTOR
    assert read(path, 0, 4 * MIB) == bytes(expected)
    pool.deactivate(12)
    assert read(pool.activate_ephemeral(12, 16 * MIB, template), 0, 4 * MIB) == bytes(expected)
    pool.deactivate(12)
    pool.delete(12)


def trim_shows_the_template() -> None:
    """A trimmed block reads as the template again, gives its space back, and is no wipe (rule 15)."""
    volumes.make_template(21, 4)
    pool = fast()
    used = pool.status().data_used
    path = clone(22, 21, 4)
    volumes.write(path, b"z" * MIB, MIB)
    assert pool.mapped_bytes(22) == MIB
    discard(path, MIB, MIB)
    assert read(path, 0, 4 * MIB) == volumes.content(21, 4)
    assert pool.mapped_bytes(22) == 0
    pool.deactivate(22)
    pool.delete(22)
    assert pool.status().data_used == used


def new_blocks_hold_nobody_elses_data() -> None:
    """Blocks that another clone gave back hold the template, or zeros past its end, but never what was in them."""
    volumes.make_template(31, 4)
    pool = fast()
    first = clone(32, 31, 16, template_mib=4)
    volumes.write(first, rules.POISON * (16 * MIB // SECTOR))
    pool.deactivate(32)
    pool.delete(32)
    path = clone(33, 31, 64, template_mib=4)
    for at in range(0, 64 * MIB, pool.block_bytes):
        volumes.write(path, b"M" * SECTOR, at + 8 * SECTOR)
    found = rules.sectors_like(path, 64)
    assert found["secret"] == 0, found
    assert found["own"] == 64 * 16
    data = bytearray(volumes.content(31, 4))
    for at in range(0, 4 * MIB, pool.block_bytes):
        data[at + 8 * SECTOR : at + 9 * SECTOR] = b"M" * SECTOR
    assert read(path, 0, 4 * MIB) == bytes(data)
    pool.deactivate(33)
    pool.delete(33)


def an_origin_must_be_sealed() -> None:
    """Nothing that can change may lie below an ephemeral clone."""
    durable, pool = Pool.open(Dm()), fast()
    durable.create_thin(41)
    writable = durable.activate_template(41, MIB, Access.READ_WRITE)
    pool.create_thin(42)
    with raises(Refused, "sealed"):
        pool.activate_ephemeral(42, MIB, writable)
    durable.create_thin(43)
    for other in (durable.activate_clone(43, MIB), Path("/dev/mapper/hatchery-template-99")):
        with raises(Refused, "sealed"):
            pool.activate_ephemeral(42, MIB, other)
    with raises(InvalidInput):
        durable.activate_ephemeral(42, MIB, writable)
    pool.delete(42)
    for thin_id in (41, 43):
        durable.deactivate(thin_id)
        durable.delete(thin_id)


def latencies_are_counted() -> None:
    """An ephemeral clone has a histogram and counters of its own."""
    volumes.make_template(51, 4)
    path = clone(52, 51, 4)
    look = volumes.store()
    before = look.clone_latencies(52)
    volumes.digest(path, 4, request=64 * KIB)
    assert (look.clone_latencies(52) - before).total == 64
    assert look.counters([52]).clones[52].reads == 64
    fast().deactivate(52)
    fast().delete(52)


def a_large_one_goes_in_pieces() -> None:
    """A clone with much in it far out is emptied before it is deleted, and all comes back."""
    volumes.make_template(61, 1)
    pool = fast()
    used = pool.status().data_used
    path = clone(62, 61, 4096, template_mib=1)
    piece = volumes.content(6, 1)
    for at in range(20):
        volumes.write(path, piece * 6, (200 * at) * MIB)
    total = pool.status()
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT)
    os.close(fd)
    assert total.data_used - used == 120 * MIB
    pool.deactivate(62)
    pool.delete(62)
    assert pool.status().data_used == used


# The drive dies


def await_guard() -> None:
    """Wait until hatchery-retry runs with its second thread, which is the fence."""
    wait.until(lambda: bool(_guards()), "hatchery-retry", deadline=30)


def _guards() -> list[Path]:
    found = []
    for task in Path("/proc").glob("[0-9]*"):
        try:
            if b"hatchery-retry" in (task / "cmdline").read_bytes() and len(list((task / "task").iterdir())) > 1:
                found.append(task)
        except OSError:
            continue
    return found


def attempt(path: str, offset: int) -> int:
    """Read 4 KiB past the page cache: the error number, 0 when it came."""
    try:
        read(path, offset, 4096)
    except OSError as error:
        return error.errno or -1
    return 0


def dies_while_read(thin_id: int, written: int, unwritten: int, seconds: float) -> dict[str, float]:
    """Let the NVMe drive die, and read a written and an unwritten block over and over for some seconds.

    Returns how long after the death (seconds) each of them was read for the last time; 0: never.
    """
    path = f"/dev/mapper/hatchery-ephemeral-{thin_id}"
    assert attempt(path, written) == attempt(path, unwritten) == 0
    disks.fail(0)
    begin = time.monotonic()
    last = {"written": 0.0, "unwritten": 0.0}
    while time.monotonic() < begin + seconds:
        for name, offset in (("written", written), ("unwritten", unwritten)):
            if attempt(path, offset) == 0:
                last[name] = time.monotonic() - begin
    return last


def mode() -> str:
    """The fast pool's mode."""
    return str(fast().status().mode)


def identity() -> str:
    """Which pool it is."""
    return fast().identity()


def ids() -> list[int]:
    """All that the pool holds."""
    return sorted(fast().thin_ids())


def used() -> int:
    """Bytes of data that the pool has given out."""
    return fast().status().data_used


def enlarge(thin_id: int, mib: int, template: int, template_mib: int) -> str:
    """Activate a clone with another size; returns its device."""
    pool = fast()
    pool.deactivate(thin_id)
    return str(pool.activate_ephemeral(thin_id, mib * MIB, origin(template, template_mib)))
