"""Other NBD servers: their addresses, and how one that answers nothing is told from one that nobody asks."""

from dataclasses import dataclass

import pytest

from appliance.errors import CannotTell, InvalidInput
from appliance.host import block
from appliance.host.block import Statistics
from appliance.host.storage_daemon import Server
from appliance.service import remotes
from appliance.service.remotes import HANGS_SECONDS, NbdRemotes, parse


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("nbd://192.0.2.1/debian@1", Server("192.0.2.1", 10809, "debian@1")),
        ("nbds://box:10811/debian@1", Server("box", 10811, "debian@1", tls=True)),
        ("nbd://[2001:db8::1]:1/two%20words", Server("2001:db8::1", 1, "two words")),
        ("nbd://box", Server("box", 10809, "")),
    ],
)
def test_a_uri_names_a_server_and_an_export(uri: str, wanted: Server) -> None:
    assert parse(uri) == wanted
    assert wanted.export in str(wanted)


@pytest.mark.parametrize("uri", ["nbd://box:0/x", "nbd://me@box/x", "nbd://box/x?y", "nbd://box/x#y", "nbds:///x", "x"])
def test_what_names_none_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput, match="no NBD URI"):
        parse(uri)


@dataclass
class Device:
    """A device of the kernel's client, and the time."""

    reads: int = 0
    waiting: int = 0
    now: float = 100.0


def test_a_server_hangs_when_somebody_waits_and_nobody_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setattr("appliance.service.remotes.time.monotonic", lambda: device.now)
    monkeypatch.setattr(block, "by_name", lambda _: device)
    monkeypatch.setattr(block, "statistics", lambda _: Statistics(device.reads, 0, 0, 0, 0, 0))
    monkeypatch.setattr(block, "inflight", lambda _: device.waiting)
    source = remotes._Open("hatchery-source-1", Server("box", 1, "x"), 0, since=device.now)

    def after(seconds: float) -> bool:
        device.now += seconds
        return NbdRemotes._hangs(source)

    assert not after(10 * HANGS_SECONDS)  # nobody asks
    device.waiting = 1
    assert not after(HANGS_SECONDS - 1)
    device.reads = 5
    assert not after(2)  # it answered somebody
    assert not after(HANGS_SECONDS - 1)
    assert after(2)
    assert not after(2)  # it is told once, and then it has its time again
    assert after(HANGS_SECONDS)

    def fail(_: object) -> Statistics:
        raise CannotTell("it is gone")

    monkeypatch.setattr(block, "statistics", fail)
    assert not after(10 * HANGS_SECONDS)
