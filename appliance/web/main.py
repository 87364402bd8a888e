"""``hatchery-status``: serves metrics and the status page from sockets that the service manager gives it."""

import argparse
import socket
from collections.abc import Sequence

import uvicorn

from appliance.client import connect
from appliance.config import Paths
from appliance.errors import NotReady
from appliance.host.notify import notify, passed_sockets
from appliance.web.app import make_app

PORT = 9750


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="hatchery-status", description="Hatchery's metrics and status page.")
    parser.add_argument(
        "--listen", metavar="ADDRESS:PORT", help=f"without sockets from the service manager, for example [::1]:{PORT}"
    )
    listen = parser.parse_args(argv).listen
    try:
        sockets = passed_sockets() if listen is None else [bound(listen)]
    except NotReady as error:
        raise SystemExit(f"hatchery-status: {error}") from error
    paths = Paths()
    app = make_app(lambda: connect(socket=paths.read_socket))
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, timeout_graceful_shutdown=2)
    notify("READY=1")
    uvicorn.Server(config).run(sockets=sockets)


def bound(listen: str) -> socket.socket:
    """A socket that listens on ADDRESS:PORT. Raises NotReady."""
    address, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    hint = f"give ADDRESS:PORT, for example 127.0.0.1:{PORT}"
    if not port.isdecimal() or int(port) >= 1 << 16:
        raise NotReady(f"cannot listen on {listen}", why="it has no port from 0 to 65535", hint=hint)
    try:
        return socket.create_server((address.strip("[]"), int(port)), family=family)
    except OSError as error:
        raise NotReady(f"cannot listen on {listen}", why=str(error), hint=hint) from error


if __name__ == "__main__":
    main()
