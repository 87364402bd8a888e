"""Clones that become template versions, and versions that come and go."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.catalog import NewTemplate
from appliance.errors import AlreadyExists, InUse, InvalidInput, NotFound, NotReady, Refused
from appliance.model import ImageFormat
from appliance.service.templates import Removing
from tests.unit.service_harness import IMAGE, Box
from tests.unit.written_clone import MINE, OTHER, clone, create, device, whole, written


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with written(tmp_path) as made:
        yield made


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
