"""Clones that two clients may write to for a time, and the one that has them afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import HatcheryError, InUse, InvalidInput, NotFound, Unhealthy
from appliance.host import device_access
from appliance.model import Access
from appliance.schema import Attachment, ClientSpec, CloneCreate, CloneView, SeedSpec
from tests.unit.service_harness import Box, box


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    """A clone of the client ``local``, and the clients ``hv1`` and ``hv2``."""
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        for client in ("hv1", "hv2"):
            made.service.put_client(client, ClientSpec(transport="unix"))
        made.service.create_clones(CloneCreate(name="web", template="debian", seed=SeedSpec()))
        yield made


@pytest.fixture
def let_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[int, Access]]:
    """Who may open each device, as far as anybody was let in."""
    found: dict[str, dict[int, Access]] = {}

    def grant(device: Path, users: dict[int, Access]) -> bool:
        found[device.name] = users
        return True

    monkeypatch.setattr(device_access, "grant", grant)
    return found


def share(box: Box, client: str = "hv1", seconds: float = 60.0) -> CloneView:
    return box.service.attach("web", Attachment(client=client, shared=True, seconds=seconds))


def who(box: Box) -> list[str]:
    """The clients whose daemons offer the clone."""
    return sorted(client for client in box.units.daemons if "web" in box.exported(client))


def users(box: Box, *clients: str) -> dict[int, Access]:
    return {box.units.user(client): Access.READ_WRITE for client in clients}


def later(box: Box, monkeypatch: pytest.MonkeyPatch, seconds: float = 3600.0) -> None:
    now = box.service.core.now()
    monkeypatch.setattr(box.service.core, "now", lambda: now + seconds)


def test_two_may_write_after_it_was_declared_and_one_again_after_a_move(
    ready: Box, let_in: dict[str, dict[int, Access]]
) -> None:
    with pytest.raises(InUse, match="attached to client local") as caught:
        ready.service.attach("web", Attachment(client="hv1"))
    assert "--shared" in caught.value.hint
    view = share(ready)
    assert view.shared is not None
    assert (view.client, view.shared.client) == ("local", "hv1")
    assert "/hv1/" in view.shared.uri
    assert who(ready) == ["hv1", "local"]
    assert "web:seed" in ready.exported("hv1")
    assert let_in["hatchery-clone-2"] == users(ready, "local", "hv1")
    ready.units.daemons["hv1"].connected.add("clone-2")
    (moved,) = ready.service.moves.move(["web"], "hv1", force=False)
    assert (moved.client, moved.shared) == ("hv1", None)
    assert who(ready) == ["hv1"]
    assert ready.units.daemons["hv1"].connected == {"clone-2"}, "the guest that has arrived was not disturbed"
    assert let_in["hatchery-clone-2"] == users(ready, "hv1")


def test_a_migration_that_is_given_up_ends_where_it_began(ready: Box) -> None:
    share(ready)
    assert ready.service.detach("web", "hv1", force=False).client == "local"
    assert who(ready) == ["local"]
    share(ready)
    assert [clone.client for clone in ready.service.moves.move(["web"], "local", force=False)] == ["local"]
    assert who(ready) == ["local"]


def test_who_is_connected_is_not_taken_away_from(ready: Box) -> None:
    share(ready)
    ready.units.daemons["local"].connected.add("clone-2")
    with pytest.raises(InUse, match="clone web is in use"):
        ready.service.moves.move(["web"], "hv1", force=False)
    assert who(ready) == ["hv1", "local"]
    assert [clone.client for clone in ready.service.moves.move(["web"], "hv1", force=True)] == ["hv1"]
    assert who(ready) == ["hv1"]


def test_no_third_one_and_nobody_twice(ready: Box) -> None:
    with pytest.raises(InvalidInput, match="that client has it"):
        share(ready, "local")
    with pytest.raises(NotFound):
        share(ready, "nobody")
    first = share(ready, seconds=60.0)
    again = share(ready, seconds=600.0)
    assert first.shared is not None
    assert again.shared is not None
    assert again.shared.until > first.shared.until + 500
    with pytest.raises(InUse, match="shared with client hv1"):
        share(ready, "hv2")
    with pytest.raises(InvalidInput, match="not shared with client hv2"):
        ready.service.detach("web", "hv2", force=False)
    ready.service.detach("web", "hv1", force=False)
    ready.service.detach("web", None, force=False)
    with pytest.raises(InvalidInput, match="nobody has it"):
        share(ready)


def test_nothing_else_is_done_to_it_meanwhile(ready: Box) -> None:
    share(ready)
    service = ready.service
    for verb in (
        lambda: service.detach("web", None, force=True),
        lambda: service.life.reset("web", force=True),
        lambda: service.life.resize("web", 1 << 30),
        lambda: service.seeds.remove("web", force=True),
        lambda: service.moves.move(["web"], "hv2", force=True),
        lambda: service.clones.remove("web", force=False),
    ):
        with pytest.raises(InUse, match="share it"):
            verb()
    with pytest.raises(InUse, match="client hv1 is in use"):
        service.clients.remove("hv1")
    assert service.clones.remove("web", force=True)
    assert who(ready) == []


def test_a_start_brings_both_back(ready: Box) -> None:
    share(ready)
    ready.reboot()
    assert who(ready) == ["hv1", "local"]
    assert ready.service.status().problems == ()
    assert [check.state for check in ready.service.examine().checks if check.rule == 6] == ["ok"]


def test_when_the_time_is_over_who_is_not_connected_loses_it(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    share(ready)
    ready.service.sharing.sweep()
    assert who(ready) == ["hv1", "local"], "its time is not over"
    for connected, left in (({"local"}, "local"), ({"hv1"}, "hv1"), (set(), "hv1")):
        ready.service.moves.move(["web"], "local", force=True)
        share(ready)
        if not connected:
            ready.service.moves.move(["web"], "hv1", force=True)
            ready.service.attach("web", Attachment(client="local", shared=True, seconds=1.0))
        for client in connected:
            ready.units.daemons[client].connected.add("clone-2")
        later(ready, monkeypatch)
        ready.service.sharing.sweep()
        assert who(ready) == [left]
        for client in ("local", "hv1"):
            ready.units.daemons[client].connected.clear()


def test_while_both_are_connected_an_operator_is_told(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    share(ready)
    for client in ("local", "hv1"):
        ready.units.daemons[client].connected.add("clone-2")
    later(ready, monkeypatch)
    ready.service.sharing.sweep()
    assert who(ready) == ["hv1", "local"]
    (problem,) = ready.service.status().problems
    assert "clients local and hv1 are both connected" in problem.what
    ready.units.daemons["local"].connected.clear()
    later(ready, monkeypatch)
    ready.service.sharing.sweep()
    assert who(ready) == ["hv1"]
    assert ready.service.status().problems == ()


def test_a_daemon_that_refuses_leaves_it_with_the_one_that_has_it(ready: Box) -> None:
    ready.units.daemons["hv1"].refuse["block-export-add"] = "no"
    with pytest.raises(Unhealthy, match="cannot be exported"):
        share(ready)
    assert who(ready) == ["local"]
    assert ready.service.show_clone("web").shared is None
    del ready.units.daemons["hv1"].refuse["block-export-add"]
    share(ready)
    ready.units.daemons["local"].refuse["block-export-del"] = "no"
    with pytest.raises(HatcheryError):
        ready.service.moves.move(["web"], "hv1", force=True)
    view = ready.service.show_clone("web")
    assert view.shared is not None
    assert (view.client, view.shared.client) == ("local", "hv1")
    assert who(ready) == ["hv1", "local"]
