"""qemu-storage-daemon for the peers, started as the product starts its own: one thread, past the page cache."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance import wait
from appliance.host import storage_daemon
from appliance.host.qmp import Qmp
from appliance.host.storage_daemon import Export, Files, Listen, ServerConfig
from appliance.nbd_server import launch
from appliance.run import Process, Runner

_END = 180.0
"""Seconds that a daemon may take to end: in the lab each page that 50 clients' buffers took is unmapped by itself."""

AIO = storage_daemon.aio_engine()


def host_device(path: Path) -> dict[str, Any]:
    """A block device as the product opens it."""
    return Export("", "", path).disk(AIO)


class Server:
    """A daemon on a unix socket, with exports that come and go."""

    def __init__(self, name: str) -> None:
        self._files = Files(Path("/run/peers") / name)
        self._process: Process | None = None

    def start(self) -> None:
        """Start it, without exports."""
        self._files.folder.mkdir(parents=True)
        config = ServerConfig("peers", Listen(path=self._files.socket), ())
        self._process = launch(storage_daemon.command(config, self._files, AIO), self._files, Runner())

    def add_node(self, node: str, options: Mapping[str, Any]) -> None:
        """Open an image or device."""
        with Qmp(self._files.qmp) as qmp:
            qmp.execute("blockdev-add", {**options, "node-name": node})

    def export(self, node: str) -> str:
        """Offer a node; its URI."""
        with Qmp(self._files.qmp) as qmp:
            qmp.execute("block-export-add", Export(node, node, Path()).export())
        return f"nbd+unix:///{node}?socket={self._files.socket}"

    def remove(self, node: str) -> None:
        """Offer a node no more, and close it."""
        with Qmp(self._files.qmp) as qmp:
            qmp.execute("block-export-del", {"id": node, "mode": "hard"})
            qmp.wait_event("BLOCK_EXPORT_DELETED", {"id": node})
            qmp.execute("blockdev-del", {"node-name": node})

    def stop(self) -> None:
        """End it; fine when it does not run."""
        if self._process is not None:
            with Qmp(self._files.qmp) as qmp:
                qmp.execute("quit")
            self._process.wait(_END)
            self._process = None
        shutil.rmtree(self._files.folder, ignore_errors=True)


def quit_daemon(files: Files) -> None:
    """End a daemon that somebody else started, and remove its files; fine when there is none."""
    if files.qmp.exists():
        pid = int(files.pid.read_text(encoding="ascii"))
        with Qmp(files.qmp) as qmp:
            qmp.execute("quit")
        wait.until(lambda: not Path(f"/proc/{pid}").exists(), "the storage daemon to end", deadline=_END)
    shutil.rmtree(files.folder, ignore_errors=True)
