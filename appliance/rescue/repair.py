"""``hatchery-store repair``: damaged metadata of the durable pool, step by step, each of which may be cut off.

1. Look: nothing is done to metadata that is sound.
2. Copy the damaged metadata, compressed. Its name holds its digest: made again, it is the same file.
3. Make new metadata in a file: by ``thin_repair``, or of a dump when an operator says so; check that file.
4. Say which volumes it has and which the catalog has besides. Up to here nothing was changed.
5. With an operator's word: take notes, write the new metadata back, the superblock last, check it, remove the notes.
   Cut off in between, the store does not start, and the next ``repair`` goes on with the same file.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.catalog import Catalog, condition
from appliance.catalog.condition import Condition
from appliance.config import Paths
from appliance.errors import CommandFailed, NoSpace, NotReady, Refused, Unhealthy
from appliance.host import block, mount, thin
from appliance.host.thin import METADATA_BLOCK, Check
from appliance.model import KIB, MIB, SECTOR, PoolName
from appliance.progress import QUIET, Bar
from appliance.rescue import backup, bundle, stream
from appliance.rescue.bundle import Backup
from appliance.store import durable, marks, mirror, names, start
from appliance.store.machine import Machine
from appliance.store.mirror import Making

log = logging.getLogger(__name__)

_SPARE = 8 * MIB
_PIECE = MIB
_STOP = "shut the guests down and run `systemctl stop hatchery-store`, which stops their exports and the service too"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator asked for. ``work`` is where copies go; ``source`` names a backup, empty for the newest."""

    work: Path | None = None
    from_dump: bool = False
    source: str = ""
    sure: bool = False


def run(machine: Machine, wish: Wish, say: Say, bar: Bar = QUIET) -> bool:
    """Repair; True when the metadata is sound afterwards, False when it was only said what would be done.

    ``bar`` moves with what is read and written.

    Raises Refused, NotReady, NoSpace, Unhealthy.
    """
    metadata = _stopped(machine)
    paths = machine.config.paths
    machine.runner.run(["blockdev", "--flushbufs", metadata])
    if (paths.state / durable.REPAIRING).exists():
        say("An earlier repair was cut off while it wrote the new metadata: going on with that.")
        return _write_back(machine, metadata, say, bar)
    bar.begin("thin_check reads the metadata")
    if not wish.from_dump and _sound(machine, metadata, say):
        return True
    folder = wish.work or paths.state / "repair"
    folder.mkdir(mode=0o700, exist_ok=True)
    say(f"A copy of the metadata as it is: {_keep(machine, metadata, folder, bar)}")
    image = folder / "new-metadata.img"
    with contextlib.ExitStack() as undo:
        undo.callback(image.unlink, missing_ok=True)
        size = block.get(metadata).size
        bar.begin("making new metadata")
        if wish.from_dump:
            chosen = bundle.load(Path(wish.source)) if wish.source else backup.newest_dump(paths)
            _restore(machine, chosen, image, size, say)
        else:
            _repair(machine, metadata, image, size, say)
        _compare(machine, image, say)
        if not wish.sure:
            say("The metadata was not changed. Run it again with --yes to write the new metadata back.")
            return False
        notes = json.dumps({"image": str(image), "digest": stream.digest(image)})
        durable.mark_unclean(paths.state)
        _write_notes(paths, notes)
        undo.pop_all()
    return _write_back(machine, metadata, say, bar)


def _stopped(machine: Machine) -> Path:
    """All that lies under the pool is up and the pool is not; its metadata's device."""
    if machine.dm.find(durable.POOL) is not None:
        raise Refused("the pool is active", why="metadata in use cannot be repaired", hint=_STOP)
    start.raise_backend(machine)
    start.raise_state(machine, Making.FORBIDDEN)
    if mount.mounted_at(machine.config.paths.state) is None:
        raise NotReady("the state file system is not mounted", hint="run `hatchery-store up`, or give --copy-to DIR")
    return mirror.part(machine, names.PART_POOL_META).path


def _sound(machine: Machine, metadata: Path, say: Say) -> bool:
    try:
        found = thin.check(machine.runner, metadata, deadline=stream.FOREVER)
    except Unhealthy as error:
        say(f"The metadata is damaged. thin_check says: {error.why or error.what}")
        return False
    words = {Check.CLEAN: "nothing was changed", Check.MENDED: "blocks that leaked were given back"}
    say(f"The metadata is sound; {words.get(found, found)}. Next: systemctl start hatchery.target")
    return True


def _keep(machine: Machine, metadata: Path, folder: Path, bar: Bar) -> Path:
    """The copy of the damaged metadata, made unless it is there."""
    found = hashlib.sha256()
    bar.begin("reading the damaged metadata", block.get(metadata).size)
    with metadata.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
            bar.add(len(piece))
    copy = folder / f"damaged-{found.hexdigest()[:16]}.img.zst"
    if not copy.exists():
        unfinished = copy.with_suffix(".new")
        room = shutil.disk_usage(folder).free - _SPARE
        bar.begin("packing a copy of it")
        words: list[str | Path] = ["cat", metadata]
        try:
            stream.compress(machine.runner, words, unfinished, room=room, deadline=stream.FOREVER, bar=bar)
        except NoSpace as error:
            hint = "name a folder on another file system with --copy-to"
            raise NoSpace(f"{folder} has no room for the copy", why=error.why, hint=hint) from error
        unfinished.rename(copy)
        stream.sync_folder(folder)
    return copy


def _blank(image: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)


def _repair(machine: Machine, metadata: Path, image: Path, size: int, say: Say) -> None:
    """Let thin_repair make new metadata, if need be with what only others know. Raises Unhealthy."""
    _blank(image, size)
    words: list[str | Path] = ["thin_repair", "--input", metadata, "--output", image]
    try:
        try:
            machine.runner.run(words, timeout=stream.FOREVER)
        except CommandFailed as error:
            say(f"thin_repair needs help: {error.why}")
            _blank(image, size)
            machine.runner.run([*words, *_geometry(machine)], timeout=stream.FOREVER)
        machine.runner.run(["thin_check", image], timeout=stream.FOREVER)
    except CommandFailed as error:
        known = next((each for each in backup.newest(machine.config.paths) if each.dump is not None), None)
        last = f"the last dump is {known.folder.name}" if known else "there is no dump of it here"
        raise Unhealthy(
            "thin_repair cannot repair the metadata",
            why=error.why,
            hint=f"nothing was changed; {last}: `hatchery-store repair --from-dump` goes back to a dump, which loses"
            " what was made since and can mix up blocks that were given to somebody else since",
        ) from error
    say("thin_repair made metadata that thin_check finds sound.")


def _geometry(machine: Machine) -> list[str]:
    """What the superblock would have said: from the settings, the newest dump and the catalog."""
    size = machine.config.require_store().block_kib * KIB // SECTOR
    blocks = next((each.manifest.data_blocks for each in backup.newest(machine.config.paths) if each.dump), 0)
    if not blocks:
        if machine.dm.find(durable.DATA) is None:
            durable.ActivateData().apply(machine)
        blocks = block.get(machine.dm.path(durable.DATA)).size // SECTOR // size
    words = ["--data-block-size", str(size), "--nr-data-blocks", str(blocks)]
    transaction = _catalog_transaction(machine.config.paths)
    return words if transaction is None else [*words, "--transaction-id", str(transaction)]


def complete(header: bytes, data_blocks: int) -> bytes:
    """The first line of a dump, with the size of the pool: that of a running pool says 0, and thin_restore refuses."""
    return header.replace(b'nr_data_blocks="0"', f'nr_data_blocks="{data_blocks}"'.encode())


@contextlib.contextmanager
def _unpacked(machine: Machine, known: Backup, plain: Path) -> Iterator[Path]:
    plain.parent.mkdir(mode=0o700, exist_ok=True)
    if known.dump is None:
        raise Unhealthy(f"the backup {known.folder.name} has no dump", why=known.manifest.no_dump)
    try:
        size = known.manifest.data_blocks
        stream.decompress(machine.runner, known.dump, plain, lambda header: complete(header, size))
        yield plain
    finally:
        plain.unlink(missing_ok=True)


def _restore(machine: Machine, chosen: Backup, image: Path, size: int, say: Say) -> None:
    """Make new metadata of a dump. Raises Unhealthy, CommandFailed."""
    say(f"The dump {chosen.folder.name} shows the pool at transaction {chosen.manifest.transaction_id}.")
    say("What guests wrote since into new blocks is lost, and a block that changed hands since shows the new content.")
    _blank(image, size)
    with _unpacked(machine, chosen, image.with_suffix(".xml")) as plain:
        machine.runner.run(["thin_restore", "--input", plain, "--output", image], timeout=stream.FOREVER)
    machine.runner.run(["thin_check", image], timeout=stream.FOREVER)


def _compare(machine: Machine, image: Path, say: Say) -> None:
    """Say which volumes the new metadata has and what that means for the catalog."""
    done = machine.runner.run(["thin_ls", "--no-headers", "--format", "DEV", image], timeout=stream.FOREVER)
    there = thin.parse_ids(done.stdout)
    say(f"The new metadata has {len(there)} volumes.")
    paths = machine.config.paths
    if condition.look(paths.catalog).condition is not Condition.GOOD:
        say("The catalog is not there to compare with: see `hatchery-store restore`.")
        return
    catalog = Catalog(paths.catalog)
    try:
        rows = [(t.thin_id, f"template {t.ref}") for t in catalog.templates()]
        rows += [(c.thin_id, f"clone {c.name}") for c in catalog.clones() if c.pool is PoolName.DURABLE]
    finally:
        catalog.close()
    for thin_id, name in rows:
        if thin_id not in there:
            say(f"Lost: volume {thin_id} of {name}.")
    for thin_id in sorted(there - {row[0] for row in rows}):
        say(f"Unknown to the catalog: volume {thin_id}.")


def _catalog_transaction(paths: Paths) -> int | None:
    if condition.look(paths.catalog).condition is not Condition.GOOD:
        return None
    return condition.transaction_id(paths.catalog)


def _write_notes(paths: Paths, notes: str) -> None:
    """From here on the store does not start until the metadata is written: whole or not at all, as a rename is."""
    draft = paths.state / f"{durable.REPAIRING}.new"
    marks.write(draft, notes)
    draft.rename(paths.state / durable.REPAIRING)
    stream.sync_folder(paths.state)


def _write_back(machine: Machine, metadata: Path, say: Say, bar: Bar) -> bool:
    """Write the file that the notes name over the metadata. Raises Unhealthy."""
    paths = machine.config.paths
    path = paths.state / durable.REPAIRING
    try:
        notes = json.loads(path.read_text(encoding="ascii"))
        image, digest = Path(notes["image"]), str(notes["digest"])
        good = stream.digest(image) == digest
    except (OSError, ValueError, KeyError) as error:
        hint = f"remove {path} to begin a repair anew; the copy of the damaged metadata is kept"
        raise Unhealthy("the repair that was cut off cannot go on", why=str(error), hint=hint) from error
    if not good:
        raise Unhealthy(
            f"{image} has changed",
            why="its checksum is not the one that was noted",
            hint=f"remove {path} to begin a repair anew",
        )
    try:
        copy_over(image, metadata, bar)
    except OSError as error:
        raise Unhealthy(f"cannot write to {metadata}", why=error.strerror or str(error)) from error
    machine.runner.run(["blockdev", "--flushbufs", metadata])
    bar.begin("thin_check reads the new metadata")
    machine.runner.run(["thin_check", metadata], timeout=stream.FOREVER)
    marks.remove(path)
    image.unlink()
    say("The new metadata is in place. Next: systemctl start hatchery.target")
    return True


def copy_over(image: Path, device: Path, bar: Bar = QUIET) -> None:
    """Write a sparse file's content over a device; the first block, which makes it valid, last. Raises OSError."""
    source = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    target = os.open(device, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.pwrite(target, bytes(METADATA_BLOCK), 0)
        os.fsync(target)
        extents = [(max(begin, METADATA_BLOCK), end) for begin, end in _extents(source) if end > METADATA_BLOCK]
        bar.begin("writing the new metadata", METADATA_BLOCK + sum(end - begin for begin, end in extents))
        for begin, end in extents:
            for at in range(begin, end, _PIECE):
                piece = os.pread(source, min(_PIECE, end - at), at)
                _write(target, piece, at)
                bar.add(len(piece))
        os.fsync(target)
        _write(target, os.pread(source, METADATA_BLOCK, 0), 0)
        os.fsync(target)
        bar.add(METADATA_BLOCK)
    finally:
        os.close(source)
        os.close(target)


def _write(fd: int, data: bytes, at: int) -> None:
    while data:
        done = os.pwrite(fd, data, at)
        data, at = data[done:], at + done


def _extents(fd: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data."""
    size, at = os.fstat(fd).st_size, 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, at
