"""Writing a disk of the appliance to an image file: by qemu-img here, over NBD, from a still that goes afterwards.

The file comes to be under another name beside its own, so that what bears its name is whole. The disk is read as raw:
what a guest wrote to it is never looked at.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import typer

from appliance import client, progress, schema
from appliance.cli import image_file
from appliance.cli.options import Session
from appliance.cli.output import out, print_json
from appliance.errors import AlreadyExists, HatcheryError, InvalidInput, NoSpace, NotReady
from appliance.measure.guest import NbdTarget
from appliance.model import MIB, ImageFormat
from appliance.remote import forwarded
from appliance.run import Runner
from appliance.words import size

STDOUT = "-"

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A new file here; - is the standard output, for which it is made in TMPDIR first."
    ),
]
FormatOption = Annotated[
    ImageFormat | None,
    typer.Option("--format", help="Format of the image; by default what FILE ends in (.raw, .img, .qcow2)."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Even if FILE exists: it is replaced when all is written.")]

_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")

Begin = Callable[[client.Client], schema.StillView]
"""Has the disk offered."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where an image goes, and of what format it is."""

    target: str
    kind: ImageFormat
    force: bool


def wanted(target: str, kind: ImageFormat | None, *, force: bool, as_json: bool) -> Wanted:
    """What the command line asks for. Raises InvalidInput, AlreadyExists, NotReady without qemu-img."""
    if target == STDOUT:
        if kind is None:
            raise InvalidInput(
                "the format of the image is not known",
                why="the standard output has no name that would state it",
                hint="state it: --format raw or --format qcow2",
            )
        if as_json:
            raise InvalidInput("an image is not JSON", why="both would go to the standard output", hint="name a file")
        if sys.stdout.isatty():
            raise InvalidInput(
                "an image is nothing for a terminal",
                why="it is bytes that no terminal shows",
                hint="name a file, or lead it into a pipe",
            )
    else:
        _check(Path(target), force=force)
    if shutil.which("qemu-img") is None:
        raise NotReady(
            "an image cannot be written here", why="qemu-img is not installed", hint="install it (Debian: qemu-utils)"
        )
    return Wanted(target, kind or image_file.stated_format(target), force)


def export(run: Session, wanted: Wanted, begin: Begin) -> None:
    """Write the image, and tell of it. Raises what ``begin`` raises, InvalidInput, NoSpace, NotReady."""
    with run.connect() as connection, offered(connection, begin) as still, reachable(run, still) as uri:
        if wanted.target == STDOUT:
            with _scratch() as file:
                _convert(uri, file, wanted, still, show=not run.as_json)
                _pour(file, sys.stdout.buffer, still, show=not run.as_json)
            return
        with _beside(Path(wanted.target), force=wanted.force) as file:
            _convert(uri, file, wanted, still, show=not run.as_json)
    status = Path(wanted.target).stat()
    if run.as_json:
        print_json(
            {
                "file": wanted.target,
                "format": wanted.kind.value,
                "subject": still.subject,
                "size": still.size,
                "file_bytes": status.st_size,
                "allocated_bytes": status.st_blocks * 512,
            }
        )
    else:
        out().print(f"{still.subject}, {size(still.size)}: {wanted.target} takes {size(status.st_blocks * 512)}")


@contextmanager
def offered(connection: client.Client, begin: Begin) -> Iterator[schema.StillView]:
    """A still, which goes afterwards. Raises what ``begin`` raises."""
    still = begin(connection)
    try:
        yield still
    finally:
        # If it cannot be told now, the appliance sees that nobody reads it.
        with contextlib.suppress(HatcheryError):
            connection.end_still(still.id)


@contextmanager
def reachable(run: Session, still: schema.StillView) -> Iterator[str]:
    """A still's URI as it is reached from here. Raises NotReady when there is no way."""
    if run.host is None:
        yield still.uri
        return
    target = NbdTarget.parse(still.uri)
    with forwarded(run.host, Path(target.socket), Runner()) as local:
        yield NbdTarget(target.export, socket=str(local)).uri


def _check(file: Path, *, force: bool) -> None:
    try:
        found = file.lstat()
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise InvalidInput(
                f"{file} cannot be written",
                why=f"there is no folder {file.parent}",
                hint="name a file in a folder that you may write to",
            ) from None
        return
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be written",
            why=error.strerror or str(error),
            hint="name a file in a folder that you may write to",
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInput(f"{file} cannot be written", why="it is no ordinary file", hint="name a new file")
    if not force:
        raise AlreadyExists(f"{file} exists", hint="name another file, or replace it with --force")


@contextmanager
def _beside(file: Path, *, force: bool) -> Iterator[Path]:
    """A new file in the same folder, which gets the name of ``file`` when all went well, and goes when it did not."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        _check(file, force=force)
        part.replace(file)
        _sync(file.parent)
    except OSError as error:
        why, full = error.strerror or str(error), error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full:
            raise NoSpace(f"{file} cannot be written", why=why, hint="write to another folder") from error
        raise InvalidInput(
            f"{file} cannot be written", why=why, hint="name a file in a folder that you may write to"
        ) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hatchery-export-") as folder:
        yield Path(folder) / "image"


def _convert(uri: str, file: Path, wanted: Wanted, still: schema.StillView, *, show: bool) -> None:
    """Have qemu-img write the image, whole and on the disk when this returns."""
    # Formats are stated, nothing is probed. What is zero becomes a hole.
    words = ["qemu-img", "convert", "-p", "-f", "raw", "-O", wanted.kind.value, uri, str(file)]
    title = f"{still.subject}: writing {Path(wanted.target).name}"
    with tempfile.TemporaryFile() as errors, progress.bar(title, still.size, show=show) as display:
        with Runner().start(words, stdout=subprocess.PIPE, stderr=errors) as process:
            for percent in _percents(process.popen.stdout):
                display.tell(title, round(still.size * percent / 100), still.size)
            status = process.popen.wait()
        if status != 0:
            errors.seek(0)
            raise _judged(errors.read().decode(errors="replace").strip() or f"status {status}", file, wanted, still)
    _sync(file)


def _percents(output: IO[bytes] | None) -> Iterator[float]:
    """What qemu-img says of its progress, until it ends."""
    if output is None:
        raise AssertionError("unreachable: it was asked for")
    rest = b""
    while piece := os.read(output.fileno(), 4096):
        *lines, rest = (rest + piece).split(b"\r")
        for line in lines:
            if found := _PERCENT.search(line):
                yield float(found[1])


def _judged(said: str, file: Path, wanted: Wanted, still: schema.StillView) -> HatcheryError:
    """What a failed conversion means, in the words of qemu-img."""
    where = file.parent if wanted.target == STDOUT else Path(wanted.target).parent
    if os.strerror(errno.ENOSPC) in said or os.strerror(errno.EDQUOT) in said:
        file.unlink(missing_ok=True)
        free = size(shutil.disk_usage(where).free)
        return NoSpace(
            f"{still.subject} does not fit into {where}",
            why=f"up to {size(still.data_bytes)} are needed, {free} are free there",
            hint="let TMPDIR name a folder with more space" if wanted.target == STDOUT else "write to another folder",
        )
    if os.strerror(errno.EFBIG) in said:
        return InvalidInput(
            f"{still.subject} cannot be written as {wanted.kind.value}",
            why=f"{where} takes no file of {size(still.size)}",
            hint="use --format qcow2, or another file system",
        )
    return NotReady(
        f"the export of {still.subject} broke off",
        why=said,
        hint="try again; a restart of hatcheryd ends exports, and `hatchery status` says how the store is",
    )


def _pour(file: Path, stream: IO[bytes], still: schema.StillView, *, show: bool) -> None:
    title = f"{still.subject}: writing to the standard output"
    with file.open("rb") as source, progress.bar(title, file.stat().st_size, show=show) as display:
        while block := source.read(1 * MIB):
            stream.write(block)
            display.add(len(block))
    stream.flush()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
