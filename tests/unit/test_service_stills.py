"""Disks that are offered to be copied out: what they hold, and that nothing of them is left, however it ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import HatcheryError, InUse, NoSpace, NotFound, NotReady, Refused
from appliance.model import CloneKind, PoolName
from appliance.reconcile.volumes import Birth, Make, Origin, Volume
from appliance.schema import ClientSpec, CloneCreate, StillView
from appliance.service.collector import Asked
from appliance.service.stills import DAEMON, MOST, PATIENCE
from appliance.service.templates import Removing
from tests.unit.model import Crash, ModelPool
from tests.unit.service_harness import IMAGE, Box, box, counting

MINE = b"mine" + IMAGE[4:]


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    """A template, a durable clone ``web`` and an ephemeral one ``quick``, both written to."""
    with box(tmp_path) as made:
        (tmp_path / "fast").mkdir()
        made.pools[PoolName.FAST] = ModelPool(tmp_path / "fast", name="drive-1")
        made.restart()
        assert made.add_template("debian").state == "succeeded"
        for name, kind in (("web", CloneKind.DURABLE), ("quick", CloneKind.EPHEMERAL)):
            made.service.create_clones(CloneCreate(name=name, template="debian", kind=kind))
            device(made, name).write_bytes(MINE)
        yield made


def device(box: Box, name: str) -> Path:
    clone = box.service.core.catalog.clone(name)
    return box.pools[clone.pool].path(clone.thin_id)


def read(box: Box, still: StillView) -> bytes:
    """What is offered under the still's name."""
    (thin_id,) = [each.thin_id for each in box.service.stills._stills.values() if each.view.id == still.id]
    (pool,) = [pool for pool in box.pools.values() if thin_id in pool.volumes]
    return pool.path(thin_id).read_bytes()


def offered(box: Box) -> set[str]:
    """Names that are offered."""
    return set(box.units.daemons[DAEMON].exports.values()) if DAEMON in box.units.daemons else set()


def whole(box: Box) -> None:
    """Catalog, pools and devices agree, and nothing is left over."""
    assert DAEMON not in box.units.daemons
    assert not (box.paths.run / "nbd" / DAEMON).exists()
    assert box.service.plan().steps == ()
    assert box.service.plan().problems == ()
    assert box.service.core.catalog.garbage() == ()
    known = box.service.core.catalog.thin_ids()
    assert known == {thin_id for pool in box.pools.values() for thin_id in pool.volumes}


@pytest.mark.parametrize("name", ["web", "quick"])
def test_a_clone_is_offered_as_it_was(ready: Box, name: str) -> None:
    still = ready.service.stills.of_clone(name)
    device(ready, name).write_bytes(b"later" + IMAGE[5:])
    assert read(ready, still) == MINE
    assert (still.subject, still.size) == (f"clone {name}", len(IMAGE))
    assert 0 < still.data_bytes <= still.size
    assert still.uri == f"nbd+unix:///{still.id}?socket={ready.paths.run}/nbd/{DAEMON}/nbd.sock"
    assert offered(ready) == {still.id}
    assert ready.exported() == {"web", "quick"}, "its guest goes on"
    assert ready.service.stills.end(still.id)
    assert not ready.service.stills.end(still.id)
    whole(ready)


def test_a_template_is_offered_itself_and_stays(ready: Box) -> None:
    ready.add_template("plain")
    still = ready.service.stills.of_template("plain")
    again = ready.service.stills.of_template("plain@1")
    assert read(ready, still) == read(ready, again) == IMAGE
    assert offered(ready) == {still.id, again.id}
    for when in Removing:
        with pytest.raises(InUse, match="exported"):
            ready.service.templates.remove("plain@1", when)
    ready.service.stills.end(still.id)
    with pytest.raises(InUse, match="exported"):
        ready.service.templates.remove("plain@1")
    ready.service.stills.end(again.id)
    whole(ready)
    assert ready.service.templates.remove("plain@1").removed


def test_a_clone_that_goes_meanwhile_takes_nothing_away(ready: Box) -> None:
    still = ready.service.stills.of_clone("web")
    ready.service.clones.remove("web", force=True)
    assert read(ready, still) == MINE
    ready.service.stills.end(still.id)
    whole(ready)


def test_a_template_that_goes_with_its_last_clone_goes_when_it_was_copied(ready: Box) -> None:
    still = ready.service.stills.of_template("debian")
    ready.service.core.catalog.retire_template(1, 0.0)
    for name in ("web", "quick"):
        ready.service.clones.remove(name, force=True)
    assert read(ready, still) == IMAGE
    assert ready.service.collector.collect(Asked.BY_OPERATOR).volumes == ()
    assert ready.service.plan().steps == ()
    ready.service.stills.end(still.id)
    whole(ready)


def test_the_collector_and_a_reconciliation_leave_it_alone(ready: Box) -> None:
    still = ready.service.stills.of_clone("web")
    assert ready.service.collector.collect(Asked.BY_OPERATOR).failures == ()
    assert ready.service.reconcile().steps == ()
    assert {volume.state for volume in ready.service.garbage().volumes} <= {"serving", "held"}
    assert read(ready, still) == MINE
    ready.service.stills.end(still.id)
    whole(ready)


def test_what_nobody_reads_goes_by_itself(ready: Box) -> None:
    now = 0.0
    ready.service.stills.clock = lambda: now
    one, other = ready.service.stills.of_clone("web"), ready.service.stills.of_template("debian")
    ready.units.daemons[DAEMON].connected.add(f"still-{one.id}")
    ready.service.stills.sweep()
    assert offered(ready) == {one.id, other.id}, "its reader may be on the way"
    now = PATIENCE
    ready.service.stills.sweep()
    assert offered(ready) == {one.id}
    ready.units.daemons[DAEMON].connected.clear()
    ready.service.stills.sweep()
    whole(ready)


def test_the_monitor_sweeps(ready: Box) -> None:
    ready.service.stills.of_clone("web")
    ready.service.stills.clock = lambda: float("inf")
    ready.service.monitor.look()
    whole(ready)


@pytest.mark.parametrize("name", ["web", "quick"])
def test_a_daemon_that_died_leaves_nothing(ready: Box, name: str) -> None:
    still = ready.service.stills.of_clone(name)
    ready.units.kill(DAEMON)
    assert ready.service.stills.end(still.id)
    whole(ready)


def test_a_start_does_not_ask_about_what_was_never_offered(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ready.units, "stop", asked.append)
    ready.restart()
    assert DAEMON not in asked


def test_a_restart_of_the_service_ends_all(ready: Box) -> None:
    for _ in range(2):
        ready.service.stills.of_clone("web")
        ready.service.stills.of_clone("quick")
        ready.restart()
        assert ready.service.stills.list().stills == ()
        whole(ready)


@pytest.mark.parametrize("limit", range(6))
@pytest.mark.parametrize("error", [NoSpace("the pool is full"), Crash()])
@pytest.mark.parametrize("name", ["web", "quick"])
def test_a_failure_at_any_step_leaves_nothing(ready: Box, name: str, error: BaseException, limit: int) -> None:
    pool = ready.pools[ready.service.core.catalog.clone(name).pool]
    pool.step = counting(limit, error)
    try:
        ready.service.stills.of_clone(name)
    except (HatcheryError, Crash):
        pool.step = lambda _: None
        if isinstance(error, Crash):
            ready.restart()
    else:
        assert limit >= 4
        pool.step = lambda _: None
        ready.restart()
    assert not any(each.stilled for each in ready.pools.values())
    assert ready.exported() == {"web", "quick"}
    whole(ready)


def test_a_daemon_that_does_not_start_leaves_nothing(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> None:
        raise NotReady("the storage daemon does not start")

    monkeypatch.setattr(ready.units, "start", broken)
    with pytest.raises(NotReady):
        ready.service.stills.of_clone("web")
    whole(ready)
    with pytest.raises(NotReady):
        ready.service.stills.of_template("debian")
    whole(ready)


def test_what_cannot_be_offered(ready: Box) -> None:
    with pytest.raises(NotFound):
        ready.service.stills.of_clone("none")
    with pytest.raises(NotFound):
        ready.service.stills.of_template("none")
    with pytest.raises(Refused, match=DAEMON):
        ready.service.clients.put(DAEMON, ClientSpec(transport="unix"))
    made = [ready.service.stills.of_template("debian") for _ in range(MOST)]
    with pytest.raises(InUse, match="already"):
        ready.service.stills.of_clone("web")
    ready.service.stills.end(made[0].id)
    ready.service.stills.of_clone("web")


def test_a_full_pool_makes_none(ready: Box) -> None:
    ready.pool.data_total = 1
    with pytest.raises(NoSpace):
        ready.service.stills.of_clone("web")
    whole(ready)


def test_a_snapshot_of_a_moment_is_taken_while_the_volume_is_held(tmp_path: Path) -> None:
    pool = ModelPool(tmp_path)
    pool.create_thin(1)
    pool.activate_clone(1, 4096)
    done: list[str] = []
    pool.step = done.append

    class Machine:
        def pool_of(self, _: PoolName) -> ModelPool:
            return pool

    volume = Volume(2, PoolName.DURABLE, "a test", 4096, birth=Birth.MOMENT, origin=Origin(1, 4096))
    Make(volume).apply(Machine())
    assert done == ["still", "create_snapshot"]
    assert not pool.stilled
