"""Importing an image as a template: streamed onto the pool, checked, sealed; or nothing is left of it.

raw    the bytes go straight to the template's volume, zeros left out
qcow2  the bytes go to a staging volume, are judged there, and are converted to the template's volume

Of an image that comes packed only the end tells how large it is: its volume is as large as the pool could keep, which
takes no space, and gets its size when all is there.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from appliance import unpack
from appliance.bootset import file
from appliance.bootset.file import BootSetFile
from appliance.catalog import NewTemplate, Staging, Template
from appliance.errors import BadImage, InvalidInput, NoSpace, NotFound, Refused
from appliance.images import qcow2, sources
from appliance.images.convert import Converter
from appliance.images.sources import Counted, Peeked, Source, UploadSource
from appliance.images.unpacking import UnpackedSource, Unpacker
from appliance.images.volume import VolumeWriter, read_at
from appliance.model import MIB, SECTOR, Access, Compression, ImageFormat, check_name
from appliance.reconcile.volumes import Birth, Devices, Volume
from appliance.redact import shown_url
from appliance.schema import PathSource, TemplateCreate, UrlSource
from appliance.service import admission, bootsets
from appliance.service.core import Core
from appliance.service.operations import Job, Operations
from appliance.service.wanted import of_staging, of_template
from appliance.wait import watch

log = logging.getLogger(__name__)

CLOSE_PATIENCE = 20.0
"""Seconds that a broken-off import may take to clean up."""

CONVERSION_LOOK = 1.0
"""Seconds between two looks at a conversion: how far it is, and whether it is still wanted."""

CHECK_SPACE_EVERY = 64 * MIB
"""How many bytes are written between two looks at the pool's free space."""


@dataclass(frozen=True, slots=True)
class _Image:
    """An image that is imported.

    ``sent`` are its bytes as they come, ``content`` those of the image itself: the same, unless it is packed. It has
    ``size`` bytes, or at most so many, if that is not ``exact``.
    """

    sent: Counted
    content: Source
    size: int
    exact: bool

    def staged(self) -> int:
        """Bytes that it takes while it is staged, as far as that is known."""
        return self.size if self.exact else self.sent.size() or 0


class Imports:
    """The imports that run."""

    def __init__(
        self,
        core: Core,
        operations: Operations,
        converter: Converter,
        open_url: Callable[[str], Source],
        unpacker: Unpacker,
    ) -> None:
        self._core = core
        self._operations = operations
        self._converter = converter
        self._open_url = open_url
        self._unpack = unpacker
        self._uploads: dict[str, tuple[UploadSource, Job]] = {}
        self._promised: dict[int, int] = {}
        self._running: dict[str, Job] = {}

    def begin(self, request: TemplateCreate) -> Job:
        """Start an import. What can be refused at once is: name, size, source.

        Raises InvalidInput, AlreadyExists, NoSpace, NotFound, NotReady, Refused.
        """
        check_name(request.name, "template name")
        boot_set = None if request.boot_set is None else file.load(request.boot_set)
        source, words = self._source(request)
        try:
            image = self._image(source, request)
            with self._core.lock:
                numbers = self._core.pool.status()
                admission.admit_size(numbers, image.size)
                # How much of a raw image is more than zeros shows only as it comes; a qcow2 is staged as it is.
                staged = image.staged() if request.format is ImageFormat.QCOW2 else 0
                admission.admit_data(numbers, max(staged, numbers.block_bytes), sum(self._promised.values()))
                new = NewTemplate(request.name, request.format, words, time.time())
                template = self._core.catalog.add_template(new)
                job = self._operations.begin("import", template.ref, "waiting for the image")
                job.cancellable(image.content.close)
                self._core.events.tell("template", template.ref, "importing", f"from {words}")
                self._running[template.name] = job
                if isinstance(source, UploadSource):
                    self._uploads[template.name] = (source, job)
        except BaseException:
            source.close()
            raise

        def work(job: Job) -> None:
            self._fill(job, template, image, request.sha256, boot_set)
            job.succeed()

        self._operations.run(job, work)
        return job

    def copy(self, job: Job, template: Template, source: Source, size: int) -> None:
        """Fill a template whose intent is recorded from another source, in the caller's thread; or nothing is left.

        Raises what went wrong.
        """
        with self._core.lock:
            self._running[template.name] = job
        sent = Counted(source)
        self._fill(job, template, _Image(sent, sent, size, exact=True), None)

    def close(self) -> None:
        """Break off what runs and wait until it has taken itself back; what has not by then, the next start does."""
        with self._core.lock:
            running = list(self._running.values())
        for job in running:
            # One that has settled is as good as done.
            with contextlib.suppress(Refused):
                job.cancel("hatcheryd ends")
        for job in running:
            job.finished.wait(CLOSE_PATIENCE)

    def upload(self, name: str) -> tuple[UploadSource, Job]:
        """The upload that waits for its bytes; the caller becomes its only sender. Raises NotFound.

        One that has failed meanwhile is still found, so that its sender learns why.
        """
        with self._core.lock:
            found = self._uploads.pop(name, None)
        if found is None:
            raise NotFound(
                f"no upload of template {name} is awaited",
                why="it was not announced, or another request sends it",
                hint="announce it with POST /templates first",
            )
        return found

    def _fill(
        self,
        job: Job,
        template: Template,
        image: _Image,
        sha256: str | None,
        boot_set: BootSetFile | None = None,
    ) -> None:
        try:
            if template.format is ImageFormat.RAW:
                virtual_size = self._take_raw(job, template, image)
            else:
                virtual_size = self._take_qcow2(job, template, image)
            found = image.sent.sha256()
            _check_digest(found, sha256)
            job.settle()
            with self._core.lock:
                volume = replace(of_template(template), size=virtual_size, devices=Devices.SEALED, birth=Birth.NEVER)
                self._core.carry_out([volume])
                catalog = self._core.catalog
                begin = bootsets.first(catalog, template, virtual_size, found, boot_set, self._core.now())
                catalog.finish_template(template.thin_id, virtual_size, found, boot_set=begin)
        except BaseException:
            self._take_back(template)
            raise
        finally:
            image.content.close()
            with self._core.lock:
                self._promised.pop(template.thin_id, None)
                self._running.pop(template.name, None)
        self._core.template_ready(template.thin_id)

    def _take_raw(self, job: Job, template: Template, image: _Image) -> int:
        device = self._make_template(template, _whole_sectors(image.size))
        return _whole_sectors(self._write(job, device, image, image.content.chunks()))

    def _take_qcow2(self, job: Job, template: Template, image: _Image) -> int:
        with self._core.lock:
            self._promised[template.thin_id] = image.staged()
            staging = self._core.catalog.add_staging(template.thin_id)
        try:
            with self._core.lock:
                volume = of_staging(staging, template, _whole_sectors(image.size))
                stage = self._make(replace(volume, devices=Devices.STAGING, birth=Birth.EMPTY))
            size = self._write(job, stage, image, _judged(image.content.chunks()))
            job.phase("checking the image")
            layout = _scan(stage, size)
            with self._core.lock:
                numbers = self._core.pool.status()
                admission.admit_size(numbers, layout.virtual_size)
                self._promised.pop(template.thin_id)
                admission.admit_data(numbers, layout.allocated_bytes, sum(self._promised.values()))
                self._promised[template.thin_id] = layout.allocated_bytes
            virtual_size = _whole_sectors(layout.virtual_size)
            device = self._make_template(template, virtual_size)
            job.phase("converting the image", layout.allocated_bytes)

            def look() -> None:
                job.progress(self._core.pool.mapped_bytes(template.thin_id))
                if job.unwanted:
                    self._converter.stop(staging.thin_id)

            with watch(look, interval=CONVERSION_LOOK):
                self._converter.convert(stage, device, staging.thin_id)
            _make_durable(device)
            return virtual_size
        finally:
            self._drop_staging(staging)

    def _make_template(self, template: Template, virtual_size: int) -> Path:
        with self._core.lock:
            volume = replace(of_template(template), size=virtual_size, devices=Devices.IMPORT, birth=Birth.EMPTY)
            return self._make(volume)

    def _make(self, volume: Volume) -> Path:
        """Make an empty volume and its device, and return the device."""
        advanced = self._core.carry_out([volume])
        self._core.catalog.set_transaction_id(advanced[volume.pool], volume.pool)
        # It is there already: this asks for its path.
        if volume.devices is Devices.STAGING:
            return self._core.pool.activate_staging(volume.thin_id, volume.size)
        return self._core.pool.activate_template(volume.thin_id, volume.size, Access.READ_WRITE)

    def _write(self, job: Job, device: Path, image: _Image, chunks: Iterator[bytes]) -> int:
        """Write all of an image; how many bytes it has. Raises BadImage, NoSpace."""
        job.phase("receiving the image", image.sent.size())
        taken, checked = 0, 0
        with VolumeWriter(device, image.size) as writer:
            for chunk in chunks:
                job.check()
                taken += len(chunk)
                if taken > image.size and not image.exact:
                    raise _too_large(image.size)
                writer.write(chunk)
                job.progress(image.sent.taken)
                if writer.written - checked >= CHECK_SPACE_EVERY:
                    checked = writer.written
                    admission.admit_data(self._core.pool.status(), CHECK_SPACE_EVERY)
            if image.exact and taken != image.size:
                why = f"{image.size - taken} of {image.size} bytes are missing"
                raise BadImage("the image broke off", why=why, hint="send it again")
            if not taken:
                raise _empty()
            writer.finish()
        return taken

    def _drop_staging(self, staging: Staging) -> None:
        with self._core.lock:
            self._core.catalog.remove_staging(staging.thin_id, "an import has ended", self._core.now())
            self._core.discard_quietly([staging.thin_id])

    def _source(self, request: TemplateCreate) -> tuple[Source, str]:
        """The source of a request, and its name in the catalog, where everybody who looks reads it."""
        if isinstance(request.source, PathSource):
            return sources.FileSource(Path(request.source.path)), request.source.path
        if isinstance(request.source, UrlSource):
            return self._open_url(request.source.url), shown_url(request.source.url)
        if request.size is None:
            raise InvalidInput(
                "the size of the upload is missing",
                why="without it, an upload that broke off would look whole",
                hint="state it in `size`, in bytes",
            )
        return UploadSource(request.size), "upload"

    def _image(self, source: Source, request: TemplateCreate) -> _Image:
        """The image that a source gives. Begins to ask it; raises what it raises, InvalidInput, BadImage."""
        kind: Compression | None = None
        if isinstance(request.source, UrlSource | PathSource):
            if request.source.compression == "auto":
                # The size first: it tells what cannot be had at all.
                source.size()
                source = Peeked(source)
                kind = unpack.kind_of(source.head(unpack.HEAD), _file_name(request.source))
            else:
                kind = request.source.compression
        sent = Counted(source)
        if kind is None:
            return _Image(sent, sent, _expected_size(source, request.size), exact=True)
        if source.size() == 0:
            raise _empty()
        content = UnpackedSource(sent, kind, self._unpack)
        if request.size is not None:
            return _Image(sent, content, request.size, exact=True)
        most = admission.usable(self._core.pool.status().data_total) // SECTOR * SECTOR
        return _Image(sent, content, most, exact=False)

    def _take_back(self, template: Template) -> None:
        with self._core.lock:
            self._core.catalog.remove_template(
                template.thin_id, f"the import of {template.ref} was not finished", self._core.now()
            )
            self._core.discard_quietly([template.thin_id])
        self._core.events.tell("template", template.ref, "failed", "nothing is left of its import")


def _file_name(source: UrlSource | PathSource) -> str:
    """What the image's file is called where it comes from."""
    return urlsplit(source.url).path if isinstance(source, UrlSource) else source.path


def _expected_size(source: Source, stated: int | None) -> int:
    """The image file's size. Raises InvalidInput when it is not known, or not what was stated."""
    found = source.size()
    if found is None:
        found = stated
    if found is None:
        raise InvalidInput("the image's size is not known", why="the server does not say it", hint="state it in `size`")
    if stated is not None and stated != found:
        raise InvalidInput("the image has not the stated size", why=f"it has {found} bytes, not {stated}")
    if found == 0:
        raise _empty()
    return found


def _empty() -> BadImage:
    return BadImage("the image is empty", why="it has 0 bytes", hint="was it written to its end?")


def _too_large(most: int) -> NoSpace:
    return NoSpace(
        "the image is larger than the pool",
        why=f"unpacked it has more than the {admission.show(most)} that the pool holds besides its headroom",
        hint="use a smaller image, or a store with larger disks",
    )


def _whole_sectors(size: int) -> int:
    return -(-size // SECTOR) * SECTOR


def _check_digest(found: str, announced: str | None) -> None:
    if announced is not None and found != announced:
        raise BadImage(
            "the image is not the one that was announced",
            why=f"its SHA-256 is {found}, not {announced}",
            hint="fetch it again",
        )


def _judged(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks; the qcow2 header is judged as soon as it is there. Raises BadImage."""
    head = b""
    for chunk in chunks:
        if len(head) < qcow2.HEADER_BYTES:
            head += chunk
            if len(head) >= qcow2.HEADER_BYTES:
                qcow2.parse_header(head)
        yield chunk
    if len(head) < qcow2.HEADER_BYTES:
        qcow2.parse_header(head)


def _scan(stage: Path, size: int) -> qcow2.Layout:
    fd = os.open(stage, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read = read_at(fd)
        header = qcow2.parse_header(read(0, min(size, 2 * MIB)))
        return qcow2.scan(header, read, size)
    finally:
        os.close(fd)


def _make_durable(device: Path) -> None:
    fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
