"""Who changes the store when a drive came back: hatcheryd itself, or a unit that may."""

from pathlib import Path

import pytest

from appliance.config import Config, Paths
from appliance.errors import InUse
from appliance.host import glance
from appliance.service.kernel import KernelStore
from appliance.store import start
from appliance.store.machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(Config(paths=Paths(etc=tmp_path / "etc", state=tmp_path / "state", run=tmp_path / "run")))


def test_without_a_service_manager_it_is_done_here(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Machine] = []
    monkeypatch.setattr(start, "up", done.append)
    KernelStore(machine).heal()
    assert done == [machine]


def test_elsewhere_it_finds_the_store_free_and_what_was_seen_before_is_forgotten(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    looks: list[None] = []

    @glance.remembered
    def look() -> int:
        looks.append(None)
        return len(looks)

    def elsewhere() -> None:
        with machine.exclusive(deadline=0.0):
            done.append(look())

    def here(_: Machine) -> None:
        raise AssertionError("hatcheryd has not the rights for it")

    monkeypatch.setattr(start, "up", here)
    with glance.one():
        look()
        KernelStore(machine, elsewhere).heal()
        assert look() == 3
    assert done == [2]


def test_while_somebody_changes_the_store_nothing_is_started(machine: Machine) -> None:
    def elsewhere() -> None:
        raise AssertionError("not now")

    with machine.exclusive(), pytest.raises(InUse):
        KernelStore(machine, elsewhere).heal()
