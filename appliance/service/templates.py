"""Templates: looked up, removed, warmed."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from mmap import mmap
from pathlib import Path

from appliance.catalog import Template
from appliance.errors import InUse, NotReady, Refused, Unhealthy
from appliance.model import KIB, MIB, Access, TemplateRef, TemplateState
from appliance.schema import TemplateRemoval
from appliance.service.core import Core
from appliance.service.operations import Job, Operations

log = logging.getLogger(__name__)

WARM_REQUEST = 256 * KIB
WARM_DEPTH = 4
"""How a template is read into the cache. bcache keeps a missed read only if it gets a free bucket at once: larger or
more requests at a time leave holes."""

WARM_STRETCH = 32 * MIB
"""Progress is told after each."""

WARM_PASSES = 5
"""After so many passes it is left at that."""

WARM_ENOUGH = 0.005
"""A pass that still took this share of the template from the backend, or less, was the last."""


class Removing(Enum):
    """When a template goes."""

    NOW = "now"
    WHEN_UNUSED = "when unused"


class Templates:
    """The verbs on templates that exist."""

    def __init__(self, core: Core, operations: Operations, backend_reads: Callable[[], int]) -> None:
        """``backend_reads`` returns the bytes that were read from the backend array so far."""
        self._core = core
        self._operations = operations
        self._backend_reads = backend_reads
        self._warming: set[int] = set()

    def remove(self, text: str, when: Removing = Removing.NOW) -> TemplateRemoval:
        """Remove a template version, now or when its last clone has gone; fine when there is none.

        Raises InUse while clones depend on it and it is to go now, and while it is imported or warmed; Refused for a
        bare name that has several versions.
        """
        ref = TemplateRef.parse(text)
        with self._core.lock:
            catalog = self._core.catalog
            template = catalog.find_template(ref)
            if template is None:
                return TemplateRemoval(name=text, removed=False)
            versions = catalog.versions(ref.name)
            if ref.version is None and len(versions) > 1:
                raise Refused(
                    f"template {ref} has {len(versions)} versions",
                    why=f"they are {', '.join(version.ref for version in reversed(versions))}",
                    hint=f"say which one: {template.ref}",
                )
            if template.state is TemplateState.IMPORTING or template.thin_id in self._warming:
                raise InUse(f"template {template.ref} is in use", why="it is being imported or warmed", hint="wait")
            if when is Removing.WHEN_UNUSED and not catalog.retire_template(template.thin_id, self._core.now()):
                log.info("template %s goes with the last of its clones", template.ref)
                return TemplateRemoval(name=template.ref, removed=False, retired=True)
            if when is Removing.NOW:
                catalog.remove_template(template.thin_id, f"template {template.ref} was removed", self._core.now())
            self._core.discard_quietly([template.thin_id])
        log.info("removed template %s", template.ref)
        return TemplateRemoval(name=template.ref, removed=True)

    def warm(self, text: str) -> Job:
        """Start reading a template through the cache. Raises NotFound, NotReady, InUse, Refused."""
        ref = TemplateRef.parse(text)
        with self._core.lock:
            template = self._core.catalog.template(ref)
            if template.state is not TemplateState.READY:
                raise NotReady(f"template {template.ref} cannot be warmed", why=f"it is {template.state}")
            if template.thin_id in self._warming:
                raise InUse(f"template {template.ref} is being warmed already")
            device = self._core.pool.activate_template(template.thin_id, template.size, Access.READ_ONLY)
            check_sealed(device)
            self._warming.add(template.thin_id)
            job = self._operations.begin("warm", template.ref, "reading the template")
        self._operations.run(job, lambda job: self._warm(job, template, device))
        return job

    def _warm(self, job: Job, template: Template, device: Path) -> None:
        try:
            mapped = self._core.pool.mapped_bytes(template.thin_id)
            for number in range(1, WARM_PASSES + 1):
                job.phase(f"reading the template, pass {number}", template.size)
                before = self._backend_reads()
                read_through(device, template.size, job.progress)
                missed = self._backend_reads() - before
                log.info("warming %s, pass %d: %d bytes came from the backend", template.ref, number, missed)
                if missed <= mapped * WARM_ENOUGH:
                    job.succeed("warm")
                    return
            job.succeed(f"warm but for {missed / max(mapped, 1):.1%}")
        finally:
            with self._core.lock:
                self._warming.discard(template.thin_id)


def check_sealed(device: Path) -> None:
    """Refuse to prefetch from anything but a sealed, read-only volume (rule 2). Raises Refused, Unhealthy."""
    number = device.stat().st_rdev
    flag = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/ro")
    try:
        sealed = flag.read_text(encoding="ascii").strip() == "1"
    except OSError as error:
        raise Unhealthy(f"{device} is gone", why=str(error)) from error
    if not sealed:
        raise Refused(
            f"{device} is not read into the cache",
            why="it can be written, and a read that races a write could leave stale data in the cache",
            hint="only sealed templates are prefetched",
        )


def read_through(device: Path, size: int, progress: Callable[[int], None]) -> None:
    """Read all of a device, past the page cache, a few requests at a time. Raises Unhealthy."""
    direct = os.O_DIRECT if device.is_block_device() else 0
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | direct)
    buffers = threading.local()

    def read(offset: int) -> None:
        if not hasattr(buffers, "memory"):
            # Anonymous memory is aligned to a page, as O_DIRECT wants it.
            buffers.memory = mmap(-1, WARM_REQUEST)
        os.preadv(fd, [buffers.memory], offset)

    try:
        with ThreadPoolExecutor(WARM_DEPTH) as pool:
            for start in range(0, size, WARM_STRETCH):
                end = min(start + WARM_STRETCH, size)
                deque(pool.map(read, range(start, end, WARM_REQUEST)), maxlen=0)
                progress(end)
    except OSError as error:
        raise Unhealthy(f"{device} cannot be read", why=str(error), hint="see `hatchery status`") from error
    finally:
        os.close(fd)
