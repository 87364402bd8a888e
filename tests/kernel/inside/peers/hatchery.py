"""Hatchery itself, through its API: a template, its boot set, clones that are exported to the local client."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance import config, wait
from appliance.bootset.boot_set import merge
from appliance.bootset.file import BootSetFile, dump
from appliance.bootset.trace import parse_trace
from appliance.client import Client, connect
from appliance.errors import InUse
from appliance.host import block
from appliance.host.dm import Dm
from appliance.host.storage_daemon import Files
from appliance.model import MIB, ImageFormat
from appliance.run import Runner
from appliance.schema import CloneCreate, Operation, PathSource, TemplateCreate
from appliance.store import names, nvme
from appliance.store.pool import Pool
from tests.kernel.inside import bench_clones, setup
from tests.kernel.inside.peers import disks
from tests.kernel.inside.peers.lvm_thin import CACHE_BYTES
from tests.kernel.inside.peers.peer import Creating, Io, Peer
from tests.kernel.inside.peers.server import Server, host_device, quit_daemon

TEMPLATE = "peers"
_LONG = 600.0
_META = 256 * MIB


class Hatchery(Peer, Creating):
    name = "Hatchery"

    def __init__(self) -> None:
        self._api: Client | None = None
        self._clones: list[str] = []
        self._made = 0
        self._raw = Server("raw")
        self.raw_uri = ""
        """The image on the raw NVMe drive, beside the pools, served alike."""

    @property
    def api(self) -> Client:
        if self._api is None:
            raise RuntimeError("the service does not run")
        return self._api

    @contextmanager
    def running(self, golden: Path) -> Iterator[None]:
        size = -(-golden.stat().st_size // MIB) * MIB
        try:
            with ExitStack() as stack:
                with disks.unhurried():
                    # All of the drive but the cache, which is as large as LVM's: room for the raw image.
                    whole = block.get(disks.nvme()).size
                    fast = (whole - _META - CACHE_BYTES) // MIB * MIB - 2 * MIB
                    setup.part("nvme", fast_bytes=fast)
                    setup.part("backend")
                    setup.part("store")
                    stack.callback(Runner().run, ["hatchery-store", "down"])
                    setup.in_sync()
                    stack.enter_context(Runner().start(["hatchery-retry"]))
                    stack.callback(self._stop_daemons)
                    stack.enter_context(bench_clones.daemon())
                    self._api = stack.enter_context(connect())
                    self._import(golden)
                    self._put_raw(golden, size)
                stack.callback(self._stop_serving)
                yield
        finally:
            self._api = None
            disks.stop_array()

    def _import(self, golden: Path) -> None:
        wanted = TemplateCreate(name=TEMPLATE, format=ImageFormat.RAW, source=PathSource(path=str(golden)))
        self.api.finish(self.api.import_template(wanted), deadline=_LONG)

    def _put_raw(self, golden: Path, size: int) -> None:
        """The image at the end of the fast pool's partition, which the pool, unused, fills from its beginning."""
        (part,) = nvme.parts(config.load().require_nvme(), names.PART_FAST)
        offset = (part.device.size - size) // MIB * MIB
        if offset < 64 * MIB:
            raise RuntimeError("the fast partition has no room for the raw image")
        path = part.device.path
        copy = ["dd", f"if={golden}", f"of={path}", "bs=1M", f"seek={offset // MIB}", "oflag=direct", "conv=notrunc"]
        Runner().run(copy, timeout=_LONG)
        self._raw.start()
        options = {"driver": "raw", "offset": offset, "size": golden.stat().st_size, "file": host_device(path)}
        self._raw.add_node("raw", options)
        self.raw_uri = self._raw.export("raw")

    def _stop_serving(self) -> None:
        self.drop()
        self.reach(0)
        self._raw.stop()

    @staticmethod
    def _stop_daemons() -> None:
        for folder in Path("/run/hatchery/nbd").glob("*"):
            quit_daemon(Files(folder))

    def cold(self) -> None:
        self.api.finish(self.api.cold(), deadline=_LONG)
        disks.drop_page_cache()

    def learn(self, trace: Path) -> None:
        """Give the template the boot set that one recorded boot makes, and wait until it was prefetched for it."""
        made = merge([parse_trace(trace.read_text(encoding="utf-8"))], self.api.template(TEMPLATE).size)
        self.api.import_boot_set(TEMPLATE, dump(BootSetFile(TEMPLATE, None, made)))
        self.prefetch()

    def forget(self) -> None:
        """Take the boot set away, so that nothing is prefetched by itself."""
        self.api.remove_boot_set(TEMPLATE)

    def prefetch(self) -> None:
        """Have the boot set in the cache when this returns. Raises what it failed with."""
        self.end_prefetch(self.begin_prefetch())

    def begin_prefetch(self) -> Operation:
        """Have the boot set fetched into the cache from now on."""

        def begun() -> Operation | None:
            try:
                return self.api.warm(TEMPLATE)
            except InUse:
                return None  # it has begun by itself; afterwards there is little left to do

        return wait.until(begun, "the prefetch that runs already", deadline=_LONG, interval=0.1)

    def end_prefetch(self, operation: Operation) -> None:
        """Wait until it is in the cache. Raises what it failed with."""
        self.api.finish(operation, deadline=_LONG)

    def hatch(self, count: int) -> list[str]:
        self._made += 1
        wanted = CloneCreate(name=f"boot{self._made}", template=TEMPLATE, count=count)
        made = self.api.create_clones(wanted)
        self._clones += [clone.name for clone in made]
        return [str(clone.uri) for clone in made]

    def drop(self) -> None:
        for name in self._clones:
            self.api.remove_clone(name, force=True)
        self._clones.clear()

    def io(self) -> Io:
        found = self.api.counters()
        return Io(found.backend.read_bytes, found.cache.write_bytes if found.cache else 0)

    def reach(self, present: int) -> None:
        many = sorted(clone.name for clone in self.api.clones() if clone.name.startswith("many"))
        for name in many[present:]:
            self.api.remove_clone(name)
        if len(many) < present:
            count = present - len(many)
            self.api.create_clones(CloneCreate(name=f"many{len(many)}", template=TEMPLATE, count=count, client=None))

    def create(self) -> None:
        self.api.create_clones(CloneCreate(name="extra", template=TEMPLATE, client=None))

    def remove(self) -> None:
        self.api.remove_clone("extra")

    def space(self) -> int:
        with Dm() as dm:
            status = Pool.open(dm).status()
        return status.data_used + status.metadata_used
