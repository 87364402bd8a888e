"""How a machine that measures comes to clones, above all to those that take a certificate."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from appliance import schema
from appliance.cli import certificate_files
from appliance.client import Client, connect
from appliance.errors import InvalidInput, NotFound, NotReady
from appliance.measure import credentials, guest, qemu
from appliance.measure.guest import NbdTarget
from appliance.measure.reach import Access, choose_client, reachable
from appliance.run import Runner
from appliance.schema import CloneView
from appliance.service import addresses
from tests.unit.api_server import serving
from tests.unit.service_harness import Box, box


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        yield made


@pytest.fixture
def api(appliance: Box) -> Iterator[Client]:
    with serving(appliance), connect(socket=appliance.paths.api_socket) as client:
        yield client


def add(api: Client, name: str, port: int, *, plain: bool = False) -> None:
    api.put_client(name, schema.ClientSpec(transport="tcp", address="127.0.0.1", port=port, plain=plain))


def certificate(api: Client, client: str, folder: Path) -> Path:
    """What `hatchery client certificate` leaves."""
    folder.mkdir()
    certificate_files.write_folder(api.issue_certificate(client, schema.CertificateRequest(kind="rotation")), folder)
    return folder


def chosen(api: Client, access: Access, host: str | None = None) -> tuple[str, str]:
    """The client, and what was noted."""
    notes: list[str] = []
    return choose_client(api, access, host, notes.append), "; ".join(notes)


def test_a_client_that_takes_no_certificate_is_used_and_several_are_not_guessed_between(api: Client) -> None:
    assert chosen(api, Access()) == ("local", "")
    add(api, "hv1", 10809, plain=True)
    assert chosen(api, Access()) == ("hv1", "")
    add(api, "hv2", 10810, plain=True)
    assert chosen(api, Access()) == ("local", "")
    assert chosen(api, Access("hv2")) == ("hv2", "")
    with pytest.raises(NotFound):
        chosen(api, Access("hv3"))


def test_the_client_whose_certificate_is_here_is_used(api: Client, tmp_path: Path) -> None:
    add(api, "hv1", 10809)
    add(api, "hv2", 10810)
    here = Access(certificates=certificate(api, "hv2", tmp_path / "here"))
    assert chosen(api, here) == ("hv2", ""), "the other one would not let it in"
    assert chosen(api, replace(here, client="hv2")) == ("hv2", "")
    with pytest.raises(NotReady, match="not one of client hv1") as caught:
        chosen(api, replace(here, client="hv1"))
    assert "hatchery client certificate hv1" in caught.value.hint
    assert "--certificates" in caught.value.hint
    api.revoke("hv2", schema.Revocation(which="all"))
    assert chosen(api, here) == ("local", "")
    with pytest.raises(NotReady, match="revoked"):
        chosen(api, replace(here, client="hv2"))


def test_without_its_certificate_the_only_client_is_left_for_the_local_one_and_that_is_said(
    api: Client, tmp_path: Path
) -> None:
    add(api, "hv1", 10809)
    nothing = Access(certificates=tmp_path / "none")
    client, note = chosen(api, nothing, "root@box")
    assert client == "local"
    assert "over SSH" in note
    assert "ca-cert.pem: No such file" in note
    assert "over its unix socket" in chosen(api, nothing)[1]
    with pytest.raises(NotReady, match="takes TLS"):
        chosen(api, replace(nothing, nbd="127.0.0.1:4000"))  # its port was named, so it is meant
    folder = certificate(api, "hv1", tmp_path / "here")
    (folder / credentials.CERTIFICATE).write_text("damaged")
    assert "is no certificate" in chosen(api, Access(certificates=folder))[1]


def clone(uri: str) -> CloneView:
    return cast(CloneView, SimpleNamespace(name="web", uri=uri))


def found(uri: str, access: Access, host: str | None = None) -> NbdTarget:
    with reachable(clone(uri), access, host, Runner()) as target:
        return target


def test_a_clone_behind_tls_is_found_with_this_machines_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = SimpleNamespace(path=None, address="192.0.2.1", port=10809, tls=True)
    # What plays a Listen has all that is asked of one.
    uri = addresses.uri(listening, "web")  # type: ignore[arg-type]
    assert str(credentials.FOLDER) == addresses.CERTIFICATES
    target = found(uri, Access(certificates=Path("/a")))
    assert target == NbdTarget("web", "192.0.2.1", 10809, certificates="/a")
    assert target.uri == "nbds://192.0.2.1:10809/web?tls-certificates=/a"
    there = found(uri, Access(nbd="127.0.0.1:4000"))
    assert (there.host, there.port, there.known_as) == ("127.0.0.1", 4000, "192.0.2.1")
    assert there.uri.endswith("&tls-hostname=192.0.2.1")
    assert NbdTarget.parse(there.uri) == there
    anywhere = uri.replace("192.0.2.1", "0.0.0.0")  # noqa: S104 - it is what the appliance says
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("192.0.2.7", 0))])
    assert found(anywhere, Access(), "root@box").host == "192.0.2.7", "the certificate has its addresses"
    with pytest.raises(InvalidInput, match="not an address"):
        found(uri, Access(nbd="box"))


def test_qemu_is_given_the_certificate() -> None:
    machine = (guest.Hardware(), qemu.Accelerator("kvm", "host"), qemu.Firmware(Path("/code"), Path("/variables")))
    words = guest.arguments(NbdTarget("web", "192.0.2.1", 7, certificates="/a,b", known_as="192.0.2.9"), *machine)
    made = words[words.index("-object") + 1].split(",", 2)
    assert made[:2] == ["tls-creds-x509", "id=certificate"]
    assert "dir=/a,,b," in words[words.index("-object") + 1]
    assert words.index("-object") < words.index("-blockdev"), "QEMU makes them in this order"
    assert {"tls-creds=certificate", "tls-hostname=192.0.2.9"} <= set(words[words.index("-blockdev") + 1].split(","))
    assert "-object" not in guest.arguments(NbdTarget("web", "192.0.2.1", 7), *machine)
