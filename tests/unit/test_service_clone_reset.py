"""A reset gives a clone its template's content again; a crash in any verb ends before it or after it."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.errors import InUse, NoSpace
from appliance.model import MIB
from appliance.service.templates import Removing
from tests.unit.model import Crash
from tests.unit.service_harness import IMAGE, Box, counting
from tests.unit.written_clone import MINE, clone, content, create, device, whole, written


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with written(tmp_path) as made:
        yield made


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
