"""Since when somebody is connected: kept over a restart of hatcheryd, by the number that the kernel gives a socket."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.host import netlink
from appliance.host.netlink import Connection
from appliance.schema import ClientSpec, ClientView
from appliance.service import connected
from tests.unit import nvme_box
from tests.unit.nvme_box import attach
from tests.unit.service_harness import Box

SO_COOKIE = 57
"""Not in Python's socket module (asm-generic/socket.h)."""


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """hv1 is reached over both protocols; a connection by each."""
    with nvme_box.clients(tmp_path, monkeypatch) as made:
        attach(made)
        made.service._connections._clock = lambda: 1000.0
        there = {4420: (Connection("10.0.0.9:40000", "71", 5, 6),), 10809: (Connection("10.0.0.9:50000", "72", 7, 8),)}
        monkeypatch.setattr(netlink, "tcp_connections", lambda port: there.get(port, ()))
        made.service.put_client("hv1", ClientSpec(transport="tcp", address="10.0.0.5", port=10809, plain=True))
        yield made


def at(box: Box, now: float) -> ClientView:
    """The client as a look at that time shows it."""
    connections = box.service._connections
    connections._clock = lambda: now
    connections.look()
    return box.service.show_client("hv1")


def since(view: ClientView) -> tuple[float | None, float | None]:
    """By NBD and by NVMe/TCP."""
    assert view.connections is not None
    assert view.nvme is not None
    assert view.nvme.connections is not None
    return next((c.since for c in view.connections), None), next((c.since for c in view.nvme.connections), None)


def test_a_restart_makes_nobody_younger(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    assert since(at(box, 1000.0)) == (1000.0, 1000.0)
    assert box.paths.connected.stat().st_mode & 0o777 == 0o600
    box.restart()
    assert since(at(box, 2000.0)) == (1000.0, 1000.0)
    # Who went and came back from the same port is another.
    box.restart()
    monkeypatch.setattr(
        netlink, "tcp_connections", lambda port: (Connection("10.0.0.9:50000", "73"),) * (port == 10809)
    )
    assert since(at(box, 3000.0)) == (3000.0, None)
    box.restart()
    assert since(at(box, 4000.0)) == (3000.0, None)
    assert "71" not in box.paths.connected.read_text()


def test_another_run_of_the_machine_begins_anew(box: Box, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    at(box, 1000.0)
    other = tmp_path / "boot-id"
    other.write_text("another\n")
    monkeypatch.setattr(connected, "BOOT_ID", other)
    box.restart()
    assert since(at(box, 2000.0)) == (2000.0, 2000.0)


def _change(**values: object) -> Callable[[str], str]:
    def change(text: str) -> str:
        said = json.loads(text)
        said["connections"][0].update(values)
        return json.dumps(said)

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-5],
        lambda _: "[]",
        lambda _: "{}",
        lambda _: "\0",
        lambda _: "[" * 100_000,
        lambda text: text.replace('"connections": [', '"connections": {"a": [').replace("]}", "]}}"),
        _change(since="soon"),
        _change(since=5000.0),
        _change(since=float("nan")),
        _change(since=-1),
        _change(identity=71),
        _change(client=None),
        _change(protocol="ata"),
    ],
)
def test_a_file_that_cannot_be_is_not_believed(
    box: Box, spoil: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    at(box, 1000.0)
    box.paths.connected.write_text(spoil(box.paths.connected.read_text()))
    box.restart()
    assert since(at(box, 2000.0)) == (2000.0, 2000.0)
    assert "since when clients are connected is not known" in caplog.text


def test_where_nothing_can_be_written_it_goes_on(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    box.paths.connected.unlink()
    box.paths.connected.mkdir()
    (box.paths.connected / "full").touch()
    box.restart()
    assert since(at(box, 2000.0)) == (2000.0, 2000.0)
    assert "cannot be kept" in caplog.text


def test_a_socket_is_told_by_the_kernels_own_number(tmp_path: Path) -> None:
    def number(of: socket.socket) -> str:
        return str(int.from_bytes(of.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little"))

    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("127.0.0.1", 0)) as server:
        listener.bind(str(path))
        listener.listen()
        port = server.getsockname()[1]
        with socket.socket(socket.AF_UNIX) as one, socket.create_connection(("127.0.0.1", port)) as two:
            one.connect(str(path))
            (accepted, _), (over_tcp, peer) = listener.accept(), server.accept()
            with accepted, over_tcp:
                [unix] = netlink.unix_connections(path)
                [tcp] = netlink.tcp_connections(port)
                assert (unix.identity, tcp.identity) == (number(accepted), number(over_tcp))
                assert unix.peer.startswith(f"pid {os.getpid()} (")
                assert tcp.peer == f"{peer[0]}:{peer[1]}"
                two.close()
