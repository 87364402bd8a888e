"""Clones that change hands: they are with the one client or with the other, whatever happens in between."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.catalog import Catalog
from appliance.errors import HatcheryError, InUse, NotFound, Unhealthy
from appliance.host import storage_daemon
from appliance.host.qmp import Qmp
from appliance.host.storage_daemon import Files
from appliance.schema import ClientSpec, CloneCreate
from appliance.service import exports
from tests.unit.model import Crash
from tests.unit.service_harness import Box, box

MOST = 80
"""No move of two clones has so many steps."""


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    """Two clones of the client ``local``, and the client ``lab`` without any."""
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        made.service.put_client("lab", ClientSpec(transport="unix"))
        made.service.create_clones(CloneCreate(name="web", template="debian", count=2))
        yield made


def move(box: Box, *names: str, client: str = "lab", force: bool = False) -> list[str | None]:
    return [clone.client for clone in box.service.moves.move(names, client, force=force)]


def served(box: Box) -> dict[str, set[str]]:
    return {client: box.exported(client) for client in ("local", "lab") if client in box.units.daemons}


def on_file(box: Box, client: str) -> set[str]:
    """What the client's daemon would serve if it were started now."""
    text = Files(box.paths.nbd(client)).config.read_text(encoding="utf-8")
    return {export.name for export in storage_daemon.parse(text).exports}


def told(box: Box) -> list[tuple[str, str, str]]:
    reader = box.service.events.join(lambda: None)
    found = [(event.subject, event.state, event.words) for event in reader.take() if event.kind == "clone"]
    reader.leave()
    return found


def at_each_step(box: Box, monkeypatch: pytest.MonkeyPatch, step: Callable[[], None]) -> None:
    """Have ``step`` called before and after whatever a move does to files, daemons, the kernel and the catalog."""

    def watch(owner: object, name: str) -> None:
        inner = getattr(owner, name)

        def watched(*given: object, **named: object) -> object:
            if "qmp_capabilities" in given:
                return inner(*given, **named)  # no step of a move; a connection that is given up here stays open
            step()
            result = inner(*given, **named)
            step()
            return result

        monkeypatch.setattr(owner, name, watched)

    watch(exports, "write_file")
    watch(Qmp, "execute")
    watch(Catalog, "set_clone_clients")
    box.pool.step = lambda _: step()


def test_clones_move_in_one_step_and_are_let_alone_where_they_are(ready: Box, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert move(ready, "web-1") == ["lab"]
    assert served(ready) == {"local": {"web-2"}, "lab": {"web-1"}}
    assert (on_file(ready, "local"), on_file(ready, "lab")) == ({"web-2"}, {"web-1"})
    assert "clone web-1 moved from client local to client lab" in caplog.text
    assert told(ready)[-1] == ("web-1", "moved", "from client local to client lab")
    pid = ready.units.daemons["lab"]
    assert move(ready, "web-1", "web-2", "web-1") == ["lab", "lab"]
    assert served(ready) == {"local": set(), "lab": {"web-1", "web-2"}}
    assert ready.units.daemons["lab"] is pid
    before = told(ready)
    assert move(ready, "web-1", "web-2") == ["lab", "lab"]
    assert told(ready) == before


def test_what_nobody_has_is_attached_and_what_was_written_stays(ready: Box) -> None:
    ready.pool.path(2).write_bytes(b"mine")
    ready.service.clones.detach("web-1", force=False)
    assert move(ready, "web-1", "web-2") == ["lab", "lab"]
    assert ready.pool.path(2).read_bytes().startswith(b"mine")
    assert served(ready)["lab"] == {"web-1", "web-2"}
    assert ("web-1", "moved", "from nobody to client lab") in told(ready)


def test_a_clone_that_is_in_use_holds_the_others_back_unless_forced(ready: Box) -> None:
    ready.units.daemons["local"].connected.add("clone-3")
    with pytest.raises(InUse, match="clone web-2 is in use") as caught:
        move(ready, "web-1", "web-2")
    assert "client local is connected" in caught.value.why
    assert served(ready) == {"local": {"web-1", "web-2"}, "lab": set()}
    assert on_file(ready, "local") == {"web-1", "web-2"}
    assert ready.units.daemons["local"].connected == {"clone-3"}
    assert move(ready, "web-1", "web-2", force=True) == ["lab", "lab"]
    assert served(ready) == {"local": set(), "lab": {"web-1", "web-2"}}


def test_what_is_not_known_is_refused_and_nothing_moves(ready: Box) -> None:
    for names, client in ((("web-1", "web-9"), "lab"), (("web-1",), "nobody")):
        with pytest.raises(NotFound):
            move(ready, *names, client=client)
    assert served(ready) == {"local": {"web-1", "web-2"}, "lab": set()}


def test_a_daemon_that_comes_up_with_what_its_file_said_before_does_not_keep_the_clone(
    ready: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ready.units.start

    def late(client: str) -> None:
        start(client)
        if client == "local":
            daemon = ready.units.daemons[client]
            daemon.exports["clone-2"] = "web-1"
            daemon.nodes.add("clone-2")
            daemon.limits["clone-2"] = {}

    ready.units.kill("local")
    monkeypatch.setattr(ready.units, "start", late)
    assert move(ready, "web-1") == ["lab"]
    assert served(ready) == {"local": {"web-2"}, "lab": {"web-1"}}


def test_a_client_whose_daemon_refuses_gets_nothing_and_the_old_one_keeps_all(ready: Box) -> None:
    ready.units.daemons["lab"].refuse["block-export-add"] = "no"
    with pytest.raises(Unhealthy, match="cannot be exported"):
        move(ready, "web-1", "web-2")
    assert served(ready) == {"local": {"web-1", "web-2"}, "lab": set()}
    assert (on_file(ready, "local"), on_file(ready, "lab")) == ({"web-1", "web-2"}, set())
    assert [clone.client for clone in ready.service.list_clones().clones] == ["local", "local"]


def test_a_failure_at_any_step_leaves_the_clones_where_they_were(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in range(MOST):
        left = limit

        def fail() -> None:
            nonlocal left
            left -= 1
            if left == -1:
                raise Unhealthy("this step failed")

        with monkeypatch.context() as patches:
            at_each_step(ready, patches, fail)
            with contextlib.suppress(HatcheryError):
                move(ready, "web-1", "web-2")
            ready.pool.step = lambda _: None
        catalog = {clone.client for clone in ready.service.list_clones().clones}
        assert len(catalog) == 1, f"step {limit} left them with {catalog}"
        (client,) = catalog
        other = "local" if client == "lab" else "lab"
        assert served(ready) == {str(client): {"web-1", "web-2"}, other: set()}, f"after step {limit}"
        assert (on_file(ready, str(client)), on_file(ready, other)) == ({"web-1", "web-2"}, set())
        if left >= 0:
            assert limit > 10
            return
        move(ready, "web-1", "web-2", client="local")
    raise AssertionError("a move has no end")


def test_a_crash_at_any_step_leaves_each_clone_with_one_client(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[str] = []
    for limit in range(MOST):
        left = limit

        def die() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash

        with monkeypatch.context() as patches:
            at_each_step(ready, patches, die)
            with contextlib.suppress(Crash):
                move(ready, "web-1", "web-2")
        # Nobody can have both before the next start, also with daemons that were started anew.
        assert not served(ready)["local"] & served(ready)["lab"], f"after step {limit}"
        assert not on_file(ready, "local") & on_file(ready, "lab"), f"after step {limit}"
        ready.units.kill("local" if limit % 2 else "lab")
        ready.restart()
        catalog = {clone.client for clone in ready.service.list_clones().clones}
        assert len(catalog) == 1, f"step {limit} left them with {catalog}"
        (client,) = catalog
        ends.append(str(client))
        assert served(ready)[str(client)] == {"web-1", "web-2"}
        assert not served(ready)["local"] & served(ready)["lab"]
        assert ready.service.status().problems == ()
        if left >= 0:
            break
        move(ready, "web-1", "web-2", client="local")
    assert ends == sorted(ends, reverse=True), "there is one step at which they change hands"
    assert {"local", "lab"} == set(ends)
