"""Storage daemons: users of their own, devices that are let to them, a socket that outlives them."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.errors import NoSpace
from appliance.host import daemon_users, device_access, listener, notify
from appliance.host.daemon_users import FIRST, DaemonUsers
from appliance.host.storage_daemon import Listen
from appliance.host.units import Systemd
from appliance.model import Access
from appliance.run import Completed, Runner


def test_every_client_has_a_number_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = DaemonUsers(tmp_path)
    long = "a" * 63
    assert [users.of(client) for client in ("hv1", "hv2.example", long, "hv1")] == [FIRST, FIRST + 1, FIRST + 2, FIRST]
    # The next hatcheryd finds them where systemd does.
    assert DaemonUsers(tmp_path).of("hv2.example") == FIRST + 1
    text = (tmp_path / "hatchery-nbd@hv1.service.d" / "user.conf").read_text(encoding="utf-8")
    assert f"[Service]\nUser={FIRST}\nGroup={FIRST}\nEnvironment=OWNER={FIRST}\n" in text
    monkeypatch.setattr(daemon_users, "MOST", 3)
    with pytest.raises(NoSpace):
        users.of("hv4")


class Manager(Runner):
    """A service manager that has read a unit before its drop-in was there, or not."""

    def __init__(self, *, outdated: bool) -> None:
        super().__init__()
        self.outdated = outdated
        self.asked: list[str] = []

    def run(self, argv: Sequence[str | Path], **_: object) -> Completed:
        verb = str(argv[1])
        self.asked.append(verb)
        return Completed((), 0, "yes\n" if verb == "show" and self.outdated else "no\n", "")


@pytest.mark.parametrize(("outdated", "asked"), [(True, ["show", "daemon-reload"]), (False, ["show"])])
def test_a_daemon_is_its_own_user_although_another_unit_named_it_before(
    tmp_path: Path, *, outdated: bool, asked: list[str]
) -> None:
    manager = Manager(outdated=outdated)
    units = Systemd(manager, DaemonUsers(tmp_path))
    units.start("local")
    assert manager.asked == [*asked, "start"]
    units.restart("local")
    assert manager.asked == [*asked, "start", "restart"]


def test_a_device_is_let_to_the_users_that_are_named_and_to_no_others(tmp_path: Path) -> None:
    device = tmp_path / "device"
    assert not device_access.grant(device, {FIRST: Access.READ_WRITE})
    device.touch(0o660)
    assert device_access.granted(device) == {}
    both = {FIRST + 1: Access.READ_ONLY, FIRST: Access.READ_WRITE}
    assert device_access.grant(device, both)
    assert device_access.granted(device) == both
    # What udev asks for is what it finds, so that it changes nothing.
    assert device.stat().st_mode & 0o777 == 0o660
    assert device_access.grant(device, {})
    assert device_access.granted(device) == {}


def systemd(path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Where a service manager would listen."""
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(path))
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    return heard


def peer(listening: socket.socket) -> str:
    """Who is the next to be served."""
    found, address = listening.accept()
    found.close()
    return str(address[0])


def passed(monkeypatch: pytest.MonkeyPatch, name: str, kept: socket.socket) -> None:
    """What a service manager does when it gives a socket back."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", name)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setattr(notify, "FIRST_PASSED", kept.detach())


def test_who_connects_while_the_daemon_is_away_is_served_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with systemd(tmp_path / "notify", monkeypatch) as heard, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        where = Listen(address="127.0.0.1", port=port)
        with listener.take(where):
            assert heard.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=nbd"
            words, (number, *_), _, _ = socket.recv_fds(heard, 1000, 4)
            assert words == b"FDSTORE=1\nFDNAME=nbd\nFDPOLL=0"
        kept = socket.socket(fileno=number)
        with socket.create_connection(("127.0.0.1", port)):
            passed(monkeypatch, "nbd", kept)
            with listener.take(where) as again:
                assert peer(again) == "127.0.0.1"
        heard.setblocking(False)
        with pytest.raises(BlockingIOError):
            heard.recv(1000)


def test_a_socket_of_another_address_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = socket.create_server(("127.0.0.1", 0))
    port = kept.getsockname()[1]
    passed(monkeypatch, "nbd", kept)
    where = Listen(path=tmp_path / "nbd.sock")
    with listener.take(where) as made:
        assert made.getsockname() == str(where.path)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    passed(monkeypatch, "nbd", socket.create_server(("127.0.0.1", 0)))
    with listener.take(Listen(address="127.0.0.1", port=port)) as made:
        assert made.getsockname() == ("127.0.0.1", port)


def test_a_unix_socket_whose_file_is_gone_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Listen(path=tmp_path / "nbd.sock")
    assert where.path is not None
    kept = listener.take(where)
    where.path.unlink()
    passed(monkeypatch, "nbd", kept)
    with listener.take(where), socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(where.path))


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="the kernel has no IPv6")
def test_every_address_is_of_both_kinds() -> None:
    with listener.take(Listen(address="::", port=0)) as made:
        port = made.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            assert peer(made) == "::ffff:127.0.0.1"
