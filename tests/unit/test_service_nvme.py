"""Clones over NVMe/TCP: each to the host of its client alone, as the catalog says, whatever happens in between."""

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
    Unhealthy,
)
from appliance.host import netlink
from appliance.host.nvmet import Step
from appliance.model import CloneKind, Limits, PoolName, Protocol
from appliance.schema import Attachment, ClientSpec, CloneCreate, CloneView, NvmeKeyRequest, NvmeSpec, SeedSpec
from appliance.service.fast_pool import FastPool
from appliance.service.nvme_doors import check_nqn, new_key
from tests.unit.model import Crash, ModelPool
from tests.unit.model_nvmet import ModelFolder
from tests.unit.service_harness import Box, box

MOST = 40
"""No attachment has so many steps."""

HV1, HV2 = "nqn.2014-08.org.nvmexpress:uuid:0cafe", "nqn.2020-01.org.example:hv2"


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
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
    assert box.nvme.folder is not None
    return box.nvme.folder


def use(box: Box, view: CloneView, *peers: str) -> None:
    """A host has the clone connected."""
    assert view.nvme is not None
    folder(box).used.add(view.nvme.nqn)
    box.nvme.peers[view.nvme.port] = peers or ("10.0.0.9:40000",)


def test_a_clone_is_offered_to_its_clients_host_and_told_how(ready: Box) -> None:
    view = attach(ready)
    assert (view.client, view.protocol, view.uri, view.qemu, view.libvirt) == ("hv1", "nvme-tcp", None, (), None)
    assert view.nvme is not None
    assert (view.nvme.address, view.nvme.port, view.nvme.host_nqn) == ("10.0.0.5", 4420, HV1)
    assert view.nvme.connect == (
        *("nvme", "connect", "--transport=tcp", "--traddr=10.0.0.5", "--trsvcid=4420"),
        *(f"--nqn={view.nvme.nqn}", f"--hostnqn={HV1}"),
    )
    assert view.nvme.device == f"/dev/disk/by-id/nvme-uuid.{view.nvme.nqn.rpartition(':')[2]}"
    assert offered(ready) == {view.device: (HV1,)}
    assert "web-1" not in ready.exported("hv1"), "by NBD as well"
    assert attach(ready) == view
    shown = ready.service.show_client("hv1")
    assert (shown.state, shown.clones) == ("ok", ("web-1",))
    assert shown.detail == "serving 1 clone(s), NVMe/TCP not encrypted"
    assert shown.nvme is not None
    assert shown.nvme.key_made is not None


def test_each_client_has_its_own_clones_alone(ready: Box) -> None:
    one, two = attach(ready), attach(ready, "web-2", "hv2")
    assert offered(ready) == {one.device: (HV1,), two.device: (HV2,)}
    found = ready.nvme.look()
    assert set(found.hosts) == {HV1, HV2}
    assert len(set(found.hosts.values())) == 2, "each host has a key of its own"
    assert len({each.ports for each in found.subsystems.values()}) == 2, "each client lists its own alone"


def test_one_protocol_at_a_time(ready: Box) -> None:
    view = attach(ready)
    with pytest.raises(InUse, match="by nvme-tcp"):
        ready.service.attach("web-1", Attachment(client="hv1"))
    with pytest.raises(InUse, match="attached to client hv1"):
        attach(ready, client="hv2")
    with pytest.raises(InvalidInput, match="shared"):
        ready.service.attach("web-1", Attachment(client="hv2", shared=True))
    with pytest.raises(InvalidInput, match="shared"):
        ready.service.attach("web-1", Attachment(client="hv2", shared=True, protocol=Protocol.NVME_TCP))
    with pytest.raises(InUse, match="NVMe/TCP"):
        ready.service.moves.move(["web-1"], "hv2", force=True)
    assert offered(ready) == {view.device: (HV1,)}
    ready.service.detach("web-1", None, force=False)
    ready.service.attach("web-1", Attachment(client="hv1"))
    assert ready.exported("hv1") == {"web-1"}
    with pytest.raises(InUse, match="by nbd"):
        attach(ready)
    assert offered(ready) == {}


def test_a_clone_in_use_stays_and_says_by_whom(ready: Box) -> None:
    view = attach(ready)
    use(ready, view)
    with pytest.raises(InUse, match="web-1 is in use") as caught:
        ready.service.detach("web-1", None, force=False)
    assert "10.0.0.9:40000" in caught.value.why
    assert "nvme disconnect" in caught.value.hint
    with pytest.raises(InUse):
        ready.service.clones.remove("web-1", force=False)
    assert offered(ready) == {view.device: (HV1,)}
    assert ready.service.show_clone("web-1").client == "hv1"
    ready.service.detach("web-1", None, force=True)
    assert offered(ready) == {}
    assert ready.service.show_clone("web-1").client is None


def test_which_of_several_clones_is_in_use_is_not_guessed(ready: Box) -> None:
    one = attach(ready)
    two = attach(ready, "web-2")
    use(ready, one)
    # Nobody ever looked at the second one.
    ready.service.detach("web-2", None, force=False)
    use(ready, attach(ready, "web-2"))
    assert two.nvme is not None
    with pytest.raises(InUse, match="web-2 is in use") as caught:
        ready.service.detach("web-2", None, force=False)
    assert "to which of its 2 clones" in caught.value.why


def test_a_start_offers_what_the_catalog_says_and_no_more(ready: Box) -> None:
    one, two = attach(ready), attach(ready, "web-2", "hv2")
    folder(ready).steps.clear()
    ready.restart()
    assert folder(ready).steps == [], "guests go on"
    ready.reboot()
    assert offered(ready) == {one.device: (HV1,), two.device: (HV2,)}
    assert ready.service.show_client("hv1").state == "ok"
    # What was left behind by a detachment that the catalog has and the kernel has not.
    ready.service.core.catalog.set_clone_client(2, None)
    ready.service.core.catalog.set_clone_client(3, None)
    ready.restart()
    assert offered(ready) == {}


def test_a_crash_while_it_is_attached_leaves_it_attached_or_not(ready: Box) -> None:
    left = 0

    def dying(_: Step) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1

    for step in range(MOST):
        left = step
        folder(ready).before = dying
        died = False
        try:
            attach(ready)
        except Crash:
            died = True
        finally:
            folder(ready).before = lambda _: None
        ready.restart()
        view = ready.service.show_clone("web-1")
        assert offered(ready) == ({view.device: (HV1,)} if view.client else {})
        if view.client:
            ready.service.detach("web-1", None, force=True)
        if not died:
            return
    pytest.fail(f"it has more than {MOST} steps")


def test_what_the_target_refuses_is_not_attached(ready: Box) -> None:
    folder(ready).refuse = {"link ports/": errno.EADDRINUSE}
    with pytest.raises(Unhealthy, match="does not offer") as caught:
        attach(ready)
    assert "Address already in use" in caught.value.why
    folder(ready).refuse = {}
    assert ready.service.show_clone("web-1").client is None
    assert offered(ready) == {}


def test_a_kernel_without_a_target_refuses_clearly(ready: Box) -> None:
    ready.nvme.folder = None
    with pytest.raises(NotReady, match="no NVMe target") as caught:
        attach(ready)
    assert "nvmet" in caught.value.why
    assert ready.service.show_clone("web-1").client is None
    ready.service.attach("web-1", Attachment(client="hv1"))
    ready.restart()


def test_what_the_target_lacks_is_seen(ready: Box) -> None:
    view = attach(ready)
    assert view.nvme is not None
    enable = folder(ready).root / "subsystems" / view.nvme.nqn / "namespaces/1/enable"
    enable.write_text("0", encoding="utf-8")
    missing = [check for check in ready.service.examine().checks if check.state != "ok"]
    assert any("web-1" in problem.what for check in missing for problem in check.problems), missing


def test_limits_are_the_storage_daemons(ready: Box) -> None:
    ready.service.life.limit("web-1", Limits(iops=500))
    with pytest.raises(InvalidInput, match="limits"):
        attach(ready)
    attach(ready, "web-2")
    with pytest.raises(InvalidInput, match="no limits"):
        ready.service.life.limit("web-2", Limits(iops=500))


def test_its_seed_is_offered_over_nbd(ready: Box) -> None:
    ready.service.put_seed("web-1", SeedSpec(), force=False)
    view = attach(ready)
    assert ready.exported("hv1") == {"web-1:seed"}
    assert view.seed is not None
    assert view.seed.uri is not None
    ready.service.detach("web-1", None, force=False)
    assert ready.exported("hv1") == set()


def test_another_volume_has_another_name(ready: Box) -> None:
    before = attach(ready)
    ready.service.life.reset("web-1", force=False)
    after = ready.service.show_clone("web-1")
    assert before.nvme is not None
    assert after.nvme is not None
    assert before.nvme.nqn != after.nvme.nqn, "a host that comes back would take it for the disk that it had"
    assert offered(ready) == {after.device: (HV1,)}
    ready.service.life.resize("web-1", 2 * after.size)
    assert ready.service.show_clone("web-1").nvme == after.nvme
    assert offered(ready) == {after.device: (HV1,)}


def test_a_removed_clone_is_gone_from_the_target(ready: Box) -> None:
    attach(ready)
    assert ready.service.clones.remove("web-1", force=False)
    assert ready.nvme.look().subsystems == {}
    assert ready.nvme.look().ports == {}


def test_ephemeral_clones_go_with_their_drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "addresses", lambda: frozenset({"10.0.0.5"}))
    monkeypatch.setattr(netlink, "tcp_connections", lambda _: ())
    with box(tmp_path) as made:
        fast = tmp_path / "fast"
        fast.mkdir()
        made.pools[PoolName.FAST] = ModelPool(fast, name="drive-1")
        made.restart()
        made.add_template("debian")
        made.service.put_client("hv1", ClientSpec(transport="unix"))
        made.service.put_nvme_door("hv1", NvmeSpec(address="10.0.0.5", port=4420, host_nqn=HV1))
        made.service.issue_nvme_key("hv1", NvmeKeyRequest())
        made.service.create_clones(CloneCreate(name="web", template="debian", client=None, kind=CloneKind.EPHEMERAL))
        assert offered(made) == {}
        view = attach(made, "web")
        assert offered(made) == {view.device: (HV1,)}
        FastPool(made.service.core, made.service._exports, lambda: None).check()
        assert offered(made) == {}
        assert made.service.show_clone("web").state == "lost"


# --- doors


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
