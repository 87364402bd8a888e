"""LVM's thin pool with lvmcache: its data on the array, cached on NVMe, its metadata on NVMe. LVM's own tools alone."""

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance.errors import HatcheryError
from appliance.host.dm import Dm
from appliance.model import GIB, KIB, MIB
from appliance.run import Runner
from tests.kernel.inside import lvm
from tests.kernel.inside.peers import disks
from tests.kernel.inside.peers.peer import Creating, Io, Peer
from tests.kernel.inside.peers.server import Server, host_device

GROUP = "peers"
CHUNK = 64 * KIB
"""Of the pool, as the product's has it, and of the cache: the smallest that both have in common."""

CACHE_BYTES = GIB
_METADATA = 64 * MIB
_POOL = f"{GROUP}/pool"


class LvmThin(Peer, Creating):
    name = "LVM thin, lvmcache"

    def __init__(self) -> None:
        self._server = Server("lvm")
        self._settings = ""
        self._size = 0
        self._clones: list[str] = []
        self._made = 0
        self._many = 0

    def _lvm(self, *words: str) -> None:
        Runner().run([words[0], "--config", self._settings, *words[1:]], timeout=300)

    @contextmanager
    def running(self, golden: Path) -> Iterator[None]:
        self._size = golden.stat().st_size
        try:
            with ExitStack() as stack:
                with disks.unhurried():
                    self._make(disks.make_array().resolve(), disks.nvme())
                    stack.callback(self._unmake)
                    disks.copy(golden, Path(f"/dev/{GROUP}/base"))
                    self._lvm("lvchange", "-y", "-pr", f"{GROUP}/base")
                    self._attach_cache()
                stack.callback(self._server.stop)
                self._server.start()
                yield
        finally:
            disks.stop_array()

    def _make(self, array: Path, nvme: Path) -> None:
        self._settings = (
            f'devices {{ filter=["a|^{array}$|","a|^{nvme}$|","r|.*|"] use_devicesfile=0'
            " obtain_device_list_from_udev=0 } activation { udev_sync=0 udev_rules=0 monitoring=0"
            " } backup { backup=0 archive=0 }"
        )
        self._lvm("pvcreate", "-ff", "-y", str(array), str(nvme))
        self._lvm("vgcreate", GROUP, str(array), str(nvme))
        self._lvm("lvcreate", "-y", "-L", f"{_METADATA}b", "-n", "poolmeta", GROUP, str(nvme))
        self._lvm("lvcreate", "-y", "-l", "95%PVS", "-n", "pool", GROUP, str(array))
        words = ["--type", "thin-pool", "--chunksize", f"{CHUNK}b", "--poolmetadata", f"{GROUP}/poolmeta"]
        self._lvm("lvconvert", "-y", *words, "--poolmetadataspare", "n", _POOL)
        self._lvm("lvcreate", "-y", "-V", f"{self._size}b", "--thin", "-n", "base", _POOL)

    def _unmake(self) -> None:
        # The disks are made blank afterwards: to remove a thousand snapshots one by one would take many minutes.
        self._lvm("vgchange", "-an", GROUP)

    def _attach_cache(self) -> None:
        self._lvm("lvcreate", "-y", "-an", "-L", f"{CACHE_BYTES}b", "-n", "fast", GROUP, str(disks.nvme()))
        words = ["--cachevol", f"{GROUP}/fast", "--chunksize", f"{CHUNK}b", "--cachemode", "writethrough"]
        self._lvm("lvconvert", "-y", "--type", "cache", *words, _POOL)

    def cold(self) -> None:
        self._lvm("lvconvert", "-y", "--uncache", _POOL)
        self._attach_cache()
        disks.drop_page_cache()
        if self._cached_blocks():
            raise RuntimeError(f"the new cache holds {self._cached_blocks()} blocks")

    def _cached_blocks(self) -> int:
        """Blocks in the cache, or promoted to it at this moment (Documentation/admin-guide/device-mapper/cache.rst)."""
        with Dm() as dm:
            (name,) = [e.name for e in dm.list() if e.name.startswith(f"{GROUP}-pool_tdata") and "corig" not in e.name]
        words = Runner().run(["dmsetup", "status", name]).stdout.split()
        return int(words[6].split("/")[0])

    def hatch(self, count: int) -> list[str]:
        names = [f"clone{self._made + number}" for number in range(1, count + 1)]
        self._made += count
        uris = []
        for name in names:
            # -pr of the base is inherited; -kn: active at once.
            self._lvm("lvcreate", "-y", "-s", "-kn", "-prw", "-n", name, f"{GROUP}/base")
            self._clones.append(name)
            self._server.add_node(name, host_device(Path(f"/dev/{GROUP}/{name}")))
            uris.append(self._server.export(name))
        return uris

    def drop(self) -> None:
        for name in self._clones:
            self._server.remove(name)
        if self._clones:
            self._lvm("lvremove", "-y", *(f"{GROUP}/{name}" for name in self._clones))
        self._clones.clear()

    def io(self) -> Io:
        return Io(disks.array_reads(), self._cache_written())

    def _cache_written(self) -> int:
        with Dm() as dm:
            names = [entry.name for entry in dm.list() if entry.name == f"{GROUP}-fast_cvol-cdata"]
        return sum(disks.written_bytes(Path("/dev/mapper") / name) for name in names)

    # What clones cost

    def reach(self, present: int) -> None:
        if present < self._many:
            raise RuntimeError("the snapshots that are there stay until the end")
        if not self._many:
            self._lvm("lvcreate", "-y", "-s", "-n", "snap1", f"{GROUP}/base")
            self._many = 1
        if present > self._many:
            lvm.add_snapshots(self._lvm, GROUP, self._many, present - self._many)
            self._many = present

    def create(self) -> None:
        self._lvm("lvcreate", "-y", "-s", "-n", "extra", f"{GROUP}/base")

    def remove(self) -> None:
        with contextlib.suppress(HatcheryError):
            self._lvm("lvremove", "-y", f"{GROUP}/extra")

    def space(self) -> int:
        words = Runner().run(["dmsetup", "status", f"{GROUP}-pool-tpool"]).stdout.split()
        metadata, data = (int(word.split("/")[0]) for word in words[4:6])
        return metadata * 4096 + data * CHUNK
