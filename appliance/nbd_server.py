"""``nbd-server CLIENT``: starts the storage daemon of one client.

It reads what hatcheryd last wrote to ``server.json``, so a daemon that was killed comes back with its exports while
hatcheryd is away. It starts qemu-storage-daemon in the foreground, because QEMU throws its messages away when it goes
into the background by itself, and ends when that listens. The socket is made here, and kept by systemd when the daemon
ends (``host.listener``).
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
from appliance.host import listener, storage_daemon
from appliance.host.storage_daemon import Files, ServerConfig
from appliance.model import check_name
from appliance.run import Process, Runner

log = logging.getLogger(__name__)

LISTENS_DEADLINE = 60.0
"""Seconds from its start until the daemon listens."""


def settings(client: str, paths: Paths) -> ServerConfig:
    """What hatcheryd last wrote for a client's daemon. Raises NotReady when it did not, Unhealthy."""
    files = Files(paths.nbd(check_name(client, "client name")))
    try:
        return storage_daemon.parse(files.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotReady(
            f"client {client} has no settings", why=str(error), hint="hatcheryd writes them when it starts"
        ) from error


def prepare(
    config: ServerConfig, paths: Paths, listener: int, environment: Mapping[str, str] = os.environ
) -> tuple[str, ...]:
    """The command line for a client's daemon, with the socket that it listens on; what is left of a predecessor goes.

    An export whose device is missing is left out and logged: it must not keep the others down.
    """
    files = Files(paths.nbd(config.client))
    present = tuple(export for export in config.exports if export.device.exists())
    for export in config.exports:
        if export not in present:
            log.error("%s is not exported: %s is missing", export.name, export.device)
    for left in (files.qmp, files.pid):
        left.unlink(missing_ok=True)
    credentials = Path(environment.get("CREDENTIALS_DIRECTORY", paths.tls(config.client)))
    words = replace(config, exports=present)
    return storage_daemon.command(words, files, storage_daemon.aio_engine(), credentials, listener)


def launch(words: Sequence[str], files: Files, runner: Runner, pass_fds: Sequence[int] = ()) -> Process:
    """Start a daemon and return it when it listens. Raises NotReady when it ends before, DeadlineExceeded."""
    if "JOURNAL_STREAM" in os.environ:
        # Its messages are the unit's.
        started, said = runner.start(words, pass_fds=pass_fds), "see above"
    else:
        with files.log.open("ab") as target:
            started = runner.start(words, stderr=target, stdout=subprocess.DEVNULL, pass_fds=pass_fds)
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
        config = settings(arguments.client, paths)
        with listener.take(config.listen) as door:
            launch(prepare(config, paths, door.fileno()), Files(paths.nbd(config.client)), Runner(), [door.fileno()])
    except (HatcheryError, OSError) as error:
        raise SystemExit(f"nbd-server: {error}") from error


if __name__ == "__main__":
    main()
