"""A backup: a folder with the catalog, a dump of the durable pool's metadata, the settings, and a manifest.

20261123T031500Z/
    manifest.json       what is in it, with digests; written last
    catalog.db          the catalog at one moment
    metadata.xml.zst    thin_dump of the durable pool at the same moment, left out when there was no room for it
    conf.d/             the settings
"""

import json
import re
import shutil
import tarfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from appliance.errors import NotFound, Unhealthy
from appliance.rescue import stream

FORMAT = 1
CATALOG = "catalog.db"
DUMP = "metadata.xml.zst"
MANIFEST = "manifest.json"
CONFIG = "conf.d"
UNFINISHED = ".new"

_STAMP = re.compile(r"\d{8}T\d{6}Z")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is. ``created`` in seconds since the epoch, ``files`` are SHA-256 digests by relative path.

    ``transaction_id`` is the durable pool's, ``catalog_transaction_id`` what the catalog had for it: they differ when
    something was made at that very moment. ``data_blocks`` is the pool's size, which the dump of a running pool does
    not tell; 0 where it does. ``no_dump`` says why there is no dump, empty when there is one.
    """

    created: float
    release: str
    transaction_id: int | None
    catalog_transaction_id: int | None
    data_blocks: int
    no_dump: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is there."""

    folder: Path
    manifest: Manifest

    @property
    def catalog(self) -> Path | None:
        """The catalog's copy, if it has one."""
        return self.folder / CATALOG if CATALOG in self.manifest.files else None

    @property
    def dump(self) -> Path | None:
        """The dump, if it has one."""
        return self.folder / DUMP if DUMP in self.manifest.files else None


def parse(text: str) -> Manifest:
    """Read a manifest. Raises Unhealthy."""
    try:
        values: dict[str, Any] = json.loads(text)
        found = Manifest(**values)
        known = found.format == FORMAT and all(isinstance(value, str) for value in found.files.values())
    except (ValueError, TypeError, AttributeError) as error:
        raise Unhealthy("a backup's manifest cannot be read", why=str(error)) from error
    if not known:
        raise Unhealthy("a backup's manifest cannot be read", why=f"its format is {found.format}, not {FORMAT}")
    return found


def load(folder: Path) -> Backup:
    """The backup in a folder, its files compared with their digests. Raises Unhealthy, NotFound."""
    try:
        manifest = parse((folder / MANIFEST).read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFound(f"{folder} is not a backup", why=error.strerror or str(error)) from error
    for name, digest in manifest.files.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Unhealthy(f"the backup {folder.name} is damaged", why=f"it names the file {name}")
        try:
            found = stream.digest(folder / name)
        except OSError as error:
            raise Unhealthy(f"the backup {folder.name} is damaged", why=f"{name}: {error.strerror}") from error
        if found != digest:
            raise Unhealthy(f"the backup {folder.name} is damaged", why=f"{name} has changed since it was written")
    return Backup(folder, manifest)


def folders(base: Path) -> tuple[Path, ...]:
    """The folders of finished backups below ``base``, the newest first."""
    if not base.is_dir():
        return ()
    return tuple(sorted((path for path in base.iterdir() if _STAMP.fullmatch(path.name)), reverse=True))


def free_name(base: Path, now: float) -> Path:
    """Where a backup of this moment goes: names are in the order of time, also for the second one of a second."""
    while (folder := base / time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))).exists():
        now += 1
    return folder


def finish(unfinished: Path, manifest: Manifest, final: Path) -> Backup:
    """Write the manifest and give the folder its name: from here on it is a backup, before it was none."""
    path = unfinished / MANIFEST
    with path.open("w", encoding="utf-8") as file:
        file.write(manifest.text())
    for child in (path, *(unfinished / name for name in manifest.files)):
        with child.open("rb") as file:
            stream.sync(file.fileno())
    for folder in (unfinished, *(child for child in unfinished.iterdir() if child.is_dir())):
        stream.sync_folder(folder)
    unfinished.rename(final)
    stream.sync_folder(final.parent)
    return Backup(final, manifest)


def prune(base: Path, keep: int) -> tuple[Path, ...]:
    """Remove all but the newest ``keep`` backups and the newest one that has a dump; returns what went."""
    found = folders(base)
    kept = set(found[:keep])
    with_dump = next((folder for folder in found if (folder / DUMP).exists()), None)
    gone = tuple(folder for folder in found if folder not in kept and folder != with_dump)
    for folder in gone:
        # Renamed first: cut off in between, it is no backup any more, and the next run removes the rest.
        rest = folder.with_name(folder.name + UNFINISHED)
        folder.rename(rest)
        shutil.rmtree(rest)
    return gone


def write_tar(backup: Backup, target: IO[bytes]) -> None:
    """The backup as one tar archive."""
    with tarfile.open(fileobj=target, mode="w|") as archive:
        archive.add(backup.folder, arcname=backup.folder.name)


def save_tar(backup: Backup, folder: Path) -> Path:
    """The backup as an archive in a folder, whole or not at all, for its owner alone; returns its path."""
    final = folder / f"hatchery-{backup.folder.name}.tar"
    unfinished = final.with_suffix(UNFINISHED)
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600)
        with unfinished.open("wb") as file:
            write_tar(backup, file)
            file.flush()
            stream.sync(file.fileno())
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    unfinished.rename(final)
    stream.sync_folder(folder)
    return final


def unpack_tar(source: IO[bytes], base: Path) -> Path:
    """Unpack an archive that ``write_tar`` made below ``base``; returns the backup's folder. Raises Unhealthy."""
    try:
        with tarfile.open(fileobj=source, mode="r|*") as archive:
            archive.extractall(base, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise Unhealthy("the archive cannot be unpacked", why=str(error)) from error
    found = folders(base)
    if not found:
        raise NotFound(
            "the archive holds no backup",
            why="its files are others",
            hint="give one that `hatchery store backup` wrote",
        )
    return found[0]
