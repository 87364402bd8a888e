"""``hatchery-store restore``: a lost catalog, from the newest good backup and from what the pools hold.

The pools cannot tell a name, a size, a client or a lease: those come from the backup. What was made after it is found
in the pool as volumes that nobody knows. They are kept under names of their own, ``recovered-ID``, as clones where the
metadata tells which template they were made from, else as templates, which nobody can write to. Nothing is deleted.

Cut off at any moment, the catalog is either the old one, or absent (and the service refuses to start), or the new one.
"""

import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from appliance.catalog import condition
from appliance.catalog.condition import Condition
from appliance.catalog.recover import RestoredCatalog
from appliance.config import Paths
from appliance.errors import NotFound, NotReady, Refused
from appliance.host import thin_dump
from appliance.host.thin_dump import Volume
from appliance.model import MIB, SECTOR, CloneKind, PoolName
from appliance.rescue import backup, bundle, origins, stream
from appliance.rescue.bundle import Backup
from appliance.store import durable, fast, marks, metadata, names
from appliance.store.machine import Machine
from appliance.store.names import Layer
from appliance.store.pool import Pool

log = logging.getLogger(__name__)

LEASE_GRACE = 24 * 3600.0
"""Seconds for which no lease ends after a restore."""

_LOGS = ("-wal", "-shm")


@dataclass(frozen=True, slots=True)
class Known:
    """A template or clone of the backup. ``template`` is None for a template; ``size`` in bytes."""

    thin_id: int
    name: str
    size: int
    pool: PoolName
    template: int | None = None


@dataclass(frozen=True, slots=True)
class Adopted:
    """A volume of the durable pool that the backup does not know, with what it becomes. ``size`` in bytes."""

    thin_id: int
    name: str
    size: int
    template: int | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What the backup and the pools say together.

    ``missing`` are names whose volumes are gone. ``strange`` are volumes of the fast pool that the backup does not
    know: whose template they show is recorded nowhere else, so they cannot be named.
    """

    adopted: tuple[Adopted, ...] = ()
    missing: tuple[str, ...] = ()
    strange: tuple[int, ...] = ()


def judge(
    known: Sequence[Known],
    volumes: Mapping[int, Volume],
    in_fast: Iterable[int] | None,
    block_bytes: int,
    active: Mapping[int, int],
) -> Findings:
    """Compare. ``volumes`` are those of the durable pool; ``in_fast`` is None while the fast pool is not there.

    ``active`` are the sizes of volumes that have a device now: that is exact, while metadata knows what is mapped.
    """
    ids = {each.thin_id for each in known}
    taken = {each.name.partition("@")[0] for each in known}
    sizes = {each.thin_id: each.size for each in known if each.template is None}
    unknown = [volumes[thin_id] for thin_id in sorted(set(volumes) - ids)]
    templates = [volumes[thin_id] for thin_id in sizes if thin_id in volumes]
    adopted: list[Adopted] = []
    # In the order of their making: an origin is judged before what was made from it.
    for volume in sorted(unknown, key=lambda each: (each.created, each.thin_id)):
        origin = origins.origin_of(volume, templates)
        size = max(volume.end * block_bytes, MIB)
        if origin is not None:
            size = max(size, sizes[origin.thin_id])
        size = active.get(volume.thin_id, size)
        if origin is None:
            templates.append(volume)
            sizes[volume.thin_id] = size
        name = _free(f"recovered-{volume.thin_id}", taken)
        adopted.append(Adopted(volume.thin_id, name, size, origin.thin_id if origin else None))
    fast_ids = None if in_fast is None else set(in_fast)
    found = {PoolName.DURABLE: set(volumes), PoolName.FAST: fast_ids}
    missing = [each.name for each in known if (there := found[each.pool]) is not None and each.thin_id not in there]
    strange = sorted((fast_ids or set()) - ids)
    return Findings(tuple(adopted), tuple(missing), tuple(strange))


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "-x"
    taken.add(name)
    return name


def run(machine: Machine, source: str | None, *, empty: bool, sure: bool, say: Callable[[str], None]) -> bool:
    """Put the catalog back; True when that was done, False when it was only described (``sure`` is off).

    ``source`` is a backup's folder or archive (``-``: standard input); None means the newest good one. ``empty``
    begins without any backup. Raises NotReady, Refused, Unhealthy.
    """
    paths = machine.config.paths
    _ready(machine)
    look = condition.look(paths.catalog)
    words = {Condition.ABSENT: "is missing", Condition.DAMAGED: f"is damaged: {look.why}", Condition.GOOD: "is good"}
    say(f"The catalog {words[look.condition]}.")
    draft = paths.catalog.with_name("catalog.restored")
    for path in (draft, *(draft.with_name(draft.name + suffix) for suffix in _LOGS)):
        path.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="hatchery-") as folder:
        chosen = None if empty else _choose(paths, source, Path(folder))
        if chosen is not None and chosen.catalog is not None:
            when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(chosen.manifest.created))
            say(f"The backup {chosen.folder.name} was made at {when}.")
            # Nobody else may read it: it holds the key of the certificate authority.
            draft.touch(mode=0o600)
            shutil.copyfile(chosen.catalog, draft)
    with_backup = draft.exists()
    findings = fit(machine, draft)
    describe(findings, say)
    if not sure:
        draft.unlink()
        say("Nothing was changed. Run it again with --yes to put this in place.")
        return False
    put(paths, draft)
    origin = "the backup and the pools" if with_backup else "the pools alone"
    say(f"The catalog was made of {origin}. Next: systemctl start hatchery.target")
    return True


def _ready(machine: Machine) -> None:
    paths = machine.config.paths
    if not paths.state.is_mount() or machine.dm.find(durable.POOL) is None:
        raise NotReady("the store is not up", hint="run `hatchery-store up` first")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(paths.api_socket))
        except OSError:
            return
    raise Refused(
        "the service is running", why="it has the catalog open", hint="run `systemctl stop hatcheryd`; guests go on"
    )


def _choose(paths: Paths, source: str | None, folder: Path) -> Backup:
    if source is None:
        found = next((each for each in backup.newest(paths) if each.catalog is not None), None)
        if found is None:
            raise NotFound(
                f"there is no good backup in {backup.place(paths)}",
                hint="name one that was written elsewhere, or use --without-backup: all volumes keep their data"
                " and get new names",
            )
        return found
    chosen = bundle.load(Path(source)) if Path(source).is_dir() else bundle.load(_unpack(source, folder))
    if chosen.catalog is None:
        raise NotFound(
            f"the backup {chosen.folder.name} has no catalog", why="it was not finished", hint="choose another one"
        )
    return chosen


def _unpack(source: str, folder: Path) -> Path:
    def unpack(file: IO[bytes]) -> Path:
        return bundle.unpack_tar(file, folder)

    if source == "-":
        with os.fdopen(os.dup(0), "rb") as file:
            return unpack(file)
    try:
        with Path(source).open("rb") as file:
            return unpack(file)
    except FileNotFoundError as error:
        raise NotFound(f"{source} is not there", hint="name a backup's folder or archive on the appliance") from error


def fit(machine: Machine, draft: Path) -> Findings:
    """Make a copy of a backup's catalog (or an empty one) fit the pools. Raises Unhealthy, CannotTell."""
    now = time.time()
    pool = Pool.open(machine.dm, PoolName.DURABLE, machine.runner)
    fast_pool = Pool.open(machine.dm, PoolName.FAST, machine.runner) if machine.dm.find(fast.POOL) else None
    in_fast = fast_pool.thin_ids() if fast_pool is not None else None
    ids = pool.thin_ids()
    catalog = RestoredCatalog(draft)
    try:
        catalog.settle(ids | (in_fast or frozenset()))
        catalog.spare_leases(now + LEASE_GRACE)
        known = _known(catalog)
        findings = judge(known, _volumes(machine, known), in_fast, pool.block_bytes, _active(machine))
        for volume in findings.adopted:
            if volume.template is None:
                catalog.adopt_template(volume.thin_id, volume.name, volume.size, now)
            else:
                catalog.adopt_clone(volume.thin_id, volume.name, volume.template, volume.size, now)
        for clone in catalog.clones():
            if clone.name in findings.missing:
                # Nobody can be served it, and a client that lacks one of its clones must not lack the others.
                catalog.set_clone_client(clone.thin_id, None)
        catalog.skip_thin_ids(max((*ids, *(in_fast or ())), default=0))
        catalog.set_transaction_id(pool.status().transaction_id)
        if fast_pool is not None:
            catalog.set_transaction_id(fast_pool.status().transaction_id, PoolName.FAST)
        catalog.seal()
    finally:
        catalog.close()
    return findings


def _known(catalog: RestoredCatalog) -> list[Known]:
    known = [Known(t.thin_id, t.ref, t.size, PoolName.DURABLE) for t in catalog.templates()]
    for clone in catalog.clones():
        pool = PoolName.FAST if clone.kind is CloneKind.EPHEMERAL else PoolName.DURABLE
        known.append(Known(clone.thin_id, clone.name, clone.size, pool, clone.template))
    return known


def _active(machine: Machine) -> dict[int, int]:
    """Sizes of the volumes that have a device, in bytes, by thin id: guests go on while there is no catalog."""
    found = {}
    for entry in machine.dm.list():
        parsed = names.parse_layer(entry.name)
        if parsed is not None and parsed[0] in (Layer.THIN, Layer.TEMPLATE):
            found[parsed[1]] = sum(target.length for target in machine.dm.table(entry.name)) * SECTOR
    return found


def _volumes(machine: Machine, known: Sequence[Known]) -> dict[int, Volume]:
    """The durable pool's volumes; mappings only of those that must be compared: unknown ones and templates."""
    with metadata.snapshot(machine.dm, durable.POOL) as device:
        found = _dump(machine, device, "--skip-mappings")
        ids = {each.thin_id for each in known}
        unknown = set(found) - ids
        if unknown:
            templates = {each.thin_id for each in known if each.template is None} & set(found)
            for thin_id in sorted(unknown | templates):
                found.update(_dump(machine, device, "--dev-id", str(thin_id)))
    return found


def _dump(machine: Machine, device: Path, *options: str) -> dict[int, Volume]:
    _, volumes = thin_dump.dumped(machine.runner, device, *options, deadline=stream.FOREVER)
    return {volume.thin_id: volume for volume in volumes}


def describe(findings: Findings, say: Callable[[str], None]) -> None:
    """Say what will be."""
    for volume in findings.adopted:
        what = f"a clone of template volume {volume.template}" if volume.template is not None else "kept as a template"
        say(f"Volume {volume.thin_id} is newer than the backup: {volume.name}, {volume.size >> 20} MiB, {what}.")
    for name in findings.missing:
        say(f"{name} is in the backup and not in its pool: it was removed or reset since, or it is lost.")
    for thin_id in findings.strange:
        say(f"Volume {thin_id} of the fast pool is newer than the backup; it cannot be told what it was a clone of.")
    if not (findings.adopted or findings.missing or findings.strange):
        say("The backup and the pools agree.")


def put(paths: Paths, draft: Path) -> None:
    """Put a complete catalog in place; the one that was there is kept beside it.

    The order matters: an old log must never lie beside a new catalog, nor an old catalog without its log.
    """
    with draft.open("rb") as file:
        stream.sync(file.fileno())
    # Ephemeral clones that are newer than the backup have no name: they are for an operator to judge.
    marks.write(paths.orphans_doubted)
    aside = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for suffix in ("", *_LOGS):
        old = paths.catalog.with_name(paths.catalog.name + suffix)
        if old.exists():
            old.rename(old.with_name(f"catalog-{aside}.old{suffix}"))
            stream.sync_folder(paths.state)
    draft.rename(paths.catalog)
    stream.sync_folder(paths.state)
