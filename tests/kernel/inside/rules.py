"""The rules of the data path, broken on purpose and looked at. Sizes in bytes."""

import hashlib
import mmap
import os
from pathlib import Path

from appliance import config, wait
from appliance.errors import NotFound
from appliance.host import bcache, thin
from appliance.host.dm import Dm, Target
from appliance.model import MIB, SECTOR, Access, Extent
from appliance.run import Runner
from appliance.store import cache, durable
from appliance.store.machine import Machine
from appliance.store.names import Layer, parse_layer
from appliance.store.pool import Pool
from tests.kernel.inside import volumes

_BCACHE = Path("/sys/block/bcache0/bcache")
_SETS = Path("/sys/fs/bcache")

POISON = b"another tenant's secret ".ljust(SECTOR, b"*")


# --- settings of the cache


def _setting(name: str) -> Path:
    path = _BCACHE / name
    return path if path.exists() else next(_SETS.glob("*-*")) / name


def setting(name: str) -> str:
    """A setting of the cached device or of the cache set."""
    return bcache.chosen(_setting(name).read_text(encoding="ascii").strip())


def set_setting(name: str, value: str) -> None:
    """Break it."""
    _setting(name).write_text(value, encoding="ascii")


def attach_anew() -> None:
    """Take the cache away and give it back, without what comes after that."""
    found = cache.device(Machine(config.load()))
    assert found.set_uuid
    bcache.detach(found.backing)
    bcache.attach(found.backing, found.set_uuid)


def register_cache() -> None:
    """Give the kernel a cache that came back while the store was in use, without what comes after that."""
    found = cache.holder(Machine(config.load()))
    assert found
    bcache.register(found.device)
    assert cache.device(Machine(config.load())).set_uuid, "bcache attaches it by itself"


def counted(requests: int) -> int:
    """Bytes that bcache says went past it, once it has counted ``requests`` requests: its counters lag."""
    backing = cache.device(Machine(config.load())).backing

    def settled() -> bool:
        found = bcache.totals(backing)
        return found.hits + found.misses + found.bypass_hits + found.bypass_misses >= requests

    wait.until(settled, f"bcache to have counted {requests} requests", deadline=50, interval=0.5)
    return bcache.totals(backing).bypassed


def empty_until_bypassed() -> int:
    """Empty the cache, again and again, until requests of others went past it meanwhile; bytes that did."""
    backing = cache.device(Machine(config.load())).backing

    def bypassed() -> int | None:
        volumes.store().cold()
        return bcache.totals(backing).bypassed or None

    return wait.until(bypassed, "requests that come while the cache is away", deadline=100, interval=1)


def cache_writes() -> int:
    """Bytes written to the cache's partition so far."""
    counters = volumes.store().counters().cache
    if counters is None:
        raise NotFound("the cache is gone")
    return counters.write_bytes


def read_through(path: str, mib: int, piece: int = MIB) -> None:
    """Read from the beginning in large pieces, past the page cache."""
    volumes.digest(path, mib, piece)


# --- the pool's table


def reload_pool(*, without: str = "", adding: str = "") -> None:
    """Run the pool with one feature less or more."""
    with Dm() as dm:
        (target,) = dm.table(durable.POOL)
        words = target.params.split()
        fixed, features = words[:4], words[5:]
        features = [word for word in features if word != without] + ([adding] if adding else [])
        params = " ".join([*fixed, str(len(features)), *features])
        dm.reload(durable.POOL, [Target(target.start, target.length, target.kind, params)])


def pool_features() -> list[str]:
    """The features in the table that the kernel runs."""
    with Dm() as dm:
        return sorted(thin.parse_pool_table(dm.table(durable.POOL)[0].params)[1])


def pool_used() -> int:
    """Bytes of the pool's data that are allocated, after a commit."""
    volume = Pool.open(Dm())
    os.sync()
    return volume.status().data_used


def pool_mode() -> str:
    """The pool's mode."""
    return str(Pool.open(Dm()).status().mode)


# --- what the doctor sees


def unseal(name: str) -> None:
    """A template's device that can be written."""
    with Dm() as dm:
        dm.reload(name, dm.table(name), access=Access.READ_WRITE)


def udev_record(name: str, line: str) -> str:
    """Have udev's database say something of a device; returns the record's file."""
    with Dm() as dm:
        file = Path(f"/run/udev/data/b{dm.info(name).number}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{line}\n", encoding="ascii")
    return str(file)


# --- rule 3


def leave_secrets(thin_id: int, mib: int) -> None:
    """A tenant fills a volume and is deleted: its blocks are free, with what was in them."""
    pool = Pool.open(Dm())
    pool.create_thin(thin_id)
    path = pool.activate_staging(thin_id, mib * MIB)
    volumes.write(path, POISON * (mib * MIB // SECTOR))
    pool.deactivate(thin_id)
    pool.delete(thin_id)


def write_one_sector_a_block(thin_id: int, mib: int) -> str:
    """The next tenant writes one sector of each block of a new volume."""
    pool = Pool.open(Dm())
    pool.create_thin(thin_id)
    path = pool.activate_staging(thin_id, mib * MIB)
    fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, SECTOR) as buffer:
            buffer[:] = b"M" * SECTOR
            for at in range(0, mib * MIB, pool.block_bytes):
                os.pwrite(fd, buffer, at + 8 * SECTOR)
        os.fsync(fd)
    finally:
        os.close(fd)
    return str(path)


def sectors_like(path: str, mib: int) -> dict[str, int]:
    """How many sectors of a volume hold the secret, its own mark, zeros, something else."""
    found = {"secret": 0, "own": 0, "zero": 0, "other": 0}
    kinds = {POISON: "secret", b"M" * SECTOR: "own", bytes(SECTOR): "zero"}
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, MIB) as buffer:
            for at in range(0, mib * MIB, MIB):
                os.preadv(fd, [buffer], at)
                for offset in range(0, MIB, SECTOR):
                    found[kinds.get(buffer[offset : offset + SECTOR], "other")] += 1
    finally:
        os.close(fd)
    return found


# --- a bad sector under one clone


def find_content(needle_hex: str) -> int:
    """Where in the pool's data device a sector with this content is (in sectors). Raises NotFound."""
    needle = bytes.fromhex(needle_hex)
    with Dm() as dm:
        path = dm.path(durable.DATA)
    used = Pool.open(Dm()).status().data_used
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, MIB) as buffer:
            for at in range(0, used + MIB, MIB):
                os.preadv(fd, [buffer], at)
                where = buffer.find(needle)
                if where >= 0:
                    return (at + where) // SECTOR
    finally:
        os.close(fd)
    raise NotFound("the content is not in the pool")


def break_data(first: int, count: int) -> None:
    """Sectors of the pool's data device that fail from now on, whatever is below."""
    with Dm() as dm:
        (target,) = dm.table(durable.DATA)
        device, offset = target.params.split()
        after = first + count
        parts = [
            Target(0, first, "linear", f"{device} {offset}"),
            Target(first, count, "error", ""),
            Target(after, target.length - after, "linear", f"{device} {int(offset) + after}"),
        ]
        dm.reload(durable.DATA, parts)


def dust_data(first: int, count: int) -> None:
    """Sectors of the pool's data device that cannot be read until they are written: a disk's own bad sectors."""
    Runner().run(["modprobe", "dm-dust"])
    with Dm() as dm:
        (target,) = dm.table(durable.DATA)
        device, offset = target.params.split()
        dm.reload(durable.DATA, [Target(0, target.length, "dust", f"{device} {offset} 512")])
        begin = int(offset) + first  # dm-dust counts from the beginning of the device below it
        for sector in range(begin, begin + count):
            Runner().run(["dmsetup", "message", durable.DATA, "0", "addbadblock", str(sector)])
        Runner().run(["dmsetup", "message", durable.DATA, "0", "enable"])


# --- volumes with something inside


def plain_volume(thin_id: int, mib: int) -> str:
    """A thin volume without a retry layer."""
    pool = Pool.open(Dm())
    pool.create_thin(thin_id)
    return str(pool.activate_staging(thin_id, mib * MIB))


def empty_template(thin_id: int, mib: int) -> str:
    """A template that holds nothing."""
    pool = Pool.open(Dm())
    pool.create_thin(thin_id)
    return str(pool.activate_template(thin_id, mib * MIB, Access.READ_ONLY))


def deactivate(thin_id: int) -> None:
    """Take a volume's devices away."""
    Pool.open(Dm()).deactivate(thin_id)


def bare_clone(thin_id: int, template: int, mib: int) -> str:
    """A clone as it would be without its retry layer."""
    pool = Pool.open(Dm())
    pool.create_snapshot(thin_id, template)
    return str(pool.activate_staging(thin_id, mib * MIB))


def write_mark(clone: int, sector: int) -> str:
    """Write a sector that exists once in the pool into a clone; returns it in hex."""
    mark = f"the mark of clone {clone} ".encode().ljust(SECTOR, b"#")
    volumes.write(f"/dev/mapper/hatchery-clone-{clone}", mark, sector * SECTOR)
    return mark.hex()


_BROKEN = Path("/run/lab")


def break_whole(name: str) -> None:
    """Every request to a device fails from now on; it must be mended later."""
    with Dm() as dm:
        (target,) = dm.table(name)
        (_BROKEN / name).write_text(f"{target.length} {target.kind} {target.params}", encoding="ascii")
        dm.reload(name, [Target(0, target.length, "error", "")])


def mend_whole(name: str) -> None:
    """Undo ``break_whole``."""
    length, kind, params = (_BROKEN / name).read_text(encoding="ascii").split(" ", 2)
    with Dm() as dm:
        dm.reload(name, [Target(0, int(length), kind, params)])


# --- rule 2


def importing_template(thin_id: int, mib: int) -> str:
    """A template that is not sealed yet."""
    pool = Pool.open(Dm())
    pool.create_thin(thin_id)
    return str(pool.activate_template(thin_id, mib * MIB, Access.READ_WRITE))


def check_sealed(device: str) -> None:
    """Ask the service whether it would prefetch from a device."""
    from appliance.service.sealed import check_sealed as check  # the rest here has no use for the service

    check(Path(device))


def content_at_its_places(thin_id: int, extents: list[tuple[int, int]]) -> tuple[int, str]:
    """Extents of a sealed volume (offset, length), read where they are said to lie in the pool's data.

    Their bytes, and their digest.
    """
    with Dm() as dm:
        device, places = Pool.open(dm).places(thin_id, [Extent(*extent) for extent in extents])
    found = hashlib.sha256()
    with device.open("rb", buffering=0) as file:
        for place in places:
            found.update(os.pread(file.fileno(), place.length, place.offset))
    return sum(place.length for place in places), found.hexdigest()


def reads_by_layer() -> dict[str, int]:
    """Bytes read so far from all devices of each layer."""
    found = {layer.value: 0 for layer in Layer}
    with Dm() as dm:
        for entry in dm.list():
            parsed = parse_layer(entry.name)
            if parsed is not None:
                stat = Path(f"/sys/block/dm-{entry.number.minor}/stat").read_text(encoding="ascii").split()
                found[parsed[0].value] += int(stat[2]) * SECTOR
    return found
