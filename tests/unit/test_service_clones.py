import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.catalog import NewTemplate
from appliance.errors import AlreadyExists, HatcheryError, InUse, InvalidInput, NoSpace, NotFound, NotReady
from appliance.model import GIB, CloneState, ImageFormat
from appliance.schema import ClientSpec, CloneCreate
from tests.unit.model import Crash
from tests.unit.service_harness import IMAGE, Box, box, counting


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        yield made


def create(box: Box, name: str, count: int | None = None, client: str | None = "local") -> list[str]:
    request = CloneCreate(name=name, template="debian", count=count, client=client)
    return [clone.name for clone in box.service.create_clones(request).clones]


def test_a_clone_is_exported_with_the_template_s_content(ready: Box) -> None:
    assert create(ready, "web") == ["web"]
    (clone,) = ready.service.list_clones().clones
    assert clone.state is CloneState.READY
    assert clone.template == "debian@1"
    assert clone.size == len(IMAGE)
    assert clone.uri == f"nbd+unix:///web?socket={ready.paths.run}/nbd/local/nbd.sock"
    assert ready.exported() == {"web"}
    assert ready.pool.path(2).read_bytes() == IMAGE


def test_qemu_s_words_make_guests_wait_for_a_restart_and_pause_when_the_pool_is_full(ready: Box) -> None:
    create(ready, "web")
    words = ready.service.show_clone("web").qemu
    blockdev = json.loads(words[words.index("-blockdev") + 1])
    assert blockdev["export"] == "web"
    assert blockdev["reconnect-delay"] >= 600
    assert blockdev["discard"] == "unmap"
    assert blockdev["cache"] == {"direct": True, "no-flush": False}
    device = words[words.index("-device") + 1]
    assert "werror=enospc" in device
    assert f"drive={blockdev['node-name']}" in device


def test_many_clones_are_made_in_one_transaction_of_the_pool(ready: Box) -> None:
    before = ready.pool.transaction
    assert create(ready, "web", count=4) == ["web-1", "web-2", "web-3", "web-4"]
    assert ready.exported() == {"web-1", "web-2", "web-3", "web-4"}
    assert ready.pool.transaction == before + 1


def test_many_clones_are_all_or_none(ready: Box) -> None:
    create(ready, "web-3")
    volumes = set(ready.pool.volumes)
    with pytest.raises(AlreadyExists, match="web-3"):
        create(ready, "web", count=4)
    assert set(ready.pool.volumes) == volumes
    assert [clone.name for clone in ready.service.list_clones().clones] == ["web-3"]


@pytest.mark.parametrize("limit", range(9))
def test_a_failure_at_any_step_of_creating_leaves_nothing(ready: Box, limit: int) -> None:
    volumes, active = set(ready.pool.volumes), set(ready.pool.active)
    ready.pool.step = counting(limit, NoSpace("the pool is full"))
    try:
        create(ready, "web", count=3)
    except NoSpace:
        assert ready.service.list_clones().clones == ()
        assert set(ready.pool.volumes) == volumes
        assert set(ready.pool.active) == active
        assert ready.exported() == set()
    else:
        assert limit > 6, "the step was not reached"
    ready.pool.step = lambda _: None
    ready.restart()
    assert create(ready, "again") == ["again"]


@pytest.mark.parametrize("limit", range(9))
def test_a_crash_at_any_step_of_creating_ends_before_or_after(ready: Box, limit: int) -> None:
    volumes = set(ready.pool.volumes)

    def die(name: str) -> None:
        crash(name)
        if crashed:
            raise Crash

    crashed: list[str] = []
    inner = counting(limit, Crash())

    def crash(name: str) -> None:
        try:
            inner(name)
        except Crash:
            crashed.append(name)

    ready.pool.step = die
    with contextlib.suppress(Crash):
        create(ready, "web", count=3)
    ready.restart()
    clones = ready.service.list_clones().clones
    assert len(clones) in (0, 3)
    assert set(ready.pool.volumes) - volumes == {c.thin_id for c in ready.service.core.catalog.clones()}
    assert ready.exported() == {clone.name for clone in clones}
    assert ready.service.status().problems == ()
    assert create(ready, "again") == ["again"]


@pytest.mark.parametrize("limit", range(4))
def test_a_crash_at_any_step_of_removing_ends_before_or_after(ready: Box, limit: int) -> None:
    volumes = set(ready.pool.volumes)
    create(ready, "web")
    ready.pool.step = counting(limit, Crash())
    with contextlib.suppress(Crash):
        ready.service.clones.remove("web", force=False)
    ready.restart()
    assert ready.service.list_clones().clones == ()
    assert set(ready.pool.volumes) == volumes
    assert ready.exported() == set()
    assert ready.service.status().problems == ()


def test_removing_frees_the_volume_and_the_name_but_not_the_id(ready: Box) -> None:
    create(ready, "web")
    first = ready.service.core.catalog.clone("web").thin_id
    assert ready.service.clones.remove("web", force=False)
    assert first not in ready.pool.volumes
    assert ready.exported() == set()
    assert not ready.service.clones.remove("web", force=False)
    create(ready, "web")
    assert ready.service.core.catalog.clone("web").thin_id > first


def test_removing_a_connected_clone_is_refused_unless_forced(ready: Box) -> None:
    create(ready, "web")
    ready.units.daemons["local"].connected.add("clone-2")
    with pytest.raises(InUse, match="client local is connected"):
        ready.service.clones.remove("web", force=False)
    assert ready.exported() == {"web"}
    assert "web" in (ready.paths.nbd("local") / "server.json").read_text()
    assert ready.service.clones.remove("web", force=True)
    assert ready.exported() == set()


@pytest.mark.parametrize(
    ("name", "template", "client", "error"),
    [
        ("Web", "debian", "local", InvalidInput),
        ("web/../x", "debian", "local", InvalidInput),
        ("web", "fedora", "local", NotFound),
        ("web", "debian@2", "local", NotFound),
        ("web", "debian@x", "local", InvalidInput),
        ("web", "debian", "hv1", NotFound),
    ],
)
def test_bad_requests_leave_nothing(
    ready: Box, name: str, template: str, client: str, error: type[HatcheryError]
) -> None:
    volumes = set(ready.pool.volumes)
    with pytest.raises(error):
        ready.service.clones.create(name, template, None, client)
    assert set(ready.pool.volumes) == volumes
    assert ready.service.list_clones().clones == ()


def test_clones_are_refused_before_the_pool_is_full(ready: Box) -> None:
    used = ready.pool.status().data_used
    ready.pool.data_total = used + used * 4 // 100
    with pytest.raises(NoSpace, match="headroom"):
        create(ready, "web")


def test_a_detached_clone_has_no_device_and_can_be_attached_elsewhere(ready: Box) -> None:
    ready.service.put_client("lab", ClientSpec(transport="unix"))
    create(ready, "web")
    with pytest.raises(InUse, match="attached to client local"):
        ready.service.clones.attach("web", "lab")
    ready.service.clones.attach("web", "local")
    ready.service.clones.detach("web", force=False)
    ready.service.clones.detach("web", force=False)
    shown = ready.service.show_clone("web")
    assert (shown.client, shown.uri, shown.qemu, shown.mapped_bytes) == (None, None, (), None)
    assert 2 not in ready.pool.active
    ready.service.clones.attach("web", "lab")
    assert ready.exported("lab") == {"web"}
    assert ready.exported("local") == set()


def test_what_a_guest_wrote_is_there_after_detaching_and_after_a_reboot(ready: Box) -> None:
    create(ready, "web")
    create(ready, "db")
    content = b"mine" + IMAGE[4:]
    ready.pool.path(2).write_bytes(content)
    ready.service.clones.detach("web", force=False)
    ready.service.clones.attach("web", "local")
    assert ready.pool.path(2).read_bytes() == content
    ready.reboot()
    assert ready.pool.path(2).read_bytes() == content
    assert ready.pool.path(3).read_bytes() == IMAGE
    assert ready.exported() == {"web", "db"}


def test_a_killed_daemon_comes_back_with_its_exports_and_the_new_one(ready: Box) -> None:
    create(ready, "web")
    ready.units.kill("local")
    assert ready.service.list_clients().clients[0].state == "failed"
    create(ready, "db")
    assert ready.exported() == {"web", "db"}


def test_new_exports_do_not_disturb_others(ready: Box) -> None:
    create(ready, "web")
    daemon = ready.units.daemons["local"]
    daemon.connected.add("clone-2")
    daemon.commands.clear()
    create(ready, "db")
    ready.service.clones.remove("db", force=False)
    assert daemon.connected == {"clone-2"}
    assert ready.units.daemons["local"] is daemon


def test_a_daemon_that_refuses_an_export_makes_no_clone(ready: Box) -> None:
    ready.units.daemons["local"].refuse["block-export-add"] = "no"
    with pytest.raises(HatcheryError, match="web cannot be exported"):
        create(ready, "web")
    assert ready.service.list_clones().clones == ()
    assert set(ready.pool.volumes) == {1}


def test_a_template_that_is_not_ready_is_not_cloned(ready: Box) -> None:
    core = ready.service.core
    core.catalog.remove_template(1, "gone", 1.0)
    core.catalog.add_template(NewTemplate("debian", ImageFormat.RAW, "upload", 1.0))
    with pytest.raises(NotReady, match="importing"):
        create(ready, "web")


def test_a_full_pool_is_no_reason_to_lose_what_is_there(ready: Box) -> None:
    create(ready, "web")
    ready.pool.data_total = 1 * GIB // 1024
    ready.reboot()
    assert ready.exported() == {"web"}
