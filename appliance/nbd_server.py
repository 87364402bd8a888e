"""``nbd-server CLIENT``: becomes the storage daemon of one client.

It reads what hatcheryd last wrote to ``server.json`` and turns into qemu-storage-daemon, so a daemon that was killed
comes back with its exports while hatcheryd is away. It forks away once it listens.
"""

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import replace

from appliance.config import Paths
from appliance.errors import HatcheryError, NotReady
from appliance.host import storage_daemon
from appliance.host.storage_daemon import Files
from appliance.model import check_name

log = logging.getLogger(__name__)


def prepare(client: str, paths: Paths) -> tuple[str, ...]:
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
    return storage_daemon.command(replace(config, exports=present), files, storage_daemon.aio_engine())


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="nbd-server", description="Serve the clones of one client over NBD.")
    parser.add_argument("client")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        words = prepare(arguments.client, Paths())
        os.execvp(words[0], words)  # noqa: S606  no shell is wanted
    except (HatcheryError, OSError) as error:
        raise SystemExit(f"nbd-server: {error}") from error


if __name__ == "__main__":
    main()
