import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import pki
from appliance.catalog import Client
from appliance.errors import AlreadyExists, InUse, NotFound, NotReady, Refused, Unhealthy
from appliance.host import netlink
from appliance.schema import CertificateBundle, CertificateKind, CertificateRequest, ClientSpec, CloneCreate
from appliance.service.views import EXPIRES_SOON
from tests.unit.service_harness import Box, box

TLS = ClientSpec(transport="tcp", address="10.0.0.5", port=10809)
PLAIN = TLS.model_copy(update={"plain": True})


@pytest.fixture
def appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5", "10.0.0.6", "127.0.0.1"}))
    with box(tmp_path) as made:
        yield made


@pytest.fixture
def client(appliance: Box) -> Box:
    """With a TLS client hv1."""
    appliance.service.put_client("hv1", TLS)
    return appliance


def issue(box: Box, kind: CertificateKind = "first", seconds: float = 86400.0) -> CertificateBundle:
    return box.service.issue_certificate("hv1", CertificateRequest(kind=kind, seconds=seconds))


def allowed(box: Box) -> list[str]:
    """Serials that hv1's daemon lets in."""
    return [name.rpartition(" ")[2] for name in box.units.daemons["hv1"].allowed]


def certificate(box: Box) -> str:
    return (box.paths.tls("hv1") / "server-cert.pem").read_text()


def authority(box: Box) -> pki.Authority:
    found = box.service.core.catalog.authority()
    assert found
    return pki.Authority(found.certificate, found.key)


def test_a_tls_client_has_a_door_that_nobody_passes_yet(client: Box) -> None:
    view = client.service.show_client("hv1")
    assert view.uri == "nbds://10.0.0.5:10809/"
    assert not view.plain
    assert view.detail == "serving 0 clone(s), and no certificate lets anybody in"
    assert client.units.daemons["hv1"].config.listen.tls
    assert allowed(client) == []


def test_a_daemons_key_is_roots_and_goes_with_its_client(client: Box) -> None:
    folder = client.paths.tls("hv1")
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        "ca-cert.pem": 0o600,
        "server-cert.pem": 0o600,
        "server-key.pem": 0o600,
    }
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    client.service.clients.remove("hv1")
    assert not folder.exists()


def test_a_daemons_certificate_stays_unless_the_daemon_is_reached_by_something_else(client: Box) -> None:
    first = certificate(client)
    client.restart()
    assert certificate(client) == first
    client.service.put_client("hv1", TLS.model_copy(update={"address": "0.0.0.0"}))  # noqa: S104  nothing listens
    second = certificate(client)
    assert second != first
    assert pki.serves(second, authority(client), socket.gethostname(), ["10.0.0.5", "10.0.0.6"], time.time())
    (client.paths.tls("hv1") / "server-key.pem").unlink()
    client.restart()
    assert certificate(client) != second


def test_there_is_one_authority(client: Box) -> None:
    before = authority(client)
    issue(client)
    client.service.put_client("hv2", TLS.model_copy(update={"port": 10810}))
    client.restart()
    assert authority(client) == before


def test_certificates_come_one_after_the_other(client: Box) -> None:
    first = issue(client)
    assert allowed(client) == [first.serial]
    with pytest.raises(AlreadyExists, match="rotate hv1"):
        issue(client)
    second = issue(client, "rotation")
    assert allowed(client) == [second.serial, first.serial]
    assert [each.serial for each in client.service.show_client("hv1").certificates] == [second.serial, first.serial]
    assert "no certificate" not in client.service.show_client("hv1").detail


def test_a_rotation_disturbs_nobody_and_a_revocation_cuts_off(client: Box) -> None:
    first = issue(client)
    daemon = client.units.daemons["hv1"]
    second = issue(client, "rotation")
    assert client.units.daemons["hv1"] is daemon
    client.service.certificates.revoke("hv1", "older")
    after = client.units.daemons["hv1"]
    assert after is not daemon
    assert allowed(client) == [second.serial]
    client.service.certificates.revoke("hv1", "named", [first.serial])
    client.service.certificates.revoke("hv1", "older")
    assert client.units.daemons["hv1"] is after, "nothing was left to revoke"
    client.service.certificates.revoke("hv1", "all")
    assert allowed(client) == []
    assert issue(client).serial in allowed(client)


def test_what_is_revoked_stays_revoked_when_everything_restarts(client: Box) -> None:
    first, second = issue(client), issue(client, "rotation")
    client.service.certificates.revoke("hv1", "named", [first.serial])
    client.units.kill("hv1")
    client.units.start("hv1")
    assert allowed(client) == [second.serial], "it comes back by itself"
    client.reboot()
    assert allowed(client) == [second.serial]


@pytest.mark.parametrize("by_command", [True, False])
def test_a_revocation_holds_even_if_the_daemon_does_not_come_back(
    client: Box, monkeypatch: pytest.MonkeyPatch, by_command: bool
) -> None:
    issue(client)

    def refuse(client: str) -> None:
        raise NotReady(f"the storage daemon of client {client} does not restart")

    with monkeypatch.context() as patch:
        patch.setattr(client.units, "restart", refuse)
        with pytest.raises(NotReady):
            client.service.certificates.revoke("hv1", "all")
    assert allowed(client) == [], "the daemon that still runs was told before"
    assert client.service.show_client("hv1").certificates[0].revoked is not None

    # Whoever was connected may still be: that is made up for when it is asked again, or when the service starts.
    left = client.units.daemons["hv1"]
    if by_command:
        client.service.certificates.revoke("hv1", "all")
    else:
        client.restart()
    after = client.units.daemons["hv1"]
    assert after is not left
    client.restart()
    assert client.units.daemons["hv1"] is after, "once is enough"


def test_a_daemon_that_still_is_plain_does_not_stay_so(appliance: Box) -> None:
    """hatcheryd died after the catalog was changed and before the daemon was."""
    appliance.service.put_client("hv1", PLAIN)
    appliance.service.core.catalog.put_client(Client("hv1", "tcp", "10.0.0.5", 10809))
    appliance.units.daemons["hv1"].refuse["qom-set"] = "object path not found"
    appliance.restart()
    assert appliance.units.daemons["hv1"].config.listen.tls


def test_a_certificate_that_no_daemon_learned_of_lets_nobody_in(client: Box) -> None:
    client.units.daemons["hv1"].refuse["qom-set"] = "not now"
    with pytest.raises(Unhealthy, match="not now"):
        issue(client)
    assert [each.revoked is None for each in client.service.show_client("hv1").certificates] == [False]
    del client.units.daemons["hv1"].refuse["qom-set"]
    issue(client)


def test_a_daemon_that_is_down_learns_of_it_when_it_comes_up(client: Box) -> None:
    client.units.kill("hv1")
    made = issue(client)
    client.units.start("hv1")
    assert allowed(client) == [made.serial]


def test_only_tls_clients_have_certificates(appliance: Box) -> None:
    appliance.service.put_client("hv1", PLAIN)
    with pytest.raises(Refused, match="without TLS"):
        issue(appliance)
    with pytest.raises(Refused, match="without TLS"):
        appliance.service.certificates.revoke("local", "all")
    with pytest.raises(NotFound):
        appliance.service.certificates.revoke("hv9", "all")


def test_a_serial_of_another_client_is_not_found(client: Box) -> None:
    made = issue(client)
    client.service.put_client("hv2", TLS.model_copy(update={"port": 10810}))
    with pytest.raises(NotFound, match=made.serial):
        client.service.certificates.revoke("hv2", "named", [made.serial])
    assert allowed(client) == [made.serial]


def test_a_plain_client_becomes_a_tls_client_and_keeps_its_clones(appliance: Box) -> None:
    appliance.add_template("debian")
    appliance.service.put_client("hv1", PLAIN)
    appliance.service.create_clones(CloneCreate(name="web", template="debian", client="hv1"))
    view = appliance.service.show_clone("web")
    assert view.uri == "nbd://10.0.0.5:10809/web"
    assert "-object" not in view.qemu
    assert view.libvirt
    assert "tls=" not in view.libvirt
    appliance.service.put_client("hv1", TLS)
    view = appliance.service.show_clone("web")
    assert view.uri == "nbds://10.0.0.5:10809/web?tls-certificates=/etc/pki/libvirt-nbd"
    assert view.qemu[0] == "-object"
    assert '"tls-creds": "hatchery-tls"' in view.qemu[3]
    assert view.libvirt
    assert '<source protocol="nbd" name="web" tls="yes">' in view.libvirt
    assert '<host name="10.0.0.5" port="10809" />' in view.libvirt
    assert appliance.exported("hv1") == {"web"}
    with pytest.raises(InUse):
        appliance.service.clients.remove("hv1")


def test_a_certificate_that_ends_soon_is_said(client: Box) -> None:
    issue(client, seconds=EXPIRES_SOON - 86400)
    problems = [problem.what for problem in client.service.status().problems]
    assert problems == ["client hv1: its certificate ends in 29 days"]
    issue(client, "rotation", seconds=EXPIRES_SOON + 86400)
    assert client.service.status().problems == ()
