"""``nbd-server CLIENT``: starts the storage daemon of one client.

It reads what hatcheryd last wrote to ``server.json``, so a daemon that was killed comes back with its exports while
hatcheryd is away. It starts qemu-storage-daemon in the foreground, because QEMU throws its messages away when it goes
into the background by itself, and ends when that listens.
"""

import argparse
import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from appliance import wait
from appliance.config import Paths
from appliance.errors import HatcheryError, NotReady
from appliance.host import storage_daemon
from appliance.host.storage_daemon import Files
from appliance.model import check_name
from appliance.run import Process, Runner

log = logging.getLogger(__name__)

LISTENS_DEADLINE = 60.0
"""Seconds from its start until the daemon listens."""


def prepare(client: str, paths: Paths, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The command line for a client's daemon; sockets of a dead predecessor are removed.

    An export whose device is missing is left out and logged: it must not keep the others down.
    Raises NotReady when there is no ``server.json``.
    """
    files = Files(paths.nbd(check_name(client, "client name")))
    try:
        config = storage_daemon.parse(files.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotReady(
            f"client {client} has no settings", why=str(error), hint="hatcheryd writes them when it starts"
        ) from error
    present = tuple(export for export in config.exports if export.device.exists())
    for export in config.exports:
        if export not in present:
            log.error("%s is not exported: %s is missing", export.name, export.device)
    for left in (files.socket, files.qmp, files.pid):
        left.unlink(missing_ok=True)
    credentials = Path(environment.get("CREDENTIALS_DIRECTORY", paths.tls(client)))
    words = replace(config, exports=present)
    return storage_daemon.command(words, files, storage_daemon.aio_engine(), credentials)


def launch(words: Sequence[str], files: Files, runner: Runner) -> Process:
    """Start a daemon and return it when it listens. Raises NotReady when it ends before, DeadlineExceeded."""
    if "JOURNAL_STREAM" in os.environ:
        # Its messages are the unit's.
        started, said = runner.start(words), "see above"
    else:
        with files.log.open("ab") as target:
            started = runner.start(words, stderr=target, stdout=subprocess.DEVNULL)
        said = ""
    try:
        wait.until(lambda: _listens(started, files, said), "the storage daemon to listen", deadline=LISTENS_DEADLINE)
    except BaseException:
        started.stop()
        raise
    return started


def _listens(started: Process, files: Files, said: str) -> bool:
    if files.pid.exists():
        return True
    if started.running():
        return False
    said = said or files.log.read_text(encoding="utf-8", errors="replace")[-1000:].strip()
    raise NotReady(f"the storage daemon ended with status {started.wait(1)}", why=said)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="nbd-server", description="Serve the clones of one client over NBD.")
    parser.add_argument("client")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    paths = Paths()
    try:
        launch(prepare(arguments.client, paths), Files(paths.nbd(arguments.client)), Runner())
    except (HatcheryError, OSError) as error:
        raise SystemExit(f"nbd-server: {error}") from error


if __name__ == "__main__":
    main()
