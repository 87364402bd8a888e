"""The service's side of the kernel tier: images, and guests that are played by QEMU's own NBD client."""

import hashlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from appliance import wait
from appliance.client import connect
from appliance.errors import HatcheryError
from appliance.host.dm import Dm
from appliance.model import KIB, MIB, Health, ImageFormat
from appliance.run import Runner
from appliance.schema import CloneCreate, TemplateCreate, UploadSource
from appliance.store import clone_counters
from appliance.store.names import parse_layer
from appliance.store.pool import Pool

IMAGE_MIB = 24


def content(seed: int = 1, size: int = IMAGE_MIB * MIB) -> bytes:
    """An image with data at both ends and holes between, different for each seed."""
    piece = b"".join(hashlib.sha256(f"{seed}:{n}".encode()).digest() for n in range(2 * MIB // 32))
    return piece + bytes(size // 2 - len(piece)) + piece[::-1] + bytes(size - size // 2 - len(piece))


def up() -> None:
    """Wait until the API answers."""

    def answers() -> bool:
        try:
            with connect() as client:
                client.status()
        except HatcheryError:
            return False
        return True

    wait.until(answers, "hatcheryd", deadline=120)


def make_images(folder: str = "/run/images") -> dict[str, str]:
    """Image files of several kinds, by name."""
    where = Path(folder)
    where.mkdir(exist_ok=True)
    raw = where / "disk.raw"
    raw.write_bytes(content())
    run = Runner().run
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, where / "plain.qcow2"])
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", raw, where / "packed.qcow2"])
    run(["qemu-img", "create", "-f", "qcow2", "-b", raw, "-F", "raw", where / "backed.qcow2"])
    run(["qemu-img", "create", "-f", "qcow2", where / "huge.qcow2", "64G"])
    options = f"data_file={where}/outside.raw,data_file_raw=on"
    run(["qemu-img", "create", "-f", "qcow2", "-o", options, where / "outside.qcow2", "24M"])
    run(["xz", "--keep", "-0", raw])
    run(["zstd", "--quiet", where / "plain.qcow2"])
    (where / "disk.raw.gz").write_bytes(b"not packed at all")
    cut = (where / "plain.qcow2").read_bytes()
    (where / "cut.qcow2").write_bytes(cut[: len(cut) * 2 // 3])
    return {path.name: str(path) for path in where.iterdir()}


def add(name: str, path: str, kind: str, sha256: str | None = None, *, deadline: float = 60) -> dict[str, object]:
    """Import a file by upload and wait. Raises what it failed with."""
    file = Path(path)
    with connect() as client:
        wanted = TemplateCreate(
            name=name, format=ImageFormat(kind), source=UploadSource(), size=file.stat().st_size, sha256=sha256
        )
        operation = client.import_template(wanted)
        with file.open("rb") as source:
            blocks = iter(lambda: source.read(256 * KIB), b"")
            client.upload(name, file.stat().st_size, blocks, operation)
        client.finish(operation, deadline=deadline)
        return client.template(name).model_dump(mode="json")


def add_image(name: str, seed: int = 1) -> dict[str, object]:
    """Import ``content(seed)`` as raw."""
    path = Path(f"/run/{name}.raw")
    path.write_bytes(content(seed))
    try:
        return add(name, str(path), "raw")
    finally:
        path.unlink()


def half_an_upload(name: str, path: str, kind: str) -> None:
    """Send the first half of an image and then nothing, for as long as this runs."""
    data = Path(path).read_bytes()
    half = len(data) // 2

    def blocks() -> Iterator[bytes]:
        yield data[:half]
        wait.until(lambda: None, "the end of the test", deadline=600)

    with connect() as client:
        wanted = TemplateCreate(name=name, format=ImageFormat(kind), source=UploadSource(), size=len(data))
        client.upload(name, len(data), blocks(), client.import_template(wanted))


def cancel(kind: str) -> dict[str, object]:
    """Cancel the operation of that kind that runs, and wait for its end."""
    with connect() as client:
        [running] = [each for each in client.operations() if each.kind == kind and each.state == "running"]
        client.cancel(running.id)
        wait.until(lambda: client.operation(running.id).finished is not None, "its end", deadline=30)
        return client.operation(running.id).model_dump(mode="json")


def wait_written(least: int) -> None:
    """Wait until the pool has ``least`` bytes in use."""
    wait.until(lambda: used()["data"] >= least, f"{least} bytes to be written", deadline=30)


def clones(name: str, template: str, count: int | None = None, client: str | None = "local") -> list[dict[str, object]]:
    """Make clones."""
    with connect() as api:
        made = api.create_clones(CloneCreate(name=name, template=template, count=count, client=client))
        return [clone.model_dump(mode="json") for clone in made]


def read_back(uri: str, folder: str = "/run") -> str:
    """The digest of all that an NBD client reads from an export."""
    target = Path(folder) / "read.raw"
    try:
        Runner().run(["nbdcopy", uri, target])
        return hashlib.sha256(target.read_bytes()).hexdigest()
    finally:
        target.unlink(missing_ok=True)


def digest(seed: int = 1) -> str:
    """The digest of ``content(seed)``."""
    return hashlib.sha256(content(seed)).hexdigest()


def qemu_io(uri: str, *commands: str) -> str:
    """Run commands of qemu-io on an export."""
    words = [word for command in commands for word in ("-c", command)]
    return Runner().run(["qemu-io", "-f", "raw", *words, uri]).stdout


def used() -> dict[str, int]:
    """Space in use in the pool, and its transaction id."""
    status = Pool.open(Dm(), "durable").status()
    return {"data": status.data_used, "metadata": status.metadata_used, "transaction": status.transaction_id}


def volumes() -> list[int]:
    """Volumes that the pool has."""
    return sorted(Pool.open(Dm(), "durable").thin_ids())


def devices() -> list[str]:
    """Device-mapper devices of volumes."""
    return sorted(entry.name for entry in Dm().list() if parse_layer(entry.name) is not None)


def counters() -> dict[str, int]:
    """Bytes read from the backend and from the cache so far."""
    with connect() as client:
        found = client.counters()
    return {"backend": found.backend.read_bytes, "cache": found.cache.read_bytes if found.cache else 0}


def counted_both_ways() -> dict[str, dict[str, int]]:
    """What clones' devices have done, by asking for each and from the lists of all devices."""
    with connect() as client:
        thin_ids = frozenset(int(clone.device.rpartition("-")[2]) for clone in client.clones())
    ways = {"each": clone_counters._each, "all": clone_counters._all}
    found = {way: read(Dm(), thin_ids) for way, read in ways.items()}
    return {way: {str(thin_id): each.read_bytes for thin_id, each in of.items()} for way, of in found.items()}


def warm(ref: str) -> str:
    """Read a template into the cache; how that ended, in words."""
    with connect() as client:
        return client.finish(client.warm(ref), deadline=60).phase


def cold() -> None:
    """Empty the cache."""
    with connect() as client:
        done = client.finish(client.cold(), deadline=60)
    assert (done.counts, done.done_count) == ("steps", done.total_count), done


def status() -> dict[str, object]:
    """The appliance in one look."""
    with connect() as client:
        return client.status().model_dump(mode="json")


def daemon_pid(client: str = "local") -> int:
    """The client's storage daemon."""
    return int(Path(f"/run/hatchery/nbd/{client}/pid").read_text())


def kill_daemon(client: str = "local") -> None:
    """Kill the client's storage daemon and wait until another one serves as many clones."""
    old = daemon_pid(client)
    os.kill(old, signal.SIGKILL)

    def back() -> bool:
        try:
            with connect() as api:
                found = {c.name: c for c in api.clients()}[client]
                return daemon_pid(client) != old and found.state is Health.OK
        except (OSError, ValueError):
            return False

    wait.until(back, "another storage daemon", deadline=30)


def end_daemon(client: str = "local") -> None:
    """Kill the client's storage daemon, while there is nobody who starts another one, and wait until it is gone."""
    pidfd = os.pidfd_open(daemon_pid(client))
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 20)[0], "it did not end"
    finally:
        os.close(pidfd)


def wait_connected(client: str) -> None:
    """Wait until somebody is connected to a client's storage daemon."""

    def somebody() -> bool:
        with connect() as api:
            return any(found.connections for found in api.clients() if found.name == client)

    wait.until(somebody, "a connection", deadline=20)


def wait_gone() -> None:
    """Wait until the pool has no volume."""
    wait.until(lambda: not volumes(), "the pool to be empty", deadline=30)


def remove(name: str, force: bool) -> bool:
    """Remove a clone."""
    with connect() as client:
        return client.remove_clone(name, force=force).removed


def fill_pool() -> None:
    """Map blocks of a volume of our own until the pool's reserve is touched."""
    pool = Pool.open(Dm(), "durable")
    status = pool.status()
    size = (status.data_total - status.data_used) // MIB * MIB - 16 * MIB
    ident = 16_000_000
    pool.create_thin(ident)
    device = pool.activate_staging(ident, size)
    block = bytes([1]) * 512
    fd = os.open(device, os.O_WRONLY)
    try:
        # One sector in each block maps it; the pool zeroes the rest.
        for offset in range(0, size, pool.block_bytes):
            os.pwrite(fd, block, offset)
        os.fsync(fd)
    finally:
        os.close(fd)
