"""The real server on a unix socket, in a thread, over the service of models."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from appliance.api import server
from appliance.api.app import make_app
from tests.unit.service_harness import Box


class Started(server.Server):
    """Tells when it listens."""

    listening: threading.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@contextmanager
def serving(box: Box) -> Iterator[httpx.Client]:
    """A client of the API of ``box``."""
    running = Started(make_app(box.service), box.service)
    running.listening = threading.Event()
    listener = server.listen(box.paths.api_socket)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert running.listening.wait(10)
        transport = httpx.HTTPTransport(uds=str(box.paths.api_socket))
        with httpx.Client(transport=transport, base_url="http://hatchery", timeout=20) as client:
            yield client
    finally:
        running.should_exit = True
        thread.join(10)
        assert not thread.is_alive()
