"""Where a client's host is let in over NVMe/TCP, and by which key."""

import base64
import contextlib
import errno
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.catalog import Catalog
from appliance.errors import (
    AlreadyExists,
    HatcheryError,
    InUse,
    InvalidInput,
    NotFound,
    NotReady,
    Refused,
)
from appliance.schema import ClientSpec, NvmeKeyRequest, NvmeSpec
from appliance.service.nvme_doors import check_nqn, new_key
from tests.unit import nvme_box
from tests.unit.nvme_box import HV1, HV2, attach, folder, offered
from tests.unit.service_harness import Box


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with nvme_box.clients(tmp_path, monkeypatch) as made:
        yield made


def test_a_client_without_a_door_or_a_key_has_nothing(ready: Box) -> None:
    ready.service.put_client("hv3", ClientSpec(transport="unix"))
    with pytest.raises(NotReady, match="not reached over NVMe/TCP") as caught:
        attach(ready, client="hv3")
    assert "hatchery client nvme hv3" in caught.value.hint
    view = ready.service.put_nvme_door("hv3", NvmeSpec(address="10.0.0.5", port=4422, host_nqn="nqn.2020-01.org.x:3"))
    assert view.nvme is not None
    assert view.nvme.key_made is None
    with pytest.raises(NotReady, match="no key") as caught:
        attach(ready, client="hv3")
    assert "--nvme" in caught.value.hint


@pytest.mark.parametrize(
    ("client", "spec", "error", "words"),
    [
        ("hv2", NvmeSpec(address="10.0.0.5", port=4420, host_nqn=HV2), InUse, "port 4420 is taken"),
        ("hv2", NvmeSpec(address="10.0.0.5", port=4421, host_nqn=HV1), AlreadyExists, "cannot be the host"),
        ("hv2", NvmeSpec(address="10.0.0.9", port=4421, host_nqn=HV2), InvalidInput, "not an address of this machine"),
        ("hv2", NvmeSpec(address="box", port=4421, host_nqn=HV2), InvalidInput, "not an IP address"),
        ("hv2", NvmeSpec(address="10.0.0.5", port=4421, host_nqn="../x"), InvalidInput, "not the NQN"),
        ("local", NvmeSpec(address="10.0.0.5", port=4422, host_nqn="nqn.2020-01.org.x:3"), Refused, "this machine"),
        ("hv9", NvmeSpec(address="10.0.0.5", port=4422, host_nqn="nqn.2020-01.org.x:3"), NotFound, "does not exist"),
    ],
)
def test_bad_doors_are_refused(ready: Box, client: str, spec: NvmeSpec, error: type[HatcheryError], words: str) -> None:
    with pytest.raises(error, match=words):
        ready.service.put_nvme_door(client, spec)
    door = ready.service.core.catalog.nvme_door("hv2")
    assert door is not None
    assert (door.address, door.port, door.host_nqn) == ("10.0.0.5", 4421, HV2)


def test_a_port_is_one_clients_by_either_protocol(ready: Box) -> None:
    spec = ClientSpec(transport="tcp", address="10.0.0.5", port=4420, plain=True)
    with pytest.raises(InUse, match="4420"):
        ready.service.put_client("lab", spec)
    ready.service.put_client("lab", spec.model_copy(update={"port": 5000}))
    with pytest.raises(InUse, match="5000"):
        ready.service.put_nvme_door("hv1", NvmeSpec(address="10.0.0.5", port=5000, host_nqn=HV1))


def test_a_door_changes_and_goes(ready: Box) -> None:
    attach(ready)
    with pytest.raises(InUse, match="cannot be another host"):
        ready.service.put_nvme_door("hv1", NvmeSpec(address="10.0.0.5", port=4420, host_nqn="nqn.2020-01.org.x:3"))
    with pytest.raises(InUse, match="web-1"):
        ready.service.nvme_doors.remove("hv1")
    moved = ready.service.put_nvme_door("hv1", NvmeSpec(address="127.0.0.1", port=4430, host_nqn=HV1))
    assert moved.nvme is not None
    assert moved.nvme.key_made is not None, "its host keeps its key"
    assert set(ready.nvme.look().ports.values()) == {("127.0.0.1", "4430")}
    ready.service.detach("web-1", None, force=False)
    other = ready.service.put_nvme_door("hv1", NvmeSpec(address="127.0.0.1", port=4430, host_nqn="nqn.2020-01.org.x:3"))
    assert other.nvme is not None
    assert other.nvme.key_made is None, "another host has not that one's key"
    assert ready.service.nvme_doors.remove("hv1")
    assert not ready.service.nvme_doors.remove("hv1")
    assert ready.service.show_client("hv1").nvme is None


def test_a_door_that_cannot_move_stays(ready: Box) -> None:
    attach(ready)
    folder(ready).refuse = {"4430": errno.EINVAL}
    with pytest.raises(NotReady):
        ready.service.put_nvme_door("hv1", NvmeSpec(address="10.0.0.5", port=4430, host_nqn=HV1))
    folder(ready).refuse = {}
    ready.service.reconcile()
    assert set(ready.nvme.look().ports.values()) == {("10.0.0.5", "4420")}
    assert offered(ready) == {ready.service.show_clone("web-1").device: (HV1,)}


def test_a_key_is_made_once_and_rotated(ready: Box) -> None:
    view = attach(ready)
    before = ready.nvme.look().hosts[HV1]
    with pytest.raises(AlreadyExists, match="has a key"):
        ready.service.issue_nvme_key("hv1", NvmeKeyRequest())
    folder(ready).steps.clear()
    made = ready.service.issue_nvme_key("hv1", NvmeKeyRequest(kind="rotation"))
    assert made.host_nqn == HV1
    assert made.key.get_secret_value() not in repr(made)
    assert ready.nvme.look().hosts[HV1] == made.key.get_secret_value() != before
    assert not [step for step in folder(ready).steps if "subsystems/" in step], "who is connected goes on"
    assert offered(ready) == {view.device: (HV1,)}


def test_a_key_has_nvmes_own_form() -> None:
    kind, algorithm, secret, end = new_key().split(":")
    assert (kind, algorithm, end) == ("DHHC-1", "01", "")
    data = base64.b64decode(secret)
    assert len(data) == 36
    assert zlib.crc32(data[:32]).to_bytes(4, "little") == data[32:]
    assert new_key() != new_key()


@pytest.mark.parametrize(
    "nqn",
    ["", "nqn", "nqn.2014-08.org.nvmexpress:a/b", "nqn.2014-08.org.x:" + "a" * 220, "nqn.2014-08.org.x:a b", "..\n"],
)
def test_what_is_no_nqn_is_refused(nqn: str) -> None:
    with pytest.raises(InvalidInput):
        check_nqn(nqn)


def test_two_stores_have_two_identities(tmp_path: Path) -> None:
    catalogs = [Catalog(tmp_path / name) for name in ("one", "two")]
    first, second = (catalog.store_identity() for catalog in catalogs)
    assert first != second
    catalogs[0].close()
    with contextlib.closing(Catalog(tmp_path / "one")) as again:
        assert again.store_identity() == first
    catalogs[1].close()
