"""Seeds: offered beside their clones, to their clients alone, and gone with them."""

import contextlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from appliance.errors import HatcheryError, InUse, InvalidInput, NoSpace, NotFound, Unhealthy
from appliance.host import storage_daemon
from appliance.host.storage_daemon import Files
from appliance.schema import ClientSpec, CloneCreate, SeedSpec, SeedView
from tests.unit.model import Crash
from tests.unit.service_harness import Box, box, counting
from tests.unit.test_seed_image import KEY, read
from tests.unit.test_service_moves import MOST, at_each_step

USER_DATA = "#cloud-config\npassword: hunter2\n"


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        made.service.put_client("lab", ClientSpec(transport="unix"))
        yield made


def create(box: Box, name: str = "web", count: int | None = None, **seed: object) -> list[SeedView | None]:
    given = SeedSpec.model_validate(seed) if seed else None
    request = CloneCreate(name=name, template="debian", count=count, seed=given)
    return [clone.seed for clone in box.service.create_clones(request).clones]


def put(box: Box, name: str = "web", *, force: bool = False, **seed: object) -> SeedView:
    return box.service.put_seed(name, SeedSpec.model_validate(seed), force=force)


def files(box: Box, client: str = "local") -> dict[str, dict[str, str]]:
    """The seeds that a client's daemon can read, by their instance."""
    folder = box.paths.seeds(client)
    contents = [read(path.read_bytes()) for path in (folder.iterdir() if folder.is_dir() else ())]
    texts = [{name: content.decode() for name, content in each.items()} for each in contents]
    return {json.loads(each["meta-data"])["instance-id"]: each for each in texts}


def on_file(box: Box, client: str = "local") -> set[str]:
    config = storage_daemon.parse(Files(box.paths.nbd(client)).config.read_text(encoding="utf-8"))
    assert all(export.device.exists() for export in config.exports if export.file), "a file is missing"
    return {export.name for export in config.exports}


def test_a_seed_is_offered_read_only_beside_its_clone(ready: Box, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    (view,) = create(ready, user_data=USER_DATA, ssh_keys=(KEY,))
    assert view == SeedView(
        instance="web-1",
        hostname="web",
        ssh_keys=(KEY,),
        user_data_bytes=len(USER_DATA),
        uri=f"nbd+unix:///web:seed?socket={ready.paths.nbd('local')}/nbd.sock",
    )
    assert ready.exported() == on_file(ready) == {"web", "web:seed"}
    assert ready.exported("lab") == set()
    assert not files(ready, "lab")
    assert ready.paths.seeds("lab").is_dir(), "the unit of its daemon finds it when it starts"
    found = files(ready)["web-1"]
    assert found["user-data"] == USER_DATA
    assert json.loads(found["meta-data"])["public-keys"] == [KEY]
    (path,) = ready.paths.seeds("local").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    config = storage_daemon.parse(Files(ready.paths.nbd("local")).config.read_text(encoding="utf-8"))
    seed = next(export for export in config.exports if export.file)
    assert (seed.device, seed.writable) == (path, False)
    assert seed.disk("native") == {"driver": "file", "filename": str(path), "read-only": True}
    assert (seed.blockdev("native")["read-only"], seed.export()["writable"]) == (True, False)

    # It is said nowhere what is in it.
    shown = ready.service.show_clone("web").model_dump_json() + ready.service.list_clones().model_dump_json()
    told = ready.service.events.join(lambda: None).take()
    everything = (shown, caplog.text, repr(told), repr(config), repr(ready.service.core.catalog.seed(1)))
    assert not [text for text in everything if "hunter2" in text]
    assert "**" in str(SeedSpec(user_data=SecretStr(USER_DATA)))


def test_qemu_and_libvirt_are_given_a_second_disk(ready: Box) -> None:
    create(ready, hostname="host")
    view = ready.service.show_clone("web")
    blockdevs = [json.loads(view.qemu[at + 1]) for at, word in enumerate(view.qemu) if word == "-blockdev"]
    assert [(each["export"], each.get("read-only")) for each in blockdevs] == [("web", None), ("web:seed", True)]
    devices = [view.qemu[at + 1] for at, word in enumerate(view.qemu) if word == "-device"]
    assert devices[1] == f"virtio-blk-pci,drive={blockdevs[1]['node-name']}"
    assert view.libvirt is not None
    assert view.libvirt.count("<disk ") == view.libvirt.count("<reconnect ") == 2
    assert '<source protocol="nbd" name="web:seed">' in view.libvirt
    assert view.libvirt.count("<readonly />") == 1
    ready.service.clones.detach("web", force=False)
    detached = ready.service.show_clone("web")
    assert (detached.qemu, detached.libvirt) == ((), None)
    assert detached.seed is not None
    assert detached.seed.uri is None


def test_each_of_many_clones_has_its_own_instance_and_hostname(ready: Box) -> None:
    made = [seed for seed in create(ready, count=3, ssh_keys=(KEY,)) if seed is not None]
    assert [seed.hostname for seed in made] == ["web-1", "web-2", "web-3"]
    assert len({seed.instance for seed in made}) == len(files(ready)) == 3
    made = [seed for seed in create(ready, "db", count=2, hostname="node.example.com") if seed is not None]
    assert [seed.hostname for seed in made] == ["node-1.example.com", "node-2.example.com"]
    assert create(ready, "bare") == [None]


def test_a_clone_of_the_longest_name_or_an_odd_one_has_a_hostname(ready: Box) -> None:
    for name in ("a" * 63, "a_b", "x.-y"):
        (seed,) = create(ready, name, ssh_keys=(KEY,))
        assert seed is not None
    with pytest.raises(InvalidInput, match="not a hostname"):
        create(ready, "long", count=100, hostname="h" * 63)
    assert ready.service.core.catalog.find_clone("long-1") is None


def test_a_seed_is_set_changed_and_taken_away_later(ready: Box) -> None:
    create(ready)
    with pytest.raises(NotFound, match="no seed"):
        ready.service.show_seed("web")
    first = put(ready, hostname="one")
    assert ready.exported() == on_file(ready) == {"web", "web:seed"}
    assert put(ready, hostname="one") == first == ready.service.show_seed("web")
    node = set(ready.units.daemons["local"].exports)
    second = put(ready, hostname="two", user_data=USER_DATA)
    assert second.instance != first.instance
    assert set(files(ready)) == {second.instance}
    assert set(ready.units.daemons["local"].exports) != node, "QEMU would go on with the old file"
    assert ready.service.seeds.remove("web", force=False)
    assert not ready.service.seeds.remove("web", force=False)
    assert (ready.exported(), on_file(ready), files(ready)) == ({"web"}, {"web"}, {})
    third = put(ready, hostname="one")
    assert third.instance not in (first.instance, second.instance)
    states = [event.state for event in ready.service.events.join(lambda: None).take() if event.kind == "clone"]
    assert states == ["ready", "seeded", "seeded", "unseeded", "seeded"]


def test_a_seed_that_is_read_is_let_alone_unless_forced(ready: Box) -> None:
    create(ready, hostname="one")
    (node,) = (node for node, name in ready.units.daemons["local"].exports.items() if name == "web:seed")
    ready.units.daemons["local"].connected.add(node)
    for act in (lambda: put(ready, hostname="two"), lambda: ready.service.seeds.remove("web", force=False)):
        with pytest.raises(InUse, match="the seed of clone web is in use: client local is connected"):
            act()
        assert ready.exported() == on_file(ready) == {"web", "web:seed"}
        assert ready.service.show_seed("web").hostname == "one"
        assert len(files(ready)) == 1
    assert put(ready, hostname="two", force=True).hostname == "two"
    assert ready.exported() == {"web", "web:seed"}
    # The disk's own user decides about the clone.
    (node,) = (node for node, name in ready.units.daemons["local"].exports.items() if name == "web:seed")
    ready.units.daemons["local"].connected.add(node)
    assert ready.service.clones.remove("web", force=False)
    assert ready.exported() == on_file(ready) == set()


@pytest.mark.parametrize("given", [{"hostname": "a_b"}, {"user_data": "secret"}, {"ssh_keys": ("secret",)}])
def test_what_no_guest_would_take_makes_no_clone_and_no_seed(ready: Box, given: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        create(ready, **given)
    assert ready.service.list_clones().clones == ()
    create(ready)
    with pytest.raises(InvalidInput):
        put(ready, **given)
    assert ready.service.show_clone("web").seed is None


def test_a_seed_goes_where_its_clone_goes_and_with_it(ready: Box) -> None:
    (seed,) = create(ready, user_data=USER_DATA)
    assert seed is not None
    ready.service.moves.move(["web"], "lab", force=False)
    assert (ready.exported(), ready.exported("lab")) == (set(), {"web", "web:seed"})
    assert (files(ready), set(files(ready, "lab"))) == ({}, {seed.instance})
    ready.service.life.reset("web", force=False)
    assert ready.exported("lab") == on_file(ready, "lab") == {"web", "web:seed"}
    ready.units.kill("lab")
    ready.units.start("lab")
    assert ready.exported("lab") == {"web", "web:seed"}
    ready.service.clones.detach("web", force=False)
    assert (ready.exported("lab"), files(ready, "lab")) == (set(), {})
    ready.service.clones.attach("web", "local")
    assert set(files(ready)) == {seed.instance}
    for path in ready.paths.seeds("local").iterdir():
        path.unlink()
    ready.reboot()
    assert ready.exported() == {"web", "web:seed"}
    assert files(ready)[seed.instance]["user-data"] == USER_DATA
    ready.service.clones.remove("web", force=False)
    assert (ready.exported(), files(ready)) == (set(), {})
    assert ready.service.core.catalog.seed(1) is None
    ready.service.clients.remove("lab")
    assert not ready.paths.seeds("lab").exists()


def test_clients_are_counted_by_their_clones(ready: Box) -> None:
    create(ready, hostname="one")
    local = next(client for client in ready.service.list_clients().clients if client.name == "local")
    assert (local.state, local.detail) == ("ok", "serving 1 clone(s)")
    assert ready.service.status().problems == ()


@pytest.mark.parametrize("limit", range(5))
def test_clones_that_could_not_be_made_leave_no_seed(ready: Box, limit: int) -> None:
    ready.pool.step = counting(limit, NoSpace("the pool is full"))
    with contextlib.suppress(NoSpace):
        create(ready, count=2, user_data=USER_DATA)
        ready.service.clones.remove("web-1", force=False)
        ready.service.clones.remove("web-2", force=False)
    assert files(ready) == {}
    assert ready.exported() == on_file(ready) == set()
    assert ready.service.core.catalog._rows("SELECT * FROM seeds") == []


@pytest.mark.parametrize("error", [Unhealthy("this step failed"), Crash()])
def test_a_change_that_ends_at_any_step_is_whole_after_the_next_start(
    ready: Box, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    create(ready, hostname="one")
    for limit in range(MOST):
        left = limit

        def step() -> None:
            nonlocal left
            left -= 1
            if left == -1 or (left < 0 and isinstance(error, Crash)):
                raise error

        with monkeypatch.context() as patches:
            at_each_step(ready, patches, step)
            with contextlib.suppress(HatcheryError, Crash):
                put(ready, hostname="two", user_data=USER_DATA)
        ready.restart()
        view = ready.service.show_seed("web")
        assert view.hostname in ("one", "two")
        assert set(files(ready)) == {view.instance}
        assert ready.exported() == on_file(ready) == {"web", "web:seed"}
        assert ready.service.status().problems == ()
        if left >= 0:
            assert (limit > 10, view.hostname) == (True, "two")
            return
        put(ready, hostname="one")
    raise AssertionError("a change has no end")
