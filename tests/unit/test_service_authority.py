"""An operator's own authority: with its key, without it, and what is refused before a guest misses its disk."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from pydantic import SecretStr

from appliance.errors import AlreadyExists, InUse, InvalidInput, Refused
from appliance.host import netlink
from appliance.schema import AuthoritySpec, CertificateBundle, CertificateRequest, ClientSpec
from tests import own_authority as own
from tests.unit.service_harness import Box, box

ROOT = own.authority("O=Example,CN=root")
BELOW = own.authority("O=Example,CN=hatchery", ROOT)
SERVER = own.leaf("CN=box", BELOW, "server", ["10.0.0.5"])
CLIENT = own.leaf("O=hv1,CN=one", BELOW, "client")

SIGNS = AuthoritySpec(certificate=BELOW.certificate, key=SecretStr(BELOW.key), chain=ROOT.certificate)
OUTSIDE = AuthoritySpec(
    certificate=BELOW.certificate,
    chain=ROOT.certificate,
    server_certificate=SERVER.certificate,
    server_key=SecretStr(SERVER.key),
)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """A box with the TLS client ``hv1``."""
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5", "10.0.0.6"}))
    with box(tmp_path) as made:
        made.service.put_client("hv1", ClientSpec(transport="tcp", address="10.0.0.5", port=10809))
        yield made


def give(box: Box, name: str, made: own.Made, *, kind: str = "first") -> CertificateBundle:
    request = CertificateRequest.model_validate({"kind": kind, "signed": made.certificate})
    return box.service.issue_certificate(name, request)


def shown(box: Box, client: str = "hv1") -> tuple[str, str]:
    """What a client's daemon believes and shows."""
    folder = box.paths.tls(client)
    return (folder / "ca-cert.pem").read_text(), (folder / "server-cert.pem").read_text()


def test_with_its_key_certificates_are_made_as_before(client: Box) -> None:
    view = client.service.authorities.use(SIGNS, force=False)
    assert (view.given, view.signs, view.subject) == (True, True, "CN=hatchery,O=Example")
    believes, server = shown(client)
    assert believes == BELOW.certificate + ROOT.certificate
    x509.load_pem_x509_certificate(server.encode()).verify_directly_issued_by(BELOW.found)
    made = client.service.issue_certificate("hv1", CertificateRequest())
    assert made.authority == BELOW.certificate + ROOT.certificate
    x509.load_pem_x509_certificate(made.certificate.encode()).verify_directly_issued_by(BELOW.found)
    assert client.units.daemons["hv1"].allowed == (f"O=hv1,CN=certificate {made.serial}",)
    daemon = client.units.daemons["hv1"]
    assert client.service.authorities.use(SIGNS, force=False) == view
    assert client.units.daemons["hv1"] is daemon, "it is the same: nobody is cut off"


def test_a_root_that_signs_by_rsa_is_as_good(client: Box) -> None:
    client.service.authorities.use(AuthoritySpec(certificate=ROOT.certificate, key=SecretStr(ROOT.key)), force=False)
    made = client.service.issue_certificate("hv1", CertificateRequest())
    x509.load_pem_x509_certificate(made.certificate.encode()).verify_directly_issued_by(ROOT.found)


def test_another_authority_ends_all_certificates_and_is_forced_alone(client: Box) -> None:
    first = client.service.issue_certificate("hv1", CertificateRequest())
    daemon = client.units.daemons["hv1"]
    with pytest.raises(InUse, match="hv1"):
        client.service.authorities.use(SIGNS, force=False)
    with pytest.raises(InUse, match="hv1"):
        client.service.authorities.renew(force=False)
    assert client.units.daemons["hv1"] is daemon
    client.service.authorities.use(SIGNS, force=True)
    assert client.units.daemons["hv1"] is not daemon, "whoever was connected is cut off"
    assert client.units.daemons["hv1"].allowed == ()
    (old,) = client.service.show_client("hv1").certificates
    assert (old.serial, old.revoked is not None) == (first.serial, True)
    assert not client.service.core.catalog.owes_cut("hv1")
    renewed = client.service.authorities.renew(force=False)
    assert (renewed.given, renewed.signs) == (False, True)
    assert shown(client)[0] == renewed.certificate != BELOW.certificate


def test_a_key_that_never_was_here(client: Box) -> None:
    request, _ = own.request("CN=whatever it says")
    made = client.service.issue_certificate("hv1", CertificateRequest(request=request))
    assert made.key.get_secret_value() == ""
    found = x509.load_pem_x509_certificate(made.certificate.encode())
    assert found.public_key() == x509.load_pem_x509_csr(request.encode()).public_key()
    assert found.subject.rfc4514_string() == f"CN=certificate {made.serial},O=hv1", "the name is ours"
    for wrong in ("", "nothing", request.replace("A", "B", 40)):
        with pytest.raises(InvalidInput, match="request"):
            client.service.issue_certificate("hv1", CertificateRequest(kind="rotation", request=wrong))


def test_without_its_key_everything_comes_from_outside(client: Box) -> None:
    with pytest.raises(InvalidInput, match="from outside cannot be used"):
        give(client, "hv1", CLIENT)
    view = client.service.authorities.use(OUTSIDE, force=False)
    assert (view.given, view.signs) == (True, False)
    assert shown(client) == (BELOW.certificate + ROOT.certificate, SERVER.certificate)
    with pytest.raises(Refused, match="no certificate can be signed here"):
        client.service.issue_certificate("hv1", CertificateRequest())
    assert give(client, "hv1", CLIENT).key.get_secret_value() == ""
    assert client.units.daemons["hv1"].allowed == ("O=hv1,CN=one",)
    (found,) = client.service.show_client("hv1").certificates
    assert found.name == "O=hv1,CN=one"
    with pytest.raises(AlreadyExists, match="rotate"):
        give(client, "hv1", own.leaf("O=hv1,CN=two", BELOW, "client"))
    give(client, "hv1", own.leaf("O=hv1,CN=two", BELOW, "client"), kind="rotation")
    client.service.certificates.revoke("hv1", "older")
    assert client.units.daemons["hv1"].allowed == ("O=hv1,CN=two",)
    # After a start they are as they were.
    client.reboot()
    assert client.units.daemons["hv1"].allowed == ("O=hv1,CN=two",)
    assert shown(client) == (BELOW.certificate + ROOT.certificate, SERVER.certificate)


def test_names_let_in_so_a_name_is_one_clients_and_is_revoked_for_ever(client: Box) -> None:
    client.service.authorities.use(OUTSIDE, force=False)
    client.service.put_client("hv2", ClientSpec(transport="tcp", address="10.0.0.5", port=10810))
    give(client, "hv1", CLIENT)
    again = own.leaf("O=hv1,CN=one", BELOW, "client")
    with pytest.raises(Refused, match="client hv1 has it"):
        give(client, "hv2", again)
    give(client, "hv1", again, kind="rotation")
    with pytest.raises(AlreadyExists):
        give(client, "hv1", again, kind="rotation")
    client.service.certificates.revoke("hv1", "older")
    assert client.units.daemons["hv1"].allowed == (), "both have the name"
    with pytest.raises(Refused, match="cannot be used"):
        give(client, "hv1", own.leaf("O=hv1,CN=one", BELOW, "client"), kind="rotation")


def test_a_new_certificate_of_the_appliance_ends_nobodys(client: Box) -> None:
    client.service.authorities.use(OUTSIDE, force=False)
    give(client, "hv1", CLIENT)
    fresh = own.leaf("CN=box", BELOW, "server", ["10.0.0.5"])
    wanted = OUTSIDE.model_copy(update={"server_certificate": fresh.certificate, "server_key": SecretStr(fresh.key)})
    client.service.authorities.use(wanted, force=False)
    assert shown(client)[1] == fresh.certificate
    assert client.units.daemons["hv1"].allowed == ("O=hv1,CN=one",)


def test_a_client_at_another_address_is_refused_before_its_guests_are(client: Box) -> None:
    client.service.authorities.use(OUTSIDE, force=False)
    with pytest.raises(InvalidInput, match="not good for client hv2"):
        client.service.put_client("hv2", ClientSpec(transport="tcp", address="10.0.0.6", port=10810))
    other = own.leaf("CN=box", BELOW, "server", ["10.0.0.6"])
    wanted = OUTSIDE.model_copy(update={"server_certificate": other.certificate, "server_key": SecretStr(other.key)})
    with pytest.raises(InvalidInput, match="not good for client hv1"):
        client.service.authorities.use(wanted, force=False)


STRANGER = own.authority("CN=stranger")
SERVER_OF_STRANGER = own.leaf("CN=box", STRANGER, "server", ["10.0.0.5"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"certificate": "nothing"}, "authority's certificate cannot be read"),
        ({"certificate": SERVER.certificate}, "no authority's"),
        ({"key": SecretStr("nothing")}, "key cannot be read"),
        ({"key": SecretStr(ROOT.key)}, "do not belong together"),
        ({"key": None}, "a certificate for the appliance and its key are needed"),
        ({"chain": "nothing"}, "chain"),
        ({"chain": SERVER.certificate}, "chain is none"),
        ({"server_certificate": SERVER.certificate}, "not needed"),
    ],
)
def test_an_authority_that_would_not_work_is_refused(client: Box, changes: dict[str, object], words: str) -> None:
    before = client.service.authorities.show()
    with pytest.raises(InvalidInput, match=words):
        client.service.authorities.use(SIGNS.model_copy(update=changes), force=True)
    assert client.service.authorities.show() == before


@pytest.mark.parametrize(
    ("made", "key", "words"),
    [
        (SERVER_OF_STRANGER, SERVER_OF_STRANGER.key, "of another authority"),
        (SERVER, CLIENT.key, "do not belong together"),
        (CLIENT, CLIENT.key, "another purpose"),
        (BELOW, BELOW.key, "of another authority"),
    ],
)
def test_a_server_certificate_that_would_not_work_is_refused(client: Box, made: own.Made, key: str, words: str) -> None:
    wanted = OUTSIDE.model_copy(update={"server_certificate": made.certificate, "server_key": SecretStr(key)})
    with pytest.raises(InvalidInput, match=words):
        client.service.authorities.use(wanted, force=True)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (own.leaf("O=hv1,CN=one", STRANGER, "client"), "of another authority"),
        (own.leaf("O=hv1,CN=one", BELOW, "server"), "another purpose"),
        (own.leaf("O=hv1,CN=one", BELOW, "client", days=-1), "not good now"),
        (own.leaf("O=hv1+more", BELOW, "client"), "name cannot be used"),
        (own.leaf("CN= spaces ", BELOW, "client"), "name cannot be used"),
    ],
)
def test_a_client_certificate_that_would_not_let_in_is_refused(client: Box, made: own.Made, words: str) -> None:
    client.service.authorities.use(OUTSIDE, force=False)
    with pytest.raises(InvalidInput, match=words):
        give(client, "hv1", made)
    assert client.units.daemons["hv1"].allowed == ()


def test_an_authority_that_has_ended_is_refused(client: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    later = time.time() + 40 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(InvalidInput, match="not good now"):
        client.service.authorities.use(SIGNS, force=False)
