"""The limit: the image on the raw array, served as clones are. All clients read the one. (For NVMe see Hatchery.)"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kernel.inside.peers import disks
from tests.kernel.inside.peers.peer import Io, Peer
from tests.kernel.inside.peers.server import Server, host_device


class RawArray(Peer):
    name = "raw array"

    def __init__(self) -> None:
        self._server = Server("raw-array")
        self._uri = ""

    @contextmanager
    def running(self, golden: Path) -> Iterator[None]:
        device = disks.make_array()
        try:
            with ExitStack() as stack:
                with disks.unhurried():
                    disks.copy(golden, device)
                stack.callback(self._server.stop)
                self._server.start()
                self._server.add_node("raw", host_device(device))
                self._uri = self._server.export("raw")
                yield
        finally:
            disks.stop_array()

    def cold(self) -> None:
        disks.drop_page_cache()

    def hatch(self, count: int) -> list[str]:
        return [self._uri] * count

    def drop(self) -> None:
        """There are none."""

    def io(self) -> Io:
        return Io(disks.array_reads(), 0)
