from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from appliance.errors import CannotTell, HatcheryError, InUse, InvalidInput, NotReady, Refused
from appliance.host import netlink
from appliance.model import Protocol
from appliance.schema import FIRST_PORT, ClientSpec, CloneCreate, NvmeSpec
from appliance.service import clients, connected
from appliance.service.clients import check
from tests.unit.service_harness import Box, box


@pytest.fixture
def appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5", "127.0.0.1"}))
    with box(tmp_path) as made:
        yield made


def tcp(address: str = "10.0.0.5", port: int = 10809, *, plain: bool = True) -> ClientSpec:
    return ClientSpec(transport="tcp", address=address, port=port, plain=plain)


@pytest.mark.parametrize(
    ("name", "spec", "error", "words"),
    [
        ("hv 1", tcp(), InvalidInput, "not a valid client name"),
        ("local", tcp(), Refused, "unix socket"),
        ("hv1", ClientSpec(transport="tcp", plain=True), InvalidInput, "needs an address"),
        ("hv1", tcp("example.org"), InvalidInput, "not an IP address"),
        ("hv1", ClientSpec(transport="unix", port=1), InvalidInput, "no address"),
    ],
)
def test_bad_clients_are_refused(name: str, spec: ClientSpec, error: type[HatcheryError], words: str) -> None:
    with pytest.raises(error, match=words):
        check(name, spec)


def test_a_plain_client_listens_where_it_was_told(appliance: Box) -> None:
    view, new = appliance.service.put_client("hv1", tcp())
    assert new
    assert (view.uri, view.plain, view.state) == ("nbd://10.0.0.5:10809/", True, "ok")
    assert view.detail == "serving 0 clone(s), not encrypted"
    listen = appliance.units.daemons["hv1"].config.listen
    assert (listen.address, listen.port) == ("10.0.0.5", 10809)
    assert appliance.service.put_client("hv1", tcp())[1] is False


def at(address: str) -> ClientSpec:
    return ClientSpec(transport="tcp", address=address, plain=True)


def test_a_client_that_says_no_port_gets_the_next_that_is_free(appliance: Box) -> None:
    service = appliance.service
    assert service.put_client("hv1", at("10.0.0.5"))[0].port == FIRST_PORT
    assert service.put_client("hv2", at("10.0.0.5"))[0].port == FIRST_PORT + 1
    assert service.put_client("hv1", at("10.0.0.5")) == (service.show_client("hv1"), False), "it keeps the one it has"
    assert service.put_client("hv3", at("127.0.0.1"))[0].port == FIRST_PORT, "another address has ports of its own"
    assert service.put_client("hv4", at("0.0.0.0"))[0].port == FIRST_PORT + 2  # noqa: S104  what is asked
    service.put_nvme_door("hv1", NvmeSpec(address="10.0.0.5", port=FIRST_PORT + 3, host_nqn="nqn.2020-01.org.x:1"))
    assert service.put_client("hv5", at("10.0.0.5"))[0].port == FIRST_PORT + 4
    service.clients.remove("hv2")
    assert service.put_client("hv6", at("10.0.0.5"))[0].port == FIRST_PORT + 1
    assert service.put_client("hv6", at("127.0.0.1"))[0].port == FIRST_PORT + 1, (
        "what it moves to has another first one"
    )
    assert appliance.units.daemons["hv6"].config.listen.port == FIRST_PORT + 1


def test_when_no_port_is_free_it_says_so(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "FIRST_PORT", 65535)
    appliance.service.put_client("hv1", at("10.0.0.5"))
    with pytest.raises(InUse, match=r"no port of 10\.0\.0\.5 is free"):
        appliance.service.put_client("hv2", at("10.0.0.5"))


def test_a_client_that_moves_keeps_its_clones(appliance: Box) -> None:
    appliance.add_template("debian")
    appliance.service.put_client("hv1", tcp())
    appliance.service.create_clones(CloneCreate(name="web", template="debian", client="hv1"))
    appliance.service.put_client("hv1", tcp(port=10810))
    assert appliance.units.daemons["hv1"].config.listen.port == 10810
    assert appliance.exported("hv1") == {"web"}
    assert appliance.service.show_clone("web").uri == "nbd://10.0.0.5:10810/web"


def test_an_address_of_another_machine_is_refused(appliance: Box) -> None:
    with pytest.raises(InvalidInput, match=r"10\.0\.0\.9 is not an address of this machine"):
        appliance.service.put_client("hv1", tcp("10.0.0.9"))
    assert [client.name for client in appliance.service.list_clients().clients] == ["local"]


@pytest.mark.parametrize("address", ["10.0.0.5", "0.0.0.0"])  # noqa: S104  nothing listens there
def test_two_clients_do_not_share_a_port(appliance: Box, address: str) -> None:
    appliance.service.put_client("hv1", tcp())
    with pytest.raises(InUse, match="hv1"):
        appliance.service.put_client("hv2", tcp(address))
    appliance.service.put_client("hv2", tcp("127.0.0.1"))


def test_a_client_that_cannot_be_served_is_not_added(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(client: str) -> None:
        raise NotReady(f"the storage daemon of client {client} does not start", why="Address already in use")

    monkeypatch.setattr(appliance.units, "start", refuse)
    with pytest.raises(NotReady, match="Address already in use"):
        appliance.service.put_client("hv1", tcp())
    assert appliance.service.core.catalog.find_client("hv1") is None
    assert not appliance.paths.nbd("hv1").exists()


def test_a_client_is_removed_with_its_files_but_never_with_clones(appliance: Box) -> None:
    appliance.add_template("debian")
    appliance.service.put_client("hv1", tcp())
    appliance.service.create_clones(CloneCreate(name="web", template="debian", client="hv1"))
    with pytest.raises(InUse, match="web"):
        appliance.service.clients.remove("hv1")
    appliance.service.clones.remove("web", force=False)
    assert appliance.service.clients.remove("hv1")
    assert not appliance.service.clients.remove("hv1")
    assert not appliance.paths.nbd("hv1").exists()
    assert "hv1" not in appliance.units.daemons
    with pytest.raises(Refused):
        appliance.service.clients.remove("local")


def test_connections_that_cannot_be_told_are_not_none_at_all(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise CannotTell("who is connected cannot be told")

    assert appliance.service.list_clients().clients[0].connections == ()
    monkeypatch.setattr(netlink, "unix_connections", fail)
    assert appliance.service.list_clients().clients[0].connections is None


def test_a_connection_is_as_old_as_the_look_that_found_it(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = netlink.Connection("pid 7 (qemu)", "1001"), netlink.Connection("192.0.2.9:50000", "1002", 700, 9000)
    found = [first]
    monkeypatch.setattr(netlink, "unix_connections", lambda _: tuple(found))
    connections = appliance.service._connections
    times = iter((100.0, 100.0, 100.0, 103.0, 120.0, 120.0, 120.0, 121.0))
    monkeypatch.setattr(connections, "_clock", lambda: next(times))
    connections.look()
    connections.look()  # was done just now
    found.append(second)
    connections.look()
    (old, new) = appliance.service.list_clients().clients[0].connections or ()
    assert (old.peer, old.since, old.received_bytes) == ("pid 7 (qemu)", 100.0, None)
    assert (new.peer, new.since, new.received_bytes, new.sent_bytes) == ("192.0.2.9:50000", 120.0, 700, 9000)
    assert set(connected.read(appliance.paths.connected, lambda: 121.0)["local", Protocol.NBD]) == {"1001", "1002"}


def test_a_client_has_so_many_connections_and_no_more(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance.service.put_client("hv1", tcp())
    assert appliance.units.daemons["hv1"].config.max_connections == 1000
    few = tcp().model_copy(update={"max_connections": 2})
    view, new = appliance.service.put_client("hv1", few)
    assert (view.max_connections, new) == (2, False)
    assert appliance.units.daemons["hv1"].config.max_connections == 2, "it was started anew"
    daemon = appliance.units.daemons["hv1"]
    assert appliance.service.put_client("hv1", few)[1] is False
    assert appliance.units.daemons["hv1"] is daemon
    assert "others wait" not in appliance.service.show_client("hv1").detail
    both = (netlink.Connection("10.0.0.1:1", "1"), netlink.Connection("10.0.0.1:2", "2"))
    monkeypatch.setattr(netlink, "tcp_connections", lambda _: both)
    assert appliance.service.show_client("hv1").detail.endswith("all of its 2 connections taken: others wait")


def test_two_hosts_on_one_clone_are_told_of(appliance: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    appliance.add_template("debian")
    service = appliance.service
    service.put_client("hv1", tcp())
    peers = ["192.0.2.7:40000", "192.0.2.7:40001"]
    monkeypatch.setattr(netlink, "tcp_connections", lambda _: tuple(netlink.Connection(peer, peer) for peer in peers))
    service.create_clones(CloneCreate(name="web", template="debian", client="hv1"))
    assert service.status().problems == (), "a host may have several connections"
    peers.append("[2001:db8::9]:40000")
    [problem] = service.status().problems
    assert problem.severity == "degraded"
    assert problem.what.startswith("client hv1 is connected from 192.0.2.7 and [2001:db8::9], and has clone web:")
    service.create_clones(CloneCreate(name="db", template="debian", client="hv1"))
    assert service.status().problems == (), "each may have one of them"
    peers.append("192.0.2.8:40000")
    [problem] = service.status().problems
    assert "and has 2 clones:" in problem.what
    service.offers.put("debian", "hv1")
    assert service.status().problems == (), "who reads a template may be anywhere"


@pytest.mark.parametrize("wrong", [0, 10_001])
def test_a_number_of_connections_that_cannot_be_is_refused(wrong: int) -> None:
    with pytest.raises(ValidationError):
        ClientSpec(transport="unix", max_connections=wrong)
