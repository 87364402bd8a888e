"""Reset, resize, renew, promote; ephemeral clones; template versions that come and go."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.catalog import Clone, NewTemplate
from appliance.errors import AlreadyExists, InUse, InvalidInput, NoSpace, NotFound, NotReady, Refused, Unhealthy
from appliance.model import MIB, CloneKind, CloneState, ImageFormat, Limits, PoolName
from appliance.schema import CloneCreate
from appliance.service.templates import Removing
from tests.unit.model import Crash, ModelPool
from tests.unit.service_harness import IMAGE, Box, box, counting

MINE = b"mine" + IMAGE[4:]
OTHER = b"newer" * 1024 + bytes(2 * MIB)


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    """A template, a durable clone ``web`` that was written to, and a fast pool."""
    with box(tmp_path) as made:
        (tmp_path / "fast").mkdir()
        made.pools[PoolName.FAST] = ModelPool(tmp_path / "fast", name="drive-1")
        made.restart()
        assert made.add_template("debian").state == "succeeded"
        create(made, "web")
        device(made, "web").write_bytes(MINE)
        yield made


def create(box: Box, name: str, template: str = "debian", **more: object) -> Clone:
    """Make clones; the first of them."""
    wanted = CloneCreate.model_validate({"name": name, "template": template, **more})
    return clone(box, box.service.create_clones(wanted).clones[0].name)


def clone(box: Box, name: str) -> Clone:
    return box.service.core.catalog.clone(name)


def device(box: Box, name: str) -> Path:
    """The active device of a clone."""
    found = clone(box, name)
    return box.pools[found.pool].path(found.thin_id)


def content(box: Box, name: str) -> bytes:
    found = clone(box, name)
    return box.pools[found.pool].bytes_of(found.thin_id)


def whole(box: Box) -> None:
    """Catalog, pools and devices agree, and nothing is left over."""
    assert box.service.plan().steps == ()
    assert box.service.plan().problems == ()
    assert box.service.core.catalog.garbage() == ()
    known = box.service.core.catalog.thin_ids()
    assert known == {thin_id for pool in box.pools.values() for thin_id in pool.volumes}


# --- reset


def test_a_reset_gives_the_template_s_content_under_a_new_id(ready: Box) -> None:
    before = clone(ready, "web")
    transaction = ready.pool.transaction
    after = ready.service.life.reset("web", force=False)
    assert after.thin_id > before.thin_id
    assert (after.name, after.client, after.template_ref) == ("web", "local", "debian@1")
    assert device(ready, "web").read_bytes() == IMAGE
    assert ready.exported() == {"web"}
    assert before.thin_id not in ready.pool.volumes
    # One transaction for the new volume, one for the old one's end.
    assert ready.pool.transaction == transaction + 2
    whole(ready)


def test_a_reset_of_a_grown_clone_has_the_template_s_size(ready: Box) -> None:
    ready.service.life.resize("web", len(IMAGE) + MIB)
    assert ready.service.life.reset("web", force=False).size == len(IMAGE)
    assert device(ready, "web").read_bytes() == IMAGE


def test_a_reset_is_refused_while_somebody_is_connected(ready: Box) -> None:
    ready.units.daemons["local"].connected.add(f"clone-{clone(ready, 'web').thin_id}")
    with pytest.raises(InUse, match="client local is connected"):
        ready.service.life.reset("web", force=False)
    assert device(ready, "web").read_bytes() == MINE
    assert ready.exported() == {"web"}
    ready.service.life.reset("web", force=True)
    assert device(ready, "web").read_bytes() == IMAGE
    whole(ready)


def test_a_detached_clone_is_reset_and_stays_detached(ready: Box) -> None:
    ready.service.clones.detach("web", force=False)
    assert ready.service.life.reset("web", force=False).client is None
    assert content(ready, "web") == IMAGE
    whole(ready)


@pytest.mark.parametrize("limit", range(10))
def test_a_failure_at_any_step_of_a_reset_keeps_what_was_written(ready: Box, limit: int) -> None:
    ready.pool.step = counting(limit, NoSpace("the pool is full"))
    failed = False
    try:
        ready.service.life.reset("web", force=False)
    except NoSpace:
        failed = True
    ready.pool.step = lambda _: None
    ready.restart()
    assert content(ready, "web") in (MINE, IMAGE)
    assert failed or content(ready, "web") == IMAGE
    assert ready.exported() == {"web"}
    whole(ready)


# --- crashes


def reset(box: Box) -> None:
    box.service.life.reset("web", force=False)


def resize(box: Box) -> None:
    box.service.life.resize("web", len(IMAGE) + MIB)


def promote(box: Box) -> None:
    box.service.life.promote("web", None)


def remove_all(box: Box) -> None:
    box.service.templates.remove("debian@1", Removing.WHEN_UNUSED)
    box.service.clones.remove("web", force=False)


def make_ephemeral(box: Box) -> None:
    create(box, "fast", kind="ephemeral", count=2)


@pytest.mark.parametrize("limit", range(12))
@pytest.mark.parametrize("verb", [reset, resize, promote, remove_all, make_ephemeral])
def test_a_crash_at_any_step_ends_before_or_after(ready: Box, verb: Callable[[Box], None], limit: int) -> None:
    crashed: list[str] = []
    inner = counting(limit, Crash())

    def die(name: str) -> None:
        # Once dead, nothing is done any more.
        if crashed:
            raise Crash
        try:
            inner(name)
        except Crash:
            crashed.append(name)
            raise

    for pool in ready.pools.values():
        pool.step = die
    with contextlib.suppress(Crash):
        verb(ready)
    ready.restart()
    names = {each.name for each in ready.service.core.catalog.clones()}
    refs = {each.ref for each in ready.service.core.catalog.templates()}
    assert names in ({"web"}, set(), {"web", "fast-1", "fast-2"})
    if "web" in names:
        assert content(ready, "web")[: len(IMAGE)] in (MINE, IMAGE)
        assert len(content(ready, "web")) == clone(ready, "web").size
        assert ready.exported() == names
    assert refs in ({"debian@1"}, {"debian@1", "debian@2"}, set())
    if "debian@2" in refs:
        (made,) = ready.service.core.catalog.versions("debian")[:1]
        assert ready.pool.bytes_of(made.thin_id) == MINE
    assert ready.service.status().problems == ()
    whole(ready)


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


# --- limits

HALF, FREE = Limits(iops=500), {"iops-total": 0, "bps-total": 0}


def held(box: Box, name: str) -> dict[str, int]:
    """What the daemon holds a clone to."""
    return box.units.daemons["local"].limits[f"clone-{clone(box, name).thin_id}"]


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
    assert ready.units.daemons["local"].limits.keys() == ready.units.daemons["local"].exports.keys()


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


# --- promote


def test_a_clone_becomes_the_next_version_and_stays_itself(ready: Box) -> None:
    job = ready.service.life.promote("web", None)
    assert (job.operation.state, job.operation.subject) == ("succeeded", "debian@2")
    assert ready.exported() == {"web"}
    assert device(ready, "web").read_bytes() == MINE
    view = ready.service.show_template("debian")
    assert (view.ref, view.source, view.size) == ("debian@2", "clone web", len(IMAGE))
    device(ready, "web").write_bytes(IMAGE)
    create(ready, "child")
    assert clone(ready, "child").template_ref == "debian@2"
    assert device(ready, "child").read_bytes() == MINE
    assert clone(ready, "web").template_ref == "debian@1"
    whole(ready)


def test_a_clone_becomes_a_template_of_another_name(ready: Box) -> None:
    assert ready.service.life.promote("web", "golden").operation.subject == "golden@1"
    with pytest.raises(InvalidInput):
        ready.service.life.promote("web", "Not A Name")
    with pytest.raises(NotFound):
        ready.service.life.promote("nobody", None)
    whole(ready)


def test_a_connected_clone_is_not_promoted(ready: Box) -> None:
    ready.units.daemons["local"].connected.add(f"clone-{clone(ready, 'web').thin_id}")
    with pytest.raises(InUse):
        ready.service.life.promote("web", None)
    assert ready.exported() == {"web"}
    assert [each.ref for each in ready.service.list_templates().templates] == ["debian@1"]


def test_a_clone_is_not_promoted_while_a_version_is_imported(ready: Box) -> None:
    ready.service.core.catalog.add_template(NewTemplate("debian", ImageFormat.RAW, "upload", 1.0))
    with pytest.raises(AlreadyExists):
        ready.service.life.promote("web", None)
    assert ready.exported() == {"web"}


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


# --- versions


def test_a_bare_name_is_the_newest_and_old_versions_go_when_unused(ready: Box) -> None:
    assert ready.add_template("debian", OTHER).state == "succeeded"
    create(ready, "new")
    assert device(ready, "new").read_bytes() == OTHER
    with pytest.raises(Refused, match=r"debian@1, debian@2"):
        ready.service.templates.remove("debian")
    with pytest.raises(InUse, match="web"):
        ready.service.templates.remove("debian@1")
    later = ready.service.templates.remove("debian@1", Removing.WHEN_UNUSED)
    assert (later.removed, later.retired) == (False, True)
    assert ready.service.show_template("debian@1").retired
    with pytest.raises(NotReady, match="goes when its last clone"):
        create(ready, "late", template="debian@1")
    ready.service.life.reset("web", force=False)
    assert ready.service.clones.remove("web", force=False)
    assert [each.ref for each in ready.service.list_templates().templates] == ["debian@2"]
    assert ready.service.templates.remove("debian@2", Removing.WHEN_UNUSED).retired
    ready.service.clones.remove("new", force=False)
    assert ready.pool.volumes == {}
    assert ready.add_template("debian").subject == "debian@3"
    whole(ready)


def test_ephemeral_clones_protect_their_template(ready: Box) -> None:
    create(ready, "quick", kind="ephemeral")
    ready.service.clones.remove("web", force=False)
    with pytest.raises(InUse, match="quick"):
        ready.service.templates.remove("debian@1")


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
