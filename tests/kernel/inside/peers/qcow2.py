"""qcow2 overlays on one raw image, on ext4 over the array. Their cache is the page cache; NVMe has no part in it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from appliance.run import Runner
from tests.kernel.inside.peers import disks
from tests.kernel.inside.peers.peer import Creating, Io, Peer
from tests.kernel.inside.peers.server import Server

FOLDER = Path("/run/peers/array")


def _file(path: Path) -> dict[str, Any]:
    """A file through the page cache, QEMU's default: with O_DIRECT the overlays would share nothing at all."""
    return {"driver": "file", "filename": str(path), "aio": "threads", "discard": "unmap"}


class Qcow2(Peer, Creating):
    name = "qcow2 overlays"

    def __init__(self) -> None:
        self._server = Server("qcow2")
        self._base = FOLDER / "base.raw"
        self._clones: list[str] = []
        self._made = 0

    @contextmanager
    def running(self, golden: Path) -> Iterator[None]:
        device = disks.make_array()
        try:
            with ExitStack() as stack:
                with disks.unhurried():
                    stack.enter_context(disks.mounted(device, FOLDER))
                    disks.copy(golden, self._base)
                stack.callback(self._server.stop)
                self._server.start()
                self._server.add_node("base", {"driver": "raw", "file": _file(self._base), "read-only": True})
                yield
        finally:
            disks.stop_array()

    def cold(self) -> None:
        disks.drop_page_cache()

    def hatch(self, count: int) -> list[str]:
        uris = []
        for _ in range(count):
            self._made += 1
            node = f"clone{self._made}"
            overlay = self._create(node)
            self._server.add_node(node, {"driver": "qcow2", "file": _file(overlay), "backing": "base"})
            self._clones.append(node)
            uris.append(self._server.export(node))
        return uris

    def _create(self, name: str) -> Path:
        overlay = FOLDER / f"{name}.qcow2"
        Runner().run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self._base, overlay])
        return overlay

    def drop(self) -> None:
        for node in self._clones:
            self._server.remove(node)
            (FOLDER / f"{node}.qcow2").unlink()
        self._clones.clear()

    def io(self) -> Io:
        return Io(disks.array_reads(), 0)

    def reach(self, present: int) -> None:
        overlays = sorted(FOLDER.glob("many*.qcow2"))
        for surplus in overlays[present:]:
            surplus.unlink()
        if len(overlays) < present:
            first = self._create("first").rename(FOLDER / "pattern")
            # Copies of an empty overlay are what qemu-img makes.
            for number in range(len(overlays), present):
                (FOLDER / f"many{number:05}.qcow2").write_bytes(first.read_bytes())
            first.unlink()

    def create(self) -> None:
        self._create("extra")

    def remove(self) -> None:
        (FOLDER / "extra.qcow2").unlink()

    def space(self) -> int:
        return disks.used(FOLDER)
