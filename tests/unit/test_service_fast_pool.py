"""What becomes of ephemeral clones when the fast pool dies, comes back, or is replaced."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import NotReady
from appliance.model import CloneKind, CloneState, PoolName
from appliance.schema import CloneCreate
from appliance.service.fast_pool import FastPool
from tests.unit.model import ModelPool
from tests.unit.service_harness import Box, box


class Drive:
    """An NVMe drive with a fast pool on it: there, or not."""

    def __init__(self, ready: Box, folder: Path) -> None:
        self.folder = folder
        self.pool: ModelPool | None = self.fresh("drive-1")
        assert self.pool is not None
        ready.pools[PoolName.FAST] = self.pool
        service = ready.restart()
        self.core = service.core
        self.watched = FastPool(service.core, service._exports, lambda: self.pool)

    def fresh(self, name: str) -> ModelPool:
        folder = self.folder / name
        folder.mkdir()
        return ModelPool(folder, name=name)


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        yield made


@pytest.fixture
def drive(ready: Box, tmp_path: Path) -> Drive:
    """A drive with the clones ``quick`` and ``idle`` on it; ``slow`` is durable."""
    made = Drive(ready, tmp_path)
    for name, kind, client in (
        ("quick", CloneKind.EPHEMERAL, "local"),
        ("idle", CloneKind.EPHEMERAL, None),
        ("slow", CloneKind.DURABLE, "local"),
    ):
        ready.service.create_clones(CloneCreate(name=name, template="debian", client=client, kind=kind))
    assert ready.exported() == {"quick", "slow"}
    return made


def states(box: Box) -> dict[str, CloneState]:
    return {clone.name: clone.state for clone in box.service.list_clones().clones}


def die(drive: Drive) -> ModelPool:
    pool, drive.pool = drive.pool, None
    assert pool is not None
    assert drive.watched.check() is not None
    return pool


def test_nothing_happens_while_it_lives_or_there_is_none(ready: Box, drive: Drive) -> None:
    assert drive.watched.check() is None
    die(drive)
    assert drive.watched.check() is None
    assert ready.exported() == {"slow"}


def test_when_it_dies_exports_stop_by_force_and_the_clones_are_lost(ready: Box, drive: Drive) -> None:
    pool = drive.pool
    drive.pool = None
    problems = drive.watched.check()
    assert ready.exported() == {"slow"}
    assert states(ready) == {"quick": CloneState.LOST, "idle": CloneState.LOST, "slow": CloneState.READY}
    assert any("2 ephemeral clone(s)" in problem.what for problem in problems or ())
    assert pool is not None
    assert pool.active == {}
    with pytest.raises(NotReady):
        ready.service.create_clones(
            CloneCreate(name="new", template="debian", client=None, kind=CloneKind.EPHEMERAL),
        )
    ready.service.create_clones(CloneCreate(name="more", template="debian"))
    assert ready.exported() == {"slow", "more"}


def test_a_device_that_cannot_go_does_not_keep_the_others(ready: Box, drive: Drive) -> None:
    assert drive.pool is not None
    drive.pool.held = set(drive.pool.active)
    die(drive)
    assert ready.exported() == {"slow"}


def test_the_same_drive_brings_its_clones_back(ready: Box, drive: Drive) -> None:
    drive.pool = die(drive)
    assert drive.watched.check() == ()
    assert set(states(ready).values()) == {CloneState.READY}
    assert ready.exported() == {"quick", "slow"}


def test_a_new_drive_brings_a_pool_but_no_clones(ready: Box, drive: Drive) -> None:
    die(drive)
    drive.pool = drive.fresh("drive-2")
    assert drive.watched.check()
    assert states(ready) == {"quick": CloneState.LOST, "idle": CloneState.LOST, "slow": CloneState.READY}
    assert ready.exported() == {"slow"}
    ready.service.create_clones(CloneCreate(name="new", template="debian", kind=CloneKind.EPHEMERAL))
    assert ready.exported() == {"slow", "new"}


def test_a_drive_that_was_exchanged_between_two_looks_is_noticed(ready: Box, drive: Drive) -> None:
    drive.pool = drive.fresh("drive-2")
    assert drive.watched.check()
    assert states(ready)["quick"] is CloneState.LOST
    assert ready.exported() == {"slow"}
    assert drive.watched.check() is None
