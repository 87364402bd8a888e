"""nbdkit: one server with the cache filter over the image, and for each clone one with the cow filter over that server.

A single server with both filters is one disk for all its clients, and one with both for each clone would share nothing:
so the cache is shared and the overlay is not. The filters keep their files in $TMPDIR and lose them when they end.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance import wait
from appliance.run import Process, Runner
from tests.kernel.inside.peers import disks
from tests.kernel.inside.peers.peer import Creating, Io, Peer

ARRAY = Path("/run/peers/array")
NVME = Path("/run/peers/nvme")
_SOCKETS = Path("/run/peers/nbdkit")
_BASE = _SOCKETS / "base"
_DEADLINE = 30.0


class NbdFilters(Peer, Creating):
    name = "nbdkit, cow and cache"

    def __init__(self) -> None:
        self._image = ARRAY / "base.raw"
        self._clones: list[str] = []
        self._made = 0
        self._servers: dict[Path, Process] = {}

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
        """In the foreground: in the background it says nothing. Its 16 threads a connection are its own default."""
        pid, said = Path(f"{place}.pid"), Path(f"{place}.log")
        command = ["nbdkit", "--foreground", "--unix", str(place), "--pidfile", str(pid), *words]
        with said.open("wb") as log:
            server = Runner({"TMPDIR": str(temporary)}).start(command, stderr=log)
        self._servers[place] = server

        def listens() -> bool:
            if not server.running():
                raise RuntimeError(f"nbdkit of {place.name} ended: {said.read_text(errors='replace')[-1000:]}")
            return pid.exists() and pid.read_text() != ""

        wait.until(listens, f"nbdkit of {place.name} to listen", deadline=_DEADLINE)

    def _stop(self, place: Path) -> None:
        self._servers.pop(place).stop(_DEADLINE)
        said = Path(f"{place}.log")
        if text := said.read_text(encoding="utf-8", errors="replace").strip():
            print(f"nbdkit of {place.name} said: {text[-1000:]}", flush=True)
        for left in (said, Path(f"{place}.pid"), place):
            left.unlink(missing_ok=True)

    def _stop_all(self) -> None:
        # The clones' before that which they all ask.
        for place in reversed(list(self._servers)):
            self._stop(place)

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
        many = sorted(place.name for place in self._servers if place.name.startswith("many"))
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
