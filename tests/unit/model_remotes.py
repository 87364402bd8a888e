"""A model of other NBD servers: their disks are files here."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from appliance.catalog import Identity
from appliance.errors import NotReady
from appliance.host.storage_daemon import Server
from appliance.service.remotes import Disk


@dataclass
class ModelRemotes:
    """Disks by the name of their export. A server that is ``away`` answers nobody."""

    folder: Path
    disks: dict[str, bytes] = field(default_factory=dict)
    boot_sets: dict[str, str] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    """Those that may be written there."""
    away: bool = False
    opened: set[int] = field(default_factory=set)
    identities: list[Identity | None] = field(default_factory=list)

    def tell(self, gone: Callable[[int], None]) -> None:
        """Nobody's device goes here."""

    def open(self, thin_id: int, server: Server, identity: Identity | None) -> Disk:
        self.identities.append(identity)
        if self.away or server.export not in self.disks:
            raise NotReady(f"{server} cannot be read", why="Connection refused")
        path = self.folder / f"far-{thin_id}"
        path.write_bytes(self.disks[server.export])
        self.opened.add(thin_id)
        return Disk(path, len(self.disks[server.export]), server.export not in self.written)

    def boot_set(self, thin_id: int, server: Server) -> str | None:
        assert thin_id in self.opened
        return self.boot_sets.get(server.export)

    def close(self, thin_id: int) -> None:
        self.opened.discard(thin_id)

    def clear(self, keep: Collection[int]) -> None:
        self.opened &= set(keep)

    def leave(self) -> None:
        """They go on."""
