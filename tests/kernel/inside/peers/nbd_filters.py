"""nbdkit: one server with the cache filter over the image, and for each clone one with the cow filter over that server.

A single server with both filters is one disk for all its clients, and one with both for each clone would share nothing:
so the cache is shared and the overlay is not. The filters keep their files in $TMPDIR and lose them when they end.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance import wait
from appliance.run import Runner
from tests.kernel.inside.peers import disks
from tests.kernel.inside.peers.peer import Creating, Io, Peer

ARRAY = Path("/run/peers/array")
NVME = Path("/run/peers/nvme")
_SOCKETS = Path("/run/peers/nbdkit")
_BASE = _SOCKETS / "base"
_DEADLINE = 30.0


class NbdFilters(Peer, Creating):
    name = "nbdkit, cow and cache"
    most = 100
    """A process for each clone: a thousand are more than this machine has memory for."""

    def __init__(self) -> None:
        self._image = ARRAY / "base.raw"
        self._clones: list[str] = []
        self._made = 0

    @contextmanager
    def running(self, golden: Path) -> Iterator[None]:
        device = disks.make_array()
        try:
            with ExitStack() as stack:
                with disks.unhurried():
                    stack.enter_context(disks.mounted(device, ARRAY))
                    stack.enter_context(disks.mounted(disks.nvme(), NVME))
                    disks.copy(golden, self._image)
                _SOCKETS.mkdir(parents=True)
                stack.callback(_SOCKETS.rmdir)
                stack.callback(self._stop_all)
                self._start_base()
                yield
        finally:
            disks.stop_array()

    def _start_base(self) -> None:
        self._start(_BASE, NVME, ["--filter=cache", "file", str(self._image), "cache-on-read=true"])

    def _start(self, place: Path, temporary: Path, words: list[str]) -> None:
        """nbdkit forks away once it listens. Its 16 threads a connection are its own default."""
        command = ["nbdkit", "--unix", str(place), "--pidfile", f"{place}.pid", *words]
        Runner({"TMPDIR": str(temporary)}).run(command)
        # It listens by now, but the process that went on writes its number a moment later.
        pid = Path(f"{place}.pid")
        wait.until(lambda: pid.exists() and pid.read_text(), f"{pid.name} of nbdkit", deadline=_DEADLINE)

    def _stop(self, place: Path) -> None:
        pid = int(Path(f"{place}.pid").read_text(encoding="ascii"))
        with contextlib.suppress(ProcessLookupError):  # it may have died by itself
            os.kill(pid, signal.SIGTERM)
        wait.until(lambda: not Path(f"/proc/{pid}").exists(), f"nbdkit of {place.name} to end", deadline=_DEADLINE)
        Path(f"{place}.pid").unlink()
        place.unlink(missing_ok=True)

    def _stop_all(self) -> None:
        for pid in sorted(_SOCKETS.glob("*.pid")):
            self._stop(pid.with_suffix(""))

    def cold(self) -> None:
        empty = self._without_cache()
        self._start_base()
        disks.drop_page_cache()
        if disks.used(NVME) > empty + 64 * 1024:
            raise RuntimeError(f"the new cache holds {disks.used(NVME) - empty} bytes")

    def _without_cache(self) -> int:
        self._stop(_BASE)
        return disks.used(NVME)

    def hatch(self, count: int) -> list[str]:
        uris = []
        for _ in range(count):
            self._made += 1
            name = f"clone{self._made}"
            self._begin(name)
            self._clones.append(name)
            uris.append(f"nbd+unix:///?socket={_SOCKETS / name}")
        return uris

    def _begin(self, name: str) -> None:
        # Without the policy a server repeats what its storage likes best, and clients obey: 64 KiB at least.
        policy = ["--filter=blocksize-policy", "blocksize-minimum=512", "blocksize-error-policy=allow"]
        self._start(_SOCKETS / name, ARRAY, [policy[0], "--filter=cow", "nbd", f"socket={_BASE}", *policy[1:]])

    def drop(self) -> None:
        for name in self._clones:
            self._stop(_SOCKETS / name)
        self._clones.clear()

    def io(self) -> Io:
        """The cache's bytes are what its file occupies: it is never written twice."""
        return Io(disks.array_reads(), disks.used(NVME))

    def reach(self, present: int) -> None:
        many = sorted(path.stem for path in _SOCKETS.glob("many*.pid"))
        for name in many[present:]:
            self._stop(_SOCKETS / name)
        for number in range(len(many), present):
            self._begin(f"many{number:04}")

    def create(self) -> None:
        self._begin("extra")

    def remove(self) -> None:
        self._stop(_SOCKETS / "extra")

    def space(self) -> int:
        return disks.used(ARRAY)
