"""What is given back, what is not, and when."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import wait
from appliance.model import GIB, Access, PoolName
from appliance.reconcile.volumes import Birth, Devices, Doomed, Found, FoundDevice, FoundPool, Volume, Wanted
from appliance.service import collector, gc
from appliance.service.collector import Asked, Collected, Pacer
from appliance.service.core import SMALL
from appliance.service.gc import Entry, State, Use
from tests.unit.service_harness import Box, box

DURABLE, FAST = PoolName.DURABLE, PoolName.FAST


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        yield made


def create(ready: Box, name: str) -> int:
    (clone,) = ready.service.clones.create(name, "debian", None, "local")
    return clone.thin_id


def collect(ready: Box, asked: Asked = Asked.BY_OPERATOR) -> Collected:
    return ready.service.collector.collect(asked)


# --- the inventory


def test_each_volume_has_one_state() -> None:
    wanted = Wanted(
        volumes=(
            Volume(1, DURABLE, "template a@1", 10, Devices.SEALED),
            Volume(2, DURABLE, "clone b", 10, Devices.EXPORTED),
            Volume(3, DURABLE, "clone c", 10),
            Volume(4, DURABLE, "clone d", 10),
            Volume(5, DURABLE, "the import of e@1", 10, Devices.IMPORT, Birth.UNDER_WAY),
            Volume(9, FAST, "clone f", 10, Devices.EXPORTED),
        ),
        doomed=(Doomed(6, DURABLE, "clone g was removed"),),
    )
    found = Found(
        {DURABLE: FoundPool(1, frozenset({1, 2, 3, 5, 6, 7})), FAST: FoundPool(1, frozenset({9, 10}))},
        {
            1: FoundDevice(Devices.SEALED, 10),
            2: FoundDevice(Devices.EXPORTED, 10),
            9: FoundDevice(Devices.EXPORTED, 10),
            8: FoundDevice(Devices.EXPORTED, 10),
        },
    )
    entries = gc.inventory(wanted, found, {DURABLE: {6: Use(5, 3)}}, ending=[3])
    states = {thin_id: gc.state_of(thin_id, entries) for thin_id in range(1, 12)}
    assert states == {
        1: State.SERVING,
        2: State.SERVING,
        3: State.HELD,
        4: State.MISSING,
        5: State.HELD,
        6: State.PENDING,
        7: State.ORPHANED,
        8: State.ORPHANED,
        9: State.SERVING,
        10: State.ORPHANED,
        11: State.FREE,
    }
    assert [entry.thin_id for entry in entries if entry.reclaimed] == [3, 6, 7, 8, 10]
    assert next(entry for entry in entries if entry.thin_id == 6).use == Use(5, 3)
    assert {entry.pool for entry in entries if entry.thin_id in (9, 10)} == {FAST}


def test_a_volume_of_a_pool_that_is_not_there_is_not_missing() -> None:
    wanted = Wanted(volumes=(Volume(1, FAST, "clone a", 10, Devices.EXPORTED),))
    assert gc.inventory(wanted, Found({})) == (Entry(1, FAST, State.HELD, "clone a"),)


# --- the collector


def test_a_large_clone_is_removed_at_once_and_emptied_later(ready: Box) -> None:
    thin_id = create(ready, "big")
    small = create(ready, "small")
    ready.pool.sizes[thin_id] = SMALL + 1
    assert ready.service.clones.remove("big", force=False)
    assert ready.service.clones.remove("small", force=False)
    assert thin_id in ready.pool.volumes
    assert thin_id not in ready.pool.active
    assert small not in ready.pool.volumes
    report = ready.service.garbage()
    (pending,) = [volume for volume in report.volumes if volume.reclaimed]
    assert (pending.thin_id, pending.state, pending.mapped_bytes) == (thin_id, "pending", SMALL + 1)
    steps: list[str] = []
    ready.pool.step = steps.append
    done = collect(ready)
    assert done.volumes == (thin_id,)
    assert steps.index("empty") < steps.index("delete")
    assert thin_id not in ready.pool.volumes
    assert ready.service.core.catalog.garbage() == ()


def test_the_next_start_leaves_what_is_large_to_the_collector(ready: Box) -> None:
    thin_id = create(ready, "big")
    ready.pool.sizes[thin_id] = 2 * GIB
    ready.service.clones.remove("big", force=False)
    service = ready.restart()
    assert thin_id in ready.pool.volumes
    assert service.status().problems == ()
    assert collect(ready).volumes == (thin_id,)
    assert ready.pool.transaction == service.core.catalog.transaction_id()


def test_an_ended_lease_is_seen_and_then_ended(ready: Box) -> None:
    (clone,) = ready.service.clones.create("brief", "debian", None, "local", lease=0.0)
    kept = create(ready, "kept")
    wait.until(lambda: ready.service.core.catalog.expired_clones(ready.service.core.now()), "the end", deadline=5)
    entries = {entry.thin_id: entry for entry in ready.service.collector.report()}
    assert (entries[clone.thin_id].state, entries[clone.thin_id].reclaimed) == (State.SERVING, True)
    assert not entries[kept].reclaimed
    assert collect(ready, Asked.BY_ITSELF).leases == ("brief",)
    assert clone.thin_id not in ready.pool.volumes
    assert ready.exported() == {"kept"}


def test_an_orphan_goes_at_once_when_an_operator_asks(ready: Box) -> None:
    ready.pool.create_thin(700)
    problems = ready.restart().status().problems
    assert "volume 700" in problems[0].what
    assert [v.thin_id for v in ready.service.garbage().volumes if v.state == "orphaned"] == [700]
    job = ready.service.collect()
    assert job.finished.wait(10)
    assert job.operation.phase == "1 volume(s) given back"
    assert 700 not in ready.pool.volumes
    assert ready.service.status().problems == ()


def test_by_itself_the_collector_waits_a_day_between_two_looks(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(ready.service.collector, "clock", lambda: now[0])
    ready.pool.create_thin(700)
    looks: list[float] = []
    listed = ready.pool.thin_ids

    def look() -> frozenset[int]:
        looks.append(now[0])
        return listed()

    monkeypatch.setattr(ready.pool, "thin_ids", look)
    for _ in range(30):
        collect(ready, Asked.BY_ITSELF)
        now[0] += collector.LOOK_SECONDS / 2
        assert 700 in ready.pool.volumes
    assert len(looks) == 15
    now[0] = 1000.0 + collector.GRACE_SECONDS
    assert collect(ready, Asked.BY_ITSELF).volumes == (700,)


def test_an_orphan_that_was_away_for_a_look_begins_anew(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(ready.service.collector, "clock", lambda: now[0])
    ready.pool.create_thin(700)
    collect(ready, Asked.BY_ITSELF)
    ready.pool.delete(700)
    now[0] += collector.LOOK_SECONDS
    collect(ready, Asked.BY_ITSELF)
    ready.pool.create_thin(700)
    now[0] = 1000.0 + collector.GRACE_SECONDS
    assert collect(ready, Asked.BY_ITSELF).volumes == ()


def test_nothing_is_taken_for_an_orphan_while_catalog_and_pool_disagree(
    ready: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    ready.pool.create_thin(700)
    ready.pool.transaction += 5
    ready.restart()
    ready.restart()  # the doubt outlives the service
    monkeypatch.setattr(ready.service.collector, "clock", lambda: now[0])
    collect(ready, Asked.BY_ITSELF)
    now[0] += 3 * collector.GRACE_SECONDS
    collect(ready, Asked.BY_ITSELF)
    assert 700 in ready.pool.volumes
    assert collect(ready).volumes == (700,)


def test_an_orphaned_device_goes_too(ready: Box) -> None:
    ready.pool.create_thin(700)
    ready.pool.activate_clone(700, 512)
    assert collect(ready).volumes == (700,)
    assert 700 not in ready.pool.active


def test_a_volume_that_is_held_stays_and_is_told(ready: Box) -> None:
    thin_id = create(ready, "big")
    ready.pool.sizes[thin_id] = 2 * GIB
    ready.pool.held.add(thin_id)
    ready.pool.create_thin(700)
    ready.service.core.catalog.add_garbage(DURABLE, "x", 0.0)
    ready.service.core.catalog.adopt_orphan(701, DURABLE, "y", 0.0)
    ready.pool.create_thin(701)
    ready.pool.activate_clone(701, 512)
    ready.pool.held.add(701)
    done = collect(ready)
    assert 700 in done.volumes
    assert [words.split(":")[0] for words in done.failures] == ["volume 701"]
    assert thin_id in ready.pool.volumes


def test_a_large_volume_is_left_alone_by_a_reconciliation_while_it_is_emptied(ready: Box) -> None:
    thin_id = create(ready, "big")
    ready.pool.sizes[thin_id] = 2 * GIB
    ready.service.clones.remove("big", force=False)
    ready.service.core.collecting.add(thin_id)
    ready.pool.sizes[thin_id] = 1
    ready.service.reconcile()
    assert thin_id in ready.pool.volumes
    ready.service.core.collecting.clear()
    ready.service.reconcile()
    assert thin_id not in ready.pool.volumes


def test_closing_stops_between_two_pieces_and_the_rest_goes_later(ready: Box) -> None:
    thin_id = create(ready, "big")
    ready.pool.sizes[thin_id] = 2 * GIB
    ready.service.clones.remove("big", force=False)
    ready.service.collector.close()
    assert collect(ready).volumes == ()
    assert ready.pool.sizes[thin_id] == GIB * 3 // 2
    assert ready.restart().collector.collect(Asked.BY_ITSELF).volumes == (thin_id,)


def test_the_thread_collects_when_it_is_poked(ready: Box) -> None:
    thin_id = create(ready, "big")
    ready.pool.sizes[thin_id] = 2 * GIB
    ready.service.collector.start()
    ready.service.clones.remove("big", force=False)
    wait.until(lambda: thin_id not in ready.pool.volumes, "the collector", deadline=10)
    ready.service.close()
    assert "collector" not in [thread.name for thread in threading.enumerate()]


def test_guests_that_are_busy_make_the_collector_pause() -> None:
    class Ended(threading.Event):
        waited: float = 0.0

        def wait(self, timeout: float | None = None) -> bool:
            self.waited += timeout or 0.0
            return self.is_set()

    requests = [0]
    ended = Ended()
    pacer = Pacer(lambda: requests[0], ended, lambda: False)
    assert pacer.go_on()
    assert ended.waited == 0
    requests[0] += collector.QUIET + 1
    assert pacer.go_on()
    assert ended.waited >= 0.05
    ended.set()
    assert not pacer.go_on()


def test_an_empty_volume_needs_no_emptying(ready: Box) -> None:
    ready.pool.create_thin(700)
    ready.pool.activate_template(700, 512, Access.READ_WRITE)
    steps: list[str] = []
    ready.pool.step = steps.append
    assert collect(ready).volumes == (700,)
    assert "empty" not in steps
