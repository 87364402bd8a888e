"""What a storage daemon offers, and where: exports and addresses, with their options in QEMU's words.

The disks are opened with O_DIRECT, so that a full pool is told to the guest at once (rule 4) and nothing acknowledged
lives in a page cache only.

An export shows a node of QEMU's raw driver, which passes on what it is asked, and has the device below it. Limits are a
throttle filter (docs/throttle.txt) between the two, which an export without limits lacks: at each change of what a
daemon exports QEMU stops and restarts all filters, for 40 us each. The node above is there for a filter that comes
later: another device below an export in use is not to be had, another one below a node that is exported is. Each
filter is alone in its group, because members of a group share its limits and take turns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.model import NO_LIMITS, Limits

IOTHREAD = "io0"
"""Id of the thread that serves all exports of a daemon."""

SHOWN = "shown0"
"""Id of what a daemon shows to a server that it asks."""


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a daemon listens: a unix socket, or an address and a TCP port, there with ``tls`` or without."""

    path: Path | None = None
    address: str | None = None
    port: int | None = None
    tls: bool = False

    def words(self) -> dict[str, str]:
        """As QEMU's SocketAddress."""
        if self.path is not None:
            return {"type": "unix", "path": str(self.path)}
        return {"type": "inet", "host": str(self.address), "port": str(self.port)}


@dataclass(frozen=True, slots=True)
class Export:
    """A block device, or a file with a disk's content, offered under a name and held to limits.

    ``node`` names it inside the daemon, its filter's group as well, and is never used twice.
    """

    node: str
    name: str
    device: Path
    limits: Limits = NO_LIMITS
    writable: bool = True
    file: bool = False

    @property
    def limited(self) -> bool:
        """Whether it is held to anything."""
        return self.limits != NO_LIMITS

    @property
    def filter(self) -> str:
        """The name of its filter's node, if it has one."""
        return f"{self.node}-limit"

    def disk(self, aio: str) -> dict[str, Any]:
        """The options of the device, or of the file: that is in memory, past which there is nothing."""
        if self.file:
            return {"driver": "file", "filename": str(self.device), "read-only": not self.writable}
        return {
            "driver": "host_device",
            "filename": str(self.device),
            "read-only": not self.writable,
            "cache": {"direct": True},
            "aio": aio,
            "discard": "unmap",
        }

    def throttle(self) -> dict[str, int]:
        """The limits as QEMU's ThrottleLimits. All that we ever set are named: what is not named stays as it was."""
        return {"iops-total": self.limits.iops or 0, "bps-total": self.limits.bandwidth or 0}

    def group(self) -> dict[str, Any]:
        """The options of the filter's group."""
        return {"qom-type": "throttle-group", "id": self.node, "limits": self.throttle()}

    def throttled(self, aio: str) -> dict[str, Any]:
        """The options of the filter's node, with the device in it. Its group must be there."""
        words = {"driver": "throttle", "node-name": self.filter, "throttle-group": self.node}
        return {**words, **self._how(), "file": self.disk(aio)}

    def blockdev(self, aio: str) -> dict[str, Any]:
        """The options of the node that is exported, with all that is below it. The group of one with limits must be
        there.
        """
        return self._shown(self.throttled(aio) if self.limited else self.disk(aio))

    def under_filter(self) -> dict[str, Any]:
        """The options of that node when its filter is a node already."""
        return self._shown(self.filter)

    def _shown(self, below: dict[str, Any] | str) -> dict[str, Any]:
        return {"driver": "raw", "node-name": self.node, **self._how(), "file": below}

    def _how(self) -> dict[str, Any]:
        # A node that does not say so keeps discards for itself.
        return {"read-only": not self.writable, "cache": {"direct": not self.file}, "discard": "unmap"}

    def export(self) -> dict[str, Any]:
        """The export's options."""
        return {
            "type": "nbd",
            "id": self.node,
            "node-name": self.node,
            "name": self.name,
            "writable": self.writable,
            "iothread": IOTHREAD,
            # Else a filter that comes later brings all of it into the main thread with it.
            "fixed-iothread": True,
        }


@dataclass(frozen=True, slots=True)
class Server:
    """An export of another NBD server, by TCP; with ``tls`` the daemon shows its client's certificate."""

    host: str
    port: int
    export: str
    tls: bool = False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nbd{'s' if self.tls else ''}://{host}:{self.port}/{self.export}"


@dataclass(frozen=True, slots=True)
class Passed(Export):
    """What another server exports, passed on read-only. Its ``device`` is none.

    A request waits up to ``patience`` seconds for a server that went away, and fails then; those that follow fail at
    once until it is back. ``opening``: seconds in which it must be reached at first.
    """

    server: Server = Server("", 0, "")
    patience: int = 0
    opening: int = 0

    @property
    def far(self) -> str:
        """The name of the node that asks the server."""
        return f"{self.node}-far"

    def disk(self, aio: str) -> dict[str, Any]:  # noqa: ARG002  nothing is opened here
        """The options of the node that asks. That it may be written, if the server allows it, only shows if it does."""
        words = {
            "driver": "nbd",
            "node-name": self.far,
            "server": {"type": "inet", "host": self.server.host, "port": str(self.server.port)},
            "export": self.server.export,
            "read-only": False,
            "auto-read-only": True,
            "reconnect-delay": self.patience,
            "open-timeout": self.opening,
            "cache": {"direct": True},
        }
        return words | ({"tls-creds": SHOWN} if self.server.tls else {})
