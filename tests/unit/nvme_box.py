"""A service whose clients are hosts of NVMe/TCP, on a model of the kernel's target."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.host import netlink
from appliance.model import Protocol
from appliance.schema import Attachment, ClientSpec, CloneCreate, CloneView, NvmeKeyRequest, NvmeSpec
from tests.unit.model_nvmet import ModelFolder
from tests.unit.service_harness import Box, box

HV1, HV2 = "nqn.2014-08.org.nvmexpress:uuid:0cafe", "nqn.2020-01.org.example:hv2"


@contextmanager
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    """Two clones of nobody; the clients ``hv1`` and ``hv2``, whose hosts have keys."""
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5", "127.0.0.1"}))
    monkeypatch.setattr(netlink, "tcp_connections", lambda _: ())
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        for client, nqn, port in (("hv1", HV1, 4420), ("hv2", HV2, 4421)):
            made.service.put_client(client, ClientSpec(transport="unix"))
            made.service.put_nvme_door(client, NvmeSpec(address="10.0.0.5", port=port, host_nqn=nqn))
            made.service.issue_nvme_key(client, NvmeKeyRequest())
        made.service.create_clones(CloneCreate(name="web", template="debian", count=2, client=None))
        yield made


def attach(box: Box, name: str = "web-1", client: str = "hv1") -> CloneView:
    """A clone, offered to a client's host."""
    return box.service.attach(name, Attachment(client=client, protocol=Protocol.NVME_TCP))


def offered(box: Box) -> dict[str, tuple[str, ...]]:
    """The devices that the target offers, and to which hosts; each is whole."""
    found = {}
    for each in box.nvme.look().subsystems.values():
        ((device, _, enabled),) = each.namespaces.values()
        assert enabled
        assert not each.open_to_all
        assert len(each.ports) == 1
        found[device] = tuple(sorted(each.hosts))
    return found


def folder(box: Box) -> ModelFolder:
    """What the target has."""
    assert box.nvme.folder is not None
    return box.nvme.folder


def use(box: Box, view: CloneView, *peers: str) -> None:
    """A host has the clone connected."""
    assert view.nvme is not None
    folder(box).used.add(view.nvme.nqn)
    box.nvme.peers[view.nvme.port] = peers or ("10.0.0.9:40000",)
