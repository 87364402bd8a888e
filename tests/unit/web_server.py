"""The public server of metrics and page over the real API of a service on the model of the store."""

import grp
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from appliance import schema
from appliance.api import server
from appliance.api.app import make_app
from appliance.client import connect
from appliance.web import app, main
from tests.unit.service_harness import Box

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@contextmanager
def read_socket(appliance: Box) -> Iterator[Path]:
    """The API's socket for those who may only look."""
    listener = server.listen(appliance.paths.read_socket, grp.getgrgid(os.getgid()).gr_name)
    with server.Reader(make_app(appliance.service), listener):
        yield appliance.paths.read_socket


@contextmanager
def served(api: Path) -> Iterator[httpx.Client]:
    """The public server on a port of its own, over the API's socket."""
    with main.bound("127.0.0.1:0") as listener:
        address, port = listener.getsockname()[:2]
        public = app.make_app(lambda: connect(socket=api))
        with server.Reader(public, listener), httpx.Client(base_url=f"http://{address}:{port}", timeout=20) as client:
            yield client


def values(text: str) -> Series:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def filled(appliance: Box) -> None:
    appliance.add_template("debian")
    appliance.service.create_clones(schema.CloneCreate(name="web", template="debian", count=2))
