"""The appliance's settings: what the operator wants the store to be.

They live in ``/etc/hatchery/conf.d/*.toml``, one file for each part of the store, read in the order of their names.
The verbs of ``hatchery-store setup`` write them; a person may read them.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from appliance.errors import InvalidInput, NotReady

E = TypeVar("E", bound=StrEnum)


class RaidLevel(StrEnum):
    """RAID levels of the backend array."""

    RAID1 = "raid1"
    RAID5 = "raid5"
    RAID6 = "raid6"
    RAID10 = "raid10"

    @property
    def minimum_disks(self) -> int:
        """How many disks the level needs to be redundant."""
        return {"raid1": 2, "raid5": 3, "raid6": 4, "raid10": 4}[self.value]


class CacheMode(StrEnum):
    """Modes of the cache. ``writearound`` is left out on purpose (rule 1)."""

    WRITETHROUGH = "writethrough"
    WRITEBACK = "writeback"


@dataclass(frozen=True, slots=True)
class Paths:
    """Where things are; the tests put them elsewhere."""

    etc: Path = Path("/etc/hatchery")
    state: Path = Path("/var/lib/hatchery")
    run: Path = Path("/run/hatchery")

    @property
    def conf_d(self) -> Path:
        """The drop-in files that ``load`` reads."""
        return self.etc / "conf.d"

    @property
    def api_socket(self) -> Path:
        """The unix socket of the API."""
        return self.run / "api.sock"

    @property
    def read_socket(self) -> Path:
        """The same API for those who may look and change nothing."""
        return self.run / "read" / "api.sock"

    @property
    def catalog(self) -> Path:
        """The catalog's database file, on the mirrored state file system."""
        return self.state / "catalog.db"

    @property
    def measurements(self) -> Path:
        """What measurements of boots came to, as those who made them told."""
        return self.state / "measurements.json"

    @property
    def orphans_doubted(self) -> Path:
        """There while volumes that the catalog does not know may be somebody's: nobody collects them by himself."""
        return self.state / "orphans.doubted"

    @property
    def connected(self) -> Path:
        """Since when clients are connected: what hatcheryd saw, for the next one."""
        return self.run / "connected.json"

    @property
    def given_up(self) -> Path:
        """Why the last update was given up, in words; not there when it was not, or an operator did it himself."""
        return self.run / "update-given-up"

    def nbd(self, client: str) -> Path:
        """The run-time folder of one client's storage daemon."""
        return self.run / "nbd" / client

    def seeds(self, client: str) -> Path:
        """Where the seeds of a client's clones are, for its storage daemon alone to read."""
        return self.run / "seeds" / client

    @property
    def nvme(self) -> Path:
        """Where root leaves word of what the kernel's NVMe target is to offer."""
        return self.run / "nvme"

    def tls(self, client: str) -> Path:
        """Where root leaves the key and certificates that the client's storage daemon is started with."""
        return self.run / "tls" / client


def said(words: str) -> dict[str, str]:
    """What a setting means, which docs/settings.md says."""
    return {"help": words}


@dataclass(frozen=True, slots=True)
class NvmeConfig:
    """The cache drive. Sizes in bytes; 0 means the rule of ``appliance.store``."""

    devices: tuple[str, ...] = field(
        metadata=said("The NVMe drives, one or two, by names below /dev/disk/by-id; two mirror cache and metadata")
    )
    meta_bytes: int = field(
        default=0,
        metadata=said("Size of the partition for the metadata mirror; 0: a fiftieth of the drive, 256 MiB to 18 GiB"),
    )
    fast_bytes: int = field(
        default=0,
        metadata=said("Size of the partition of the fast pool; 0: a quarter of what is free. The cache gets the rest"),
    )


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """The array of slow disks."""

    level: RaidLevel = field(metadata=said("How the disks are made redundant"))
    disks: tuple[str, ...] = field(
        metadata=said("The disks, by names below /dev/disk/by-id; one more than there were makes the array grow")
    )
    chunk_kib: int = field(default=64, metadata=said("Piece of the array on one disk, in KiB"))


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Cache and pools. ``state_bytes`` 0 means the rule of ``appliance.store``.

    ``reserve_percent`` of the durable pool's data device is held back until an operator releases it (rule 4).
    ``overcommit_percent`` limits what may be promised: the sizes of all clones of a pool, against its data space; 0
    means no limit.
    """

    cache_mode: CacheMode = field(
        default=CacheMode.WRITETHROUGH, metadata=said("writeback takes a cache that is mirrored on two drives")
    )
    block_kib: int = field(default=64, metadata=said("Size of a pool's block, the unit of space, in KiB"))
    state_bytes: int = field(
        default=0,
        metadata=said("Size of the file system with the catalog; 0: a quarter of the mirror, 64 MiB to 2 GiB"),
    )
    reserve_percent: int = field(
        default=5, metadata=said("Of the durable pool's space, what is held back until an operator releases it")
    )
    overcommit_percent: int = field(
        default=0, metadata=said("At most so much of a pool's space is promised to clones; 0: no limit")
    )


@dataclass(frozen=True, slots=True)
class Config:
    """All settings; a part that was not set up yet is None."""

    nvme: NvmeConfig | None = None
    backend: BackendConfig | None = None
    store: StoreConfig | None = None
    paths: Paths = field(default_factory=Paths)

    def require_nvme(self) -> NvmeConfig:
        """The cache drive's settings. Raises NotReady when there are none."""
        if self.nvme is None:
            raise _missing("the NVMe cache", "nvme_cache")
        return self.nvme

    def require_backend(self) -> BackendConfig:
        """The backend's settings. Raises NotReady when there are none."""
        if self.backend is None:
            raise _missing("the backend array", "backend_raid")
        return self.backend

    def require_store(self) -> StoreConfig:
        """The store's settings. Raises NotReady when there are none."""
        if self.store is None:
            raise _missing("the store", "clone_store")
        return self.store


def _missing(part: str, role: str) -> NotReady:
    return NotReady(f"{part} is not set up", why="its settings are missing", hint=f"run the role {role}")


class Part(StrEnum):
    """The parts of the store that have a settings file of their own."""

    NVME = "nvme"
    BACKEND = "backend"
    STORE = "store"

    @property
    def file_name(self) -> str:
        """Name of the part's file in ``conf.d``."""
        return {"nvme": "10-nvme.toml", "backend": "20-backend.toml", "store": "30-store.toml"}[self.value]


Section = NvmeConfig | BackendConfig | StoreConfig


_NUMBERS = (
    "meta_bytes",
    "fast_bytes",
    "state_bytes",
    "chunk_kib",
    "block_kib",
    "reserve_percent",
    "overcommit_percent",
)
"""Settings that are whole numbers from 0."""


def parse_section(part: Part, values: Mapping[str, Any], source: str) -> Section:
    """Turn a mapping from TOML or JSON into the settings of one part.

    Raises InvalidInput for an unknown key, a wrong type or a value out of range, naming ``source``.
    """
    kinds: dict[Part, type[Section]] = {
        Part.NVME: NvmeConfig,
        Part.BACKEND: BackendConfig,
        Part.STORE: StoreConfig,
    }
    kind = kinds[part]
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise InvalidInput(
            f"{source}: [{part}] has unknown settings",
            why=", ".join(unknown),
            hint=f"known are: {', '.join(sorted(known))}",
        )
    arguments = dict(values)
    for key in ("devices", "disks"):
        if key in arguments:
            arguments[key] = _paths(arguments[key], f"{source}: {part}.{key}")
    if "level" in arguments:
        arguments["level"] = _choice(RaidLevel, arguments["level"], f"{source}: {part}.level")
    if "cache_mode" in arguments:
        arguments["cache_mode"] = _choice(CacheMode, arguments["cache_mode"], f"{source}: {part}.cache_mode")
    for key in _NUMBERS:
        if key in arguments:
            arguments[key] = _whole(arguments[key], f"{source}: {part}.{key}")
    try:
        return kind(**arguments)
    except TypeError as error:
        raise InvalidInput(f"{source}: [{part}] is not complete", why=str(error)) from error


def _paths(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not value:
        raise InvalidInput(
            f"{where} is not a list of devices", why=f"it is {value!r:.60}", hint="give /dev/disk/by-id/... paths"
        )
    for item in value:
        if not isinstance(item, str) or not item.startswith("/dev/disk/by-id/") or ".." in item:
            raise InvalidInput(
                f"{where}: {item!r} is not a stable device name",
                why="names like sda change between boots",
                hint="use /dev/disk/by-id/...",
            )
    if len(set(value)) != len(value):
        raise InvalidInput(
            f"{where} names a device twice", why="each has one part in the store", hint="name another one"
        )
    return tuple(value)


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput(
            f"{where}: {value!r} is not a whole number from 0",
            why="it is less, or of another kind",
            hint="for example 5",
        )
    return value


def _choice(kind: type[E], value: object, where: str) -> E:
    try:
        return kind(str(value))
    except ValueError as error:
        choices = ", ".join(kind)
        raise InvalidInput(
            f"{where}: {value!r} is not a choice",
            why="it is none of those that there are",
            hint=f"choose one of: {choices}",
        ) from error


def render_section(part: Part, section: Section) -> str:
    """The part's settings file as text, stable for equal settings."""
    lines = ["# Written by `hatchery-store setup`: change it through the roles, not here.", f"[{part}]"]
    for key, value in asdict(section).items():
        # JSON's strings, integers and arrays of strings are valid TOML values.
        lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def load(paths: Paths | None = None) -> Config:
    """Read all settings. Missing files mean parts that are not set up. Raises InvalidInput."""
    paths = paths or Paths()
    sections: dict[str, Any] = {}
    for part in Part:
        file = paths.conf_d / part.file_name
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{file} cannot be read", why=str(error)) from error
        if set(values) != {part.value} or not isinstance(values[part.value], dict):
            raise InvalidInput(
                f"{file} must hold the section [{part}] and nothing else",
                why=f"it holds {', '.join(map(str, values)) or 'nothing'}",
                hint="run the role, which writes it",
            )
        sections[part.value] = parse_section(part, values[part.value], str(file))
    return Config(**sections, paths=paths)
