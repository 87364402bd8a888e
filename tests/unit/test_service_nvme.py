"""Clones over NVMe/TCP: each to the host of its client alone, as the catalog says, whatever happens in between."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import (
    InUse,
    InvalidInput,
    NotReady,
    Unhealthy,
)
from appliance.host import netlink
from appliance.host.nvmet import Step
from appliance.model import CloneKind, Limits, PoolName, Protocol
from appliance.schema import Attachment, ClientSpec, CloneCreate, NvmeKeyRequest, NvmeSpec, SeedSpec
from appliance.service.fast_pool import FastPool
from tests.unit import nvme_box
from tests.unit.model import Crash, ModelPool
from tests.unit.nvme_box import HV1, HV2, attach, folder, offered, use
from tests.unit.service_harness import Box, box

MOST = 40
"""No attachment has so many steps."""


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    with nvme_box.clients(tmp_path, monkeypatch) as made:
        yield made


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
