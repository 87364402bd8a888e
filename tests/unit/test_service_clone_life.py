"""Clones that grow, are kept for a time, or live on NVMe alone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.errors import InUse, InvalidInput, NotReady
from appliance.model import MIB, CloneKind, CloneState, PoolName
from tests.unit.service_harness import IMAGE, Box, box
from tests.unit.written_clone import MINE, clone, create, device, whole, written


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with written(tmp_path) as made:
        yield made


# --- resize


def test_a_clone_grows_and_keeps_what_it_has(ready: Box) -> None:
    grown = ready.service.life.resize("web", len(IMAGE) + MIB)
    assert grown.size == len(IMAGE) + MIB
    assert device(ready, "web").read_bytes() == MINE + bytes(MIB)
    assert ready.exported() == {"web"}
    assert ready.service.life.resize("web", grown.size) == grown, "it has that size"
    ready.reboot()
    assert device(ready, "web").read_bytes() == MINE + bytes(MIB)
    whole(ready)


@pytest.mark.parametrize("size", [len(IMAGE) - 512, len(IMAGE) + 1, 512])
def test_a_size_that_cannot_be_is_refused(ready: Box, size: int) -> None:
    with pytest.raises(InvalidInput):
        ready.service.life.resize("web", size)
    assert clone(ready, "web").size == len(IMAGE)


def test_a_connected_clone_is_not_resized(ready: Box) -> None:
    ready.units.daemons["local"].connected.add(f"clone-{clone(ready, 'web').thin_id}")
    with pytest.raises(InUse):
        ready.service.life.resize("web", 2 * len(IMAGE))
    assert clone(ready, "web").size == len(IMAGE)
    assert device(ready, "web").read_bytes() == MINE


# --- leases


def test_a_lease_ends_a_clone_whoever_uses_it(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    core = ready.service.core
    monkeypatch.setattr(type(core), "now", staticmethod(lambda: 1000.0))
    create(ready, "hour", expires_in=3600)
    create(ready, "week", expires_in=7 * 86400)
    assert ready.service.show_clone("hour").expires == 4600.0
    assert ready.service.show_clone("web").expires is None
    assert ready.service.life.end_leases() == ()
    ready.units.daemons["local"].connected.add(f"clone-{clone(ready, 'hour').thin_id}")
    monkeypatch.setattr(type(core), "now", staticmethod(lambda: 4600.0))
    assert ready.service.life.end_leases() == ("hour",)
    assert ready.exported() == {"web", "week"}
    assert ready.service.life.renew("week", None).expires is None
    assert ready.service.life.renew("web", 60).expires == 4660.0
    monkeypatch.setattr(type(core), "now", staticmethod(lambda: 10.0**9))
    assert ready.service.life.end_leases() == ("web",)
    whole(ready)


# --- ephemeral clones


def test_an_ephemeral_clone_lives_in_the_fast_pool(ready: Box) -> None:
    fast = ready.pools[PoolName.FAST]
    durable = set(ready.pool.volumes)
    found = create(ready, "quick", kind="ephemeral")
    assert found.kind is CloneKind.EPHEMERAL
    assert device(ready, "quick").read_bytes() == IMAGE
    assert (set(fast.volumes), set(ready.pool.volumes)) == ({found.thin_id}, durable)
    assert ready.exported() == {"web", "quick"}
    assert ready.service.show_clone("quick").device == f"/dev/mapper/hatchery-ephemeral-{found.thin_id}"
    assert fast.transaction == 1
    ready.reboot()
    assert device(ready, "quick").read_bytes() == IMAGE
    ready.service.life.reset("quick", force=False)
    ready.service.clones.remove("quick", force=False)
    assert fast.volumes == {}
    whole(ready)


def test_without_a_fast_pool_there_are_no_ephemeral_clones(tmp_path: Path) -> None:
    with box(tmp_path) as made:
        made.add_template("debian")
        with pytest.raises(NotReady, match="there is no fast pool"):
            create(made, "quick", kind="ephemeral")
        assert made.service.list_clones().clones == ()


def test_an_ephemeral_clone_is_copied_to_become_a_template(ready: Box) -> None:
    create(ready, "quick", kind="ephemeral")
    device(ready, "quick").write_bytes(MINE)
    job = ready.service.life.promote("quick", None)
    assert job.finished.wait(10)
    assert job.operation.error is None
    version = ready.service.core.catalog.versions("debian")[0]
    assert (version.ref, version.size) == ("debian@2", len(IMAGE))
    assert ready.pool.bytes_of(version.thin_id) == MINE
    assert device(ready, "quick").read_bytes() == MINE
    assert ready.exported() == {"web", "quick"}
    whole(ready)


def test_a_lost_clone_can_be_reset_or_removed_and_nothing_else(ready: Box) -> None:
    create(ready, "quick", kind="ephemeral")
    create(ready, "other", kind="ephemeral")
    ready.units.stop_all()
    fast = ready.pools[PoolName.FAST]
    for thin_id in list(fast.active):
        fast.deactivate(thin_id)
    fast.volumes.clear()
    fast.name, fast.transaction = "drive-2", 0
    ready.reboot()
    assert ready.exported() == {"web"}
    shown = ready.service.show_clone("quick")
    assert shown.state is CloneState.LOST
    assert any("2 ephemeral clone(s) went" in problem.what for problem in ready.service.status().problems)
    for verb in (
        lambda: ready.service.clones.attach("quick", "local"),
        lambda: ready.service.life.resize("quick", 2 * len(IMAGE)),
        lambda: ready.service.life.promote("quick", None),
    ):
        with pytest.raises(NotReady, match="lost"):
            verb()
    ready.service.life.reset("quick", force=False)
    assert ready.service.show_clone("quick").state is CloneState.READY
    assert device(ready, "quick").read_bytes() == IMAGE
    assert ready.exported() == {"web", "quick"}
    assert ready.service.clones.remove("other", force=False)
    whole(ready)


# --- many


def test_making_and_removing_ask_as_much_of_the_kernel_with_many_as_with_one(ready: Box) -> None:
    def asked(verb: Callable[[], object]) -> list[str]:
        steps: list[str] = []
        ready.pool.step = steps.append
        verb()
        ready.pool.step = lambda _: None
        return steps

    def round_trip(name: str) -> list[str]:
        steps = asked(lambda: create(ready, name, client=None))
        steps += asked(lambda: ready.service.show_clone(name))
        return steps + asked(lambda: ready.service.clones.remove(name, force=False))

    one = round_trip("a")
    create(ready, "many", count=100, client=None)
    assert round_trip("b") == one
    assert asked(lambda: ready.service.list_clones()) == []
    assert asked(lambda: ready.restart()) == []
