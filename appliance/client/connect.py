"""Connections to an appliance: on this machine by its unix socket, elsewhere through SSH."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from appliance import schema
from appliance.client.client import Client
from appliance.client.requests import TIMEOUT
from appliance.config import Paths
from appliance.remote import forwarded
from appliance.run import Runner


@contextmanager
def connect(*, host: str | None = None, socket: Path | None = None, runner: Runner | None = None) -> Iterator[Client]:
    """A client of the appliance on ``host`` (``USER@NAME``, through SSH), or of this machine.

    ``socket`` is the API's unix socket on the appliance. Raises NotReady, DeadlineExceeded.
    """
    path = socket or Paths().api_socket
    if host is None:
        with _over(path) as client:
            yield client
    else:
        with forwarded(host, path, runner or Runner()) as local, _over(local) as client:
            yield client


@contextmanager
def _over(path: Path) -> Iterator[Client]:
    transport = httpx.HTTPTransport(uds=str(path))
    base = f"http://hatchery{schema.API_PREFIX}"
    with httpx.Client(transport=transport, base_url=base, timeout=TIMEOUT) as http:
        yield Client(http)
