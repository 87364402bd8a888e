"""``hatchery support-bundle``: what somebody who helps needs to see, in one archive, without secrets."""

import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Annotated, TypeAlias

import typer
from pydantic import BaseModel

from appliance import client, progress, remote
from appliance.cli.options import JsonOption, session
from appliance.cli.output import out, print_json
from appliance.errors import AlreadyExists, HatcheryError, InvalidInput
from appliance.redact import redact
from appliance.run import Runner

PROGRAMS: Mapping[str, Sequence[str]] = {
    "kernel.txt": ("uname", "--all"),
    "release.txt": ("cat", "/etc/os-release"),
    "store.json": ("hatchery-store", "status", "--json"),
    "settings.txt": ("grep", "--recursive", "", "/etc/hatchery/conf.d"),
    "log.txt": ("journalctl", "--no-pager", "--output=short-iso", "--lines=20000", "--unit=hatchery*"),
    "kernel-log.txt": ("journalctl", "--no-pager", "--output=short-iso", "--lines=5000", "--boot", "--dmesg"),
    "units.txt": ("systemctl", "--no-pager", "--full", "--lines=0", "status", "hatchery*"),
    "timers.txt": ("systemctl", "--no-pager", "--all", "list-timers"),
    "failed.txt": ("systemctl", "--no-pager", "--failed"),
    "disks.txt": ("lsblk", "--output", "NAME,TYPE,SIZE,RO,ROTA,LOG-SEC,PHY-SEC,MODEL,SERIAL,STATE"),
    "md.txt": ("cat", "/proc/mdstat"),
    "dm-table.txt": ("dmsetup", "table"),
    "dm-status.txt": ("dmsetup", "status"),
    "dm-devices.txt": ("dmsetup", "info", "--columns"),
    "bcache.txt": ("grep", "--recursive", "--no-messages", "", "/sys/fs/bcache"),
    "mounts.txt": ("findmnt", "--real"),
    "space.txt": ("df", "--human-readable"),
    "memory.txt": ("cat", "/proc/meminfo"),
    "processes.txt": ("ps", "-eo", "pid,ppid,user,stat,etimes,rss,wchan:32,comm"),
}
"""What is asked of the appliance, and the file that its answer goes to. None of them changes anything."""

PATIENCE = 120.0
"""Seconds for each of them."""

Answer: TypeAlias = BaseModel | Sequence[BaseModel]

LOOKS: Mapping[str, Callable[[client.Client], Answer]] = {
    "api/status.json": client.Client.status,
    "api/doctor.json": client.Client.examine,
    "api/templates.json": client.Client.templates,
    "api/clones.json": client.Client.clones,
    "api/clients.json": client.Client.clients,
    "api/counters.json": client.Client.counters,
    "api/operations.json": client.Client.operations,
    "api/plan.json": client.Client.plan,
}
"""What is asked of the API, and the file that its answer goes to."""

Ask: TypeAlias = Callable[[Sequence[str]], str]
"""Runs a program on the appliance; what it printed, errors included. Raises HatcheryError."""


def support_bundle(
    context: typer.Context,
    target: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A new file (default: hatchery-support-TIME.tar.gz here).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Collect what somebody who helps needs to see: state, logs, settings. Keys, passwords and tokens are left out."""
    run = session(context, as_json)
    name = f"hatchery-support-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    file = target or Path(f"{name}.tar.gz")
    runner = Runner()

    def ask(argv: Sequence[str]) -> str:
        done = runner.run(remote.command_line(run.host, argv, terminal=False), timeout=PATIENCE, check=False)
        ended = "" if done.returncode == 0 else f"\n(ended with status {done.returncode})\n"
        return done.stdout + done.stderr + ended

    showing = progress.bar("collecting", len(LOOKS) + len(PROGRAMS), "files", show=not run.as_json)
    with opened(file) as raw, run.connect() as connection, showing as display:
        count = write(raw, name, _told(collect(connection, ask), display))
    if run.as_json:
        print_json({"file": str(file), "files": count, "bytes": file.stat().st_size})
        return
    out().print(f"{file}: {count} files. Keys, passwords and tokens are left out; names, addresses and serial")
    out().print("numbers are in it. Look at it before you give it away.")


def collect(connection: client.Client, ask: Ask) -> Iterator[tuple[str, str]]:
    """Names and texts of all files, without secrets. What cannot be had is a file that says why."""
    for name, look in LOOKS.items():
        yield name, redact(_tried(partial(_answer, partial(look, connection))))
    for name, argv in PROGRAMS.items():
        yield name, redact(f"$ {' '.join(argv)}\n" + _tried(partial(ask, argv)))


def _tried(look: Callable[[], str]) -> str:
    try:
        return look()
    except HatcheryError as error:
        return f"(could not be had: {error})\n"


def _answer(look: Callable[[], Answer]) -> str:
    found = look()
    data = found.model_dump(mode="json") if isinstance(found, BaseModel) else [e.model_dump(mode="json") for e in found]
    return json.dumps(data, indent=2) + "\n"


def _told(files: Iterator[tuple[str, str]], display: progress.Bar) -> Iterator[tuple[str, str]]:
    whole = len(LOOKS) + len(PROGRAMS)
    for number, (name, text) in enumerate(files, 1):
        display.tell(f"collected {name}", number, whole, "files")
        yield name, text


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """A new file, for its owner alone, that goes again when something fails. Raises AlreadyExists, InvalidInput."""
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise AlreadyExists(f"{file} exists", hint="name another file, or remove it") from error
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be written",
            why=error.strerror or str(error),
            hint="name a file in a folder that you may write to",
        ) from error
    try:
        with open(fd, "wb") as raw:  # noqa: PTH123 - it is open already
            yield raw
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def write(raw: IO[bytes], folder: str, files: Iterable[tuple[str, str]]) -> int:
    """Write a compressed archive with the files in ``folder``; how many there were."""
    count = 0
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in files:
            data = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(data))
            count += 1
    return count
