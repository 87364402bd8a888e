"""Metadata on its way into a file: dumped and compressed, within a number of bytes and a time.

A dump as text is many times larger than the metadata, so it is never kept without compression.
"""

import hashlib
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from appliance.errors import CommandFailed, DeadlineExceeded, NoSpace, Unhealthy
from appliance.model import MIB
from appliance.progress import QUIET, Bar
from appliance.run import Process, Runner

FOREVER = 24 * 3600.0
"""Seconds; for work that somebody waits for."""


def compress(
    runner: Runner, argv: Sequence[str | Path], target: Path, *, room: int, deadline: float, bar: Bar = QUIET
) -> None:
    """Write what a command prints, compressed by zstd, to ``target``: at most ``room`` bytes within ``deadline`` s.

    ``bar`` moves with what is written.

    The file is on stable storage afterwards; it is gone when anything failed. Raises NoSpace, DeadlineExceeded,
    CommandFailed, Unhealthy.
    """
    end = time.monotonic() + deadline
    with ExitStack() as stack:
        said = stack.enter_context(tempfile.TemporaryFile())
        source = stack.enter_context(runner.start(argv, stdout=subprocess.PIPE, stderr=said))
        pipe = source.popen.stdout
        packer = stack.enter_context(
            runner.start(["zstd", "-q", "-c", "-T1"], stdin=pipe or 0, stdout=subprocess.PIPE, stderr=said)
        )
        if pipe is not None:
            pipe.close()
        try:
            with target.open("wb") as file:
                _copy(packer, file.fileno(), target, room, end, bar)
                for process, words in ((source, argv), (packer, ["zstd"])):
                    _ended(process, " ".join(map(str, words)), said, end)
                os.fsync(file.fileno())
        except OSError as error:
            target.unlink(missing_ok=True)
            raise Unhealthy(f"cannot write {target}", why=error.strerror or str(error)) from error
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def _ended(process: Process, command: str, said: IO[bytes], end: float) -> None:
    status = process.wait(max(1.0, end - time.monotonic()))
    if status:
        said.seek(0)
        raise CommandFailed(command, status, said.read().decode(errors="replace"))


def _copy(packer: Process, output: int, target: Path, room: int, end: float, bar: Bar) -> None:
    pipe = packer.popen.stdout
    if pipe is None:
        raise Unhealthy("the compression has no output", why="zstd was started without a pipe")
    written = 0
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            raise DeadlineExceeded(f"{target.name} was not finished in time")
        chunk = os.read(pipe.fileno(), MIB)
        if not chunk:
            return
        written += len(chunk)
        if written > room:
            raise NoSpace(
                f"{target.name} does not fit", why=f"it takes more than {room // MIB} MiB", hint="write it elsewhere"
            )
        _write(output, chunk)
        bar.add(len(chunk))


def _write(output: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]


def decompress(runner: Runner, source: Path, target: Path, edit: Callable[[bytes], bytes] = bytes) -> None:
    """Unpack a file; ``edit`` may change its first line. Raises CommandFailed, Unhealthy."""
    with (
        tempfile.TemporaryFile() as said,
        runner.start(["zstd", "-q", "-d", "-c", source], stdout=subprocess.PIPE, stderr=said) as process,
    ):
        pipe = process.popen.stdout
        if pipe is None:
            raise Unhealthy("the decompression has no output", why="zstd was started without a pipe")
        try:
            with pipe, target.open("wb") as file:
                file.write(edit(pipe.readline()))
                shutil.copyfileobj(pipe, file, MIB)
        except OSError as error:
            raise Unhealthy(f"cannot write {target}", why=error.strerror or str(error)) from error
        _ended(process, f"zstd -d {source}", said, time.monotonic() + FOREVER)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on stable storage."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """Put a file's content on stable storage."""
    os.fsync(fd)
