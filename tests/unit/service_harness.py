"""The service over the model of the store, and restarts of it as after a crash."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from appliance.catalog import Catalog
from appliance.config import Paths
from appliance.model import MIB, ImageFormat, PoolName
from appliance.run import Runner
from appliance.schema import Operation, TemplateCreate, UploadSource
from appliance.service.service import Service
from tests.unit.model import ModelConverter, ModelPool, ModelStore
from tests.unit.model_daemon import ModelUnits
from tests.unit.model_nvmet import ModelTarget
from tests.unit.model_remotes import ModelRemotes
from tests.unit.model_trace import ModelTracer
from tests.unit.model_unpacking import ModelUnpacking

IMAGE = b"boot" * 1024 + bytes(3 * MIB) + b"root" * 1024
"""A sparse little image."""


class Box:
    """An appliance of models in a folder. ``start`` it, crash it, ``start`` it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The catalog syncs at each change, which costs nothing in memory.
        self._memory = TemporaryDirectory(dir="/dev/shm")
        self.paths = Paths(etc=folder / "etc", state=Path(self._memory.name), run=folder / "run")
        for made in (self.paths.run, folder / "volumes"):
            made.mkdir()
        self.pool = ModelPool(folder / "volumes")
        self.pools: dict[PoolName, ModelPool] = {PoolName.DURABLE: self.pool}
        self.store = ModelStore()
        self.tracer = ModelTracer()
        self.units = ModelUnits(self.paths.run)
        self.nvme = ModelTarget(folder)
        self.converter = ModelConverter()
        self.remotes = ModelRemotes(folder)
        self.service = self._make()

    def _make(self) -> Service:
        service = Service(
            catalog=Catalog(self.paths.catalog),
            pools=self.pools,
            store=self.store,
            units=self.units,
            converter=self.converter,
            runner=Runner(),
            paths=self.paths,
            tracer=self.tracer,
            unpack=ModelUnpacking,
            sources=self.remotes,
            nvme=self.nvme,
        )
        service.start()
        return service

    def restart(self) -> Service:
        """hatcheryd is gone, whatever it did, and starts again."""
        self.service.close()
        for pool in self.pools.values():
            pool.step = lambda _: None
        self.service = self._make()
        return self.service

    def reboot(self) -> Service:
        """The machine is gone: so are daemons and devices."""
        self.units.stop_all()
        self.nvme.reboot()
        for thin_id in list(self.pool.active):
            self.pool.deactivate(thin_id)
        return self.restart()

    def add_template(
        self,
        name: str,
        content: bytes = IMAGE,
        *,
        kind: ImageFormat = ImageFormat.RAW,
        size: int | None = None,
        sha256: str | None = None,
    ) -> Operation:
        """Upload an image and wait; the finished operation, failed or not."""
        size = len(content) if size is None else size
        request = TemplateCreate(name=name, format=kind, source=UploadSource(), size=size, sha256=sha256)
        job = self.service.imports.begin(request)
        source, same = self.service.imports.upload(name)
        assert same is job
        for start in range(0, len(content), 1 * MIB):
            if not source.put(content[start : start + 1 * MIB]):
                break
        source.end()
        assert job.finished.wait(10)
        return job.operation

    def exported(self, client: str = "local") -> set[str]:
        """Names that the client's daemon exports."""
        return set(self.units.daemons[client].exports.values())

    def close(self) -> None:
        self.units.stop_all()
        self.service.close()
        self._memory.cleanup()


@contextmanager
def box(folder: Path) -> Iterator[Box]:
    """A box that is closed at the end."""
    made = Box(folder)
    try:
        yield made
    finally:
        made.close()


def counting(limit: int, error: BaseException) -> Callable[[str], None]:
    """A pool step that raises ``error`` at the ``limit``-th change, counted from 0, and at none after it."""
    seen = 0

    def step(name: str) -> None:
        nonlocal seen
        seen += 1
        if seen == limit + 1:
            error.add_note(name)
            raise error

    return step
