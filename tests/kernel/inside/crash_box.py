"""The store and the service in one process, and what an operator and a guest can see of them, for comparison.

What is seen is kept small: names, sizes, leases, and for each volume the digest of its content without the zeros at
its end. It is the same before and after an operation that did not happen.
"""

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any, TypeAlias

from appliance import config
from appliance.catalog import Clone
from appliance.config import Paths
from appliance.daemon import make_service
from appliance.host import block, thin
from appliance.host.dm_ioctl import Target
from appliance.model import KIB, MIB, SECTOR, Access, CloneKind, CloneState, PoolName, TemplateState
from appliance.run import Runner
from appliance.schema import ClientSpec, CloneCreate, PathSource, TemplateCreate
from appliance.service.operations import Job
from appliance.store import capacity, metadata, names, start
from appliance.store.durable import DATA
from appliance.store.machine import Machine
from tests.kernel.inside.nbd_client import NbdClient, door

State: TypeAlias = dict[str, Any]
"""``{"templates": {NAME: [DIGEST of each version]}, "clones": {NAME: {...}}, "reserve": ...}``; plain JSON."""

SIZE = 2 * MIB
OTHER = "other"
"""A client besides ``local``."""
LOAD = "load"
"""The clone whose guest writes all the time; its content is looked after by ``crash_load``."""

_READER = "lab-reader"
_CHECKED = ("clean", "leaked blocks were given back", None)


def image(seed: int, size: int = SIZE) -> bytes:
    """An image with something at both ends, different for each seed."""
    piece = b"".join(hashlib.sha256(f"{seed}:{n}".encode()).digest() for n in range(256 * KIB // 32))
    return piece + bytes(size - 2 * len(piece)) + piece[::-1]


def digest(content: bytes) -> str:
    """Of a volume's content: zeros at the end do not count, so that growing does not change it."""
    return hashlib.sha256(content.rstrip(b"\0")).hexdigest()[:16]


class Box:
    """The appliance while this process lives."""

    def __init__(self) -> None:
        """Bring the store up."""
        self.machine = Machine(config.load())
        start.up(self.machine)
        self.service = make_service(Paths(), Runner())
        self._digests: dict[int, str] = {}

    def begin(self) -> None:
        """Start the service: from here on it serves."""
        self.service.start()

    # --- looking

    def state(self) -> State:
        """All that exists. Volumes are read once in the life of this process, and again after ``scribble``."""
        catalog = self.service.core.catalog
        templates: dict[str, list[str]] = {}
        for template in catalog.templates():
            device = self.machine.dm.path(names.layer(names.Layer.TEMPLATE, template.thin_id))
            if template.thin_id not in self._digests:
                self._digests[template.thin_id] = digest(_read(device, template.size))
            templates.setdefault(template.name, []).append(self._digests[template.thin_id])
        clones = {clone.name: self._clone(clone) for clone in catalog.clones()}
        total = self.service.core.pool.status().data_total
        held = capacity.held_back(block.get(self.machine.dm.path(DATA)).size, 64 * KIB, total)
        return {"templates": templates, "clones": clones, "reserve": "held" if held else "released"}

    def _clone(self, clone: Clone) -> dict[str, Any]:
        origin = self.service.core.catalog.template_of_id(clone.template)
        if clone.thin_id not in self._digests:
            self._digests[clone.thin_id] = "" if clone.name == LOAD else digest(self.content(clone.name))
        return {
            "template": [origin.name, self._digests[origin.thin_id]],
            "kind": str(clone.kind),
            "client": clone.client,
            "size": clone.size,
            "leased": clone.expires is not None,
            "content": self._digests[clone.thin_id],
        }

    def content(self, name: str) -> bytes:
        """What a guest reads from a clone: over NBD when it is attached, else from a device of our own."""
        clone = self.service.core.catalog.clone(name)
        if clone.client is not None:
            with NbdClient(name, door(clone.client)) as client:
                assert client.size == clone.size, f"{name} is exported with {client.size} bytes, not {clone.size}"
                return b"".join(client.read(at, min(MIB, clone.size - at)) for at in range(0, clone.size, MIB))
        dm = self.machine.dm
        layer = names.layer(names.Layer.TEMPLATE, clone.template)
        origin = dm.path(layer) if clone.kind is CloneKind.EPHEMERAL else None
        table: Target = thin.thin_table(dm.path(names.pool(clone.pool)), clone.thin_id, clone.size // SECTOR, origin)
        device = dm.create(_READER, _READER, [table], access=Access.READ_ONLY)
        try:
            return _read(device, clone.size)
        finally:
            dm.remove(_READER, deadline=5)

    def template_content(self, ref: str) -> bytes:
        """What is in a template."""
        template = self.service.show_template(ref)
        return _read(Path(template.device), template.size)

    def check(self) -> str:
        """All that must hold whenever nothing is under way; returns what the start's check of the metadata found.

        Raises AssertionError.
        """
        catalog = self.service.core.catalog
        (sound,) = catalog._rows("PRAGMA integrity_check")[0]
        assert sound == "ok", sound
        unfinished = [t.ref for t in catalog.templates() if t.state is not TemplateState.READY]
        unfinished += [c.name for c in catalog.clones() if c.state is not CloneState.READY]
        assert not unfinished, f"not finished: {unfinished}"
        assert not catalog.stagings(), catalog.stagings()
        assert not catalog.garbage(), catalog.garbage()
        known: dict[PoolName, set[int]] = {PoolName.DURABLE: {t.thin_id for t in catalog.templates()}}
        for clone in catalog.clones():
            known.setdefault(clone.pool, set()).add(clone.thin_id)
        for name, pool in self.service.core.pools.items():
            found = pool.thin_ids()
            wanted = known.get(name, set())
            assert found == wanted, f"{name} pool: orphans {found - wanted}, missing {wanted - found}"
            agreed = catalog.transaction_id(name)
            assert agreed in (None, pool.status().transaction_id), f"{name} pool: {agreed}, {pool.status()}"
            with metadata.snapshot(self.machine.dm, names.pool(name)) as device:
                self.machine.runner.run(["thin_check", "--metadata-snap", device])
        for clone in catalog.clones():
            if clone.client is not None:
                NbdClient(clone.name, door(clone.client)).close()
        for client in catalog.clients():
            differ = self.service._exports.differences(client.name)
            assert differ == ((), ()), f"client {client.name} lacks, and has too much: {differ}"
        assert not self.service._problems, self.service._problems
        outcome = metadata._recorded(self.machine.config.paths.state / "metadata.check").get("outcome")
        assert outcome in _CHECKED, outcome
        return str(outcome)

    # --- doing

    def clone(self, name: str, template: str = "base", **more: Any) -> None:
        """Make clones, as a request does."""
        self.service.create_clones(CloneCreate(name=name, template=template, **more))

    def add_client(self, name: str) -> None:
        """A client with a unix socket; fine when it is there."""
        self.service.put_client(name, ClientSpec(transport="unix"))

    def drop(self, name: str) -> None:
        """Remove a clone, if there is one of that name."""
        self.service.clones.remove(name, force=True)

    def scribble(self, name: str, seed: int) -> None:
        """Change an attached clone as a guest does, flushed."""
        self._digests.pop(self.service.core.catalog.clone(name).thin_id, None)
        owner = self.service.core.catalog.clone(name).client
        with NbdClient(name, door(str(owner))) as client:
            client.write(seed % 8 * 64 * KIB, image(seed)[: 96 * KIB])
            client.write(SIZE // 2, image(seed + 1)[: 64 * KIB])
            client.flush()

    def bring(self, name: str, seed: int) -> None:
        """Import an image from a file."""
        path = Path("/run/image.raw")
        path.write_bytes(image(seed))
        path.chmod(0o644)
        request = TemplateCreate.model_validate(
            {"name": name, "format": "raw", "source": PathSource(path=str(path)).model_dump()}
        )
        finish(self.service.imports.begin(request))

    def end(self) -> list[str]:
        """Stop service and store in order; what could not be stopped."""
        for client in self.service.core.catalog.clients():
            self.service._units.stop(client.name)
        self.service.close()
        return [str(error) for error in start.down(self.machine)]


def finish(job: Job) -> None:
    """Wait for a job. Raises AssertionError when it fails."""
    assert job.finished.wait(50), f"{job.operation} does not end"
    assert job.operation.state == "succeeded", job.operation


def _read(device: Path, size: int) -> bytes:
    """All of a device, past the page cache."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with mmap.mmap(-1, MIB) as buffer:
            return b"".join(buffer[: os.preadv(fd, [buffer], at)] for at in range(0, size, MIB))
    finally:
        os.close(fd)
