"""Limits of clones hold at once, and outlast whatever ends."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.errors import NotFound, Unhealthy
from appliance.model import MIB, Limits
from tests.unit.service_harness import IMAGE, Box
from tests.unit.written_clone import clone, create, written


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with written(tmp_path) as made:
        yield made


HALF, FREE = Limits(iops=500), {"iops-total": 0, "bps-total": 0}


def held(box: Box, name: str) -> dict[str, int]:
    """What the daemon holds a clone to."""
    return box.units.daemons["local"].held(f"clone-{clone(box, name).thin_id}")


def test_a_limit_holds_at_once_and_the_guest_stays(ready: Box) -> None:
    daemon = ready.units.daemons["local"]
    daemon.connected.add(f"clone-{clone(ready, 'web').thin_id}")
    assert held(ready, "web") == FREE
    assert ready.service.life.limit("web", Limits(500, 100 * MIB)).limits == Limits(500, 100 * MIB)
    assert held(ready, "web") == {"iops-total": 500, "bps-total": 100 * MIB}
    ready.service.life.limit("web", HALF)
    assert held(ready, "web") == {**FREE, "iops-total": 500}
    assert ready.units.daemons["local"] is daemon
    assert daemon.connected
    daemon.commands.clear()
    ready.service.life.limit("web", HALF)
    assert daemon.commands == []


def test_a_limit_outlasts_daemons_the_machine_and_the_volume(ready: Box) -> None:
    ready.service.life.limit("web", HALF)
    create(ready, "free")
    create(ready, "born", limits={"iops": 20})
    everything = {"web": {**FREE, "iops-total": 500}, "free": FREE, "born": {**FREE, "iops-total": 20}}
    ends: tuple[Callable[[], object], ...] = (
        lambda: ready.units.restart("local"),
        ready.restart,
        ready.reboot,
        lambda: ready.service.life.reset("web", force=False),
        lambda: ready.service.life.resize("web", len(IMAGE) + MIB),
    )
    for end in ends:
        end()
        assert {name: held(ready, name) for name in everything} == everything
    limited = {f"clone-{clone(ready, name).thin_id}" for name in ("web", "born")}
    assert ready.units.daemons["local"].limits.keys() == limited, "who is free has no filter, and none is left over"


def test_a_daemon_that_is_away_learns_of_a_limit_when_it_comes_back(ready: Box) -> None:
    ready.units.kill("local")
    ready.service.life.limit("web", HALF)
    ready.units.start("local")
    assert held(ready, "web")["iops-total"] == 500


def test_a_hatcheryd_that_was_killed_in_the_middle_of_it_ends_it(ready: Box) -> None:
    ready.service.core.catalog.set_clone_limits(clone(ready, "web").thin_id, HALF)
    assert held(ready, "web") == FREE
    ready.restart()
    assert held(ready, "web")["iops-total"] == 500


def test_a_limit_that_the_daemon_does_not_take_is_none(ready: Box) -> None:
    ready.service.life.limit("web", HALF)
    ready.units.daemons["local"].refuse["qom-set"] = "out of range"
    with pytest.raises(Unhealthy, match="limits of web cannot be set"):
        ready.service.life.limit("web", Limits())
    assert clone(ready, "web").limits == HALF
    ready.units.restart("local")
    assert held(ready, "web")["iops-total"] == 500


def test_a_detached_clone_is_limited_when_it_is_attached(ready: Box) -> None:
    ready.service.clones.detach("web", force=False)
    ready.service.life.limit("web", HALF)
    ready.service.clones.attach("web", "local")
    assert held(ready, "web")["iops-total"] == 500
    with pytest.raises(NotFound):
        ready.service.life.limit("nobody", HALF)
