"""What a start makes of a catalog and a pool that disagree."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.catalog import NewClone
from appliance.errors import Unhealthy
from appliance.model import Access, Health, ImageFormat, TemplateRef
from appliance.schema import CloneCreate, Reconciliation, TemplateCreate, UploadSource
from tests.unit.model import Volume
from tests.unit.service_harness import IMAGE, Box, box


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        made.service.create_clones(CloneCreate(name="web", template="debian"))
        yield made


def problems(box: Box) -> list[str]:
    return [problem.what for problem in box.service.status().problems]


def test_a_start_after_a_clean_end_changes_nothing(ready: Box) -> None:
    volumes, transaction = dict(ready.pool.volumes), ready.pool.transaction
    ready.reboot()
    assert problems(ready) == []
    assert set(ready.pool.volumes) == set(volumes)
    assert ready.pool.transaction == transaction
    assert ready.pool.active == {1: Access.READ_ONLY, 2: Access.READ_WRITE}


def test_a_volume_that_nobody_knows_is_reported_and_left_alone(ready: Box) -> None:
    ready.pool.volumes[40] = Volume(None, b"somebody's")
    ready.reboot()
    assert problems(ready) == ["volume 40 in the durable pool is unknown to the catalog"]
    assert ready.pool.volumes[40].data == b"somebody's"
    # Its id is never given to another.
    ready.service.create_clones(CloneCreate(name="db", template="debian"))
    assert ready.service.core.catalog.clone("db").thin_id == 41


def test_a_volume_that_is_missing_is_a_failure_of_its_owner_alone(ready: Box) -> None:
    ready.service.create_clones(CloneCreate(name="db", template="debian"))
    ready.units.stop_all()
    ready.pool.deactivate(2)
    del ready.pool.volumes[2]
    ready.reboot()
    assert "the volume of clone web is missing in the durable pool" in problems(ready)
    assert ready.service.status().health is Health.FAILED
    assert "db" in ready.exported()


def test_an_old_catalog_is_noticed(ready: Box) -> None:
    ready.pool.transaction += 5
    ready.reboot()
    assert any("the durable pool is at transaction" in problem for problem in problems(ready))
    # It is reported once and then agreed upon.
    ready.reboot()
    assert problems(ready) == []


def test_one_ahead_is_only_explained_by_an_open_intent(ready: Box) -> None:
    ready.service.core.catalog.add_clones(TemplateRef("debian"), [NewClone("db", None, 1.0)])
    ready.pool.transaction += 1
    ready.reboot()
    assert problems(ready) == []
    assert ready.service.core.catalog.find_clone("db") is None
    ready.pool.transaction += 1
    ready.reboot()
    assert len(problems(ready)) == 1


def test_equal_transaction_ids_do_not_hide_a_half_made_volume(ready: Box) -> None:
    (clone,) = ready.service.core.catalog.add_clones(TemplateRef("debian"), [NewClone("db", None, 1.0)])
    ready.pool.create_snapshot(clone.thin_id, 1)
    ready.reboot()
    assert problems(ready) == []
    assert clone.thin_id not in ready.pool.volumes
    assert ready.service.core.catalog.find_clone("db") is None


def test_what_cannot_be_settled_now_does_not_stop_the_start(ready: Box) -> None:
    catalog = ready.service.core.catalog
    catalog.remove_clones([catalog.clone("web")], "was removed", 1.0)
    ready.pool.held.add(2)
    ready.restart()
    assert any("clone web was removed" in problem for problem in problems(ready))
    ready.pool.held.clear()
    ready.restart()
    assert problems(ready) == []
    assert set(ready.pool.volumes) == {1}


def test_a_pool_that_moved_on_by_itself_is_not_written(ready: Box) -> None:
    ready.pool.transaction += 1
    with pytest.raises(Unhealthy):
        ready.service.create_clones(CloneCreate(name="db", template="debian"))
    assert ready.service.core.catalog.find_clone("db") is None
    assert ready.service.core.catalog.garbage() != (), "its intent stays open for the next start"
    ready.reboot()
    assert ready.service.core.catalog.garbage() == ()
    assert set(ready.pool.volumes) == {1, 2}


def test_a_plan_can_be_seen_and_carried_out_while_the_service_runs(ready: Box) -> None:
    service = ready.service
    assert service.plan().steps == ()
    assert service.plan().problems == ()
    ready.pool.deactivate(2)
    ready.pool.volumes[40] = Volume(None)
    for found in (service.plan(), service.plan(), service.reconcile()):
        assert [f"{step.action} {step.target}" for step in found.steps] == [
            "activate volume 2 of clone web in the durable pool"
        ]
        assert [problem.what for problem in found.problems] == [
            "volume 40 in the durable pool is unknown to the catalog"
        ]
    assert service.plan().steps == ()
    assert ready.pool.active[2] is Access.READ_WRITE


def test_a_reconciliation_lets_a_running_import_alone(ready: Box) -> None:
    request = TemplateCreate(name="fedora", format=ImageFormat.RAW, source=UploadSource(), size=len(IMAGE))
    job = ready.service.imports.begin(request)
    source, _ = ready.service.imports.upload("fedora")
    source.put(IMAGE[: len(IMAGE) // 2])
    assert ready.service.reconcile() == Reconciliation(steps=(), problems=())
    source.put(IMAGE[len(IMAGE) // 2 :])
    source.end()
    assert job.finished.wait(10)
    assert job.operation.state == "succeeded"


def test_conversions_of_a_former_process_are_ended_first(ready: Box) -> None:
    before = ready.converter.stopped
    ready.restart()
    assert ready.converter.stopped == before + 1
