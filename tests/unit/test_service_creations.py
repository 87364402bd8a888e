"""Many clones are made by an operation: all or none, also when it is cancelled."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import client
from appliance.errors import InvalidInput, NotFound
from appliance.schema import CloneCreate
from tests.unit.service_harness import Box, box
from tests.unit.test_cli import Appliance, appliance, image

__all__ = ["appliance", "image"]


@pytest.fixture
def ready(tmp_path: Path) -> Iterator[Box]:
    with box(tmp_path) as made:
        assert made.add_template("debian").state == "succeeded"
        yield made


def test_it_says_how_far_it_is_in_clones(ready: Box) -> None:
    told: list[tuple[str, int]] = []
    ready.pool.step = lambda _: told.extend(
        (each.phase, each.done_count) for each in ready.service.operations.list() if each.kind == "create"
    )
    job = ready.service.creations.begin(CloneCreate(name="web", template="debian", count=20))
    assert job.finished.wait(20)
    done = job.operation
    assert (done.state, done.subject, done.phase) == ("succeeded", "web-1 to web-20", "20 clone(s) made")
    assert (done.counts, done.done_count, done.total_count, done.cancellable) == ("clones", 20, 20, False)
    assert [count for _, count in told] == sorted(count for _, count in told)
    assert {words for words, count in told if count == 5} == {"making them, all or none"}
    assert len(ready.exported()) == 20


@pytest.mark.parametrize("client", ["local", None])
def test_one_that_is_cancelled_leaves_nothing(ready: Box, client: str | None) -> None:
    ready.service.clones.create("old", "debian", None, client)
    before = set(ready.pool.volumes), ready.exported()
    left = [12]

    def step(_: str) -> None:
        left[0] -= 1
        if not left[0]:
            [job] = [each for each in ready.service.operations.list() if each.kind == "create"]
            assert 0 < job.done_count < 20
            ready.service.operations.job(job.id).cancel()

    ready.pool.step = step
    job = ready.service.creations.begin(CloneCreate(name="web", template="debian", count=20, client=client))
    assert job.finished.wait(20)
    assert job.operation.state == "cancelled"
    assert [clone.name for clone in ready.service.core.catalog.clones()] == ["old"]
    assert (set(ready.pool.volumes), ready.exported()) == before
    assert ready.service.core.catalog.garbage() == ()
    again = ready.service.creations.begin(CloneCreate(name="web", template="debian", count=20, client=client))
    assert again.finished.wait(20)
    assert again.operation.state == "succeeded"


def test_one_that_is_cancelled_while_it_exports_leaves_nothing(ready: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = ready.units.daemons["local"]
    answer = daemon._answer

    def answered(command: str, given: dict[str, Any]) -> list[dict[str, Any]]:
        if len(daemon.exports) == 7:
            [job] = [each for each in ready.service.operations.list() if each.kind == "create"]
            assert job.state != "running" or job.done_count >= 10
            ready.service.operations.job(job.id).cancel()
        return answer(command, given)

    monkeypatch.setattr(daemon, "_answer", answered)
    job = ready.service.creations.begin(CloneCreate(name="web", template="debian", count=20))
    assert job.finished.wait(20)
    assert job.operation.state == "cancelled"
    assert (ready.service.core.catalog.clones(), ready.exported()) == ((), set())


def test_what_cannot_be_is_said(ready: Box) -> None:
    with pytest.raises(InvalidInput):
        ready.service.creations.begin(CloneCreate(name="Web_", template="debian", count=20))
    job = ready.service.creations.begin(CloneCreate(name="web", template="none", count=20))
    assert job.finished.wait(20)
    assert job.operation.error is not None
    assert job.operation.error.code == NotFound.code


def test_the_client_makes_many_and_who_is_interrupted_has_none(
    appliance: Appliance, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appliance.json("template", "add", "debian", str(image))
    with client.connect(socket=appliance.socket) as api:
        few = api.make_clones(CloneCreate(name="few", template="debian", count=2))
        many = api.make_clones(CloneCreate(name="many", template="debian", count=11))
        assert [view.name for view in few] == ["few-1", "few-2"]
        assert [view.name for view in many] == [f"many-{number}" for number in range(1, 12)]
        assert [view.name for view in api.make_clones(CloneCreate(name="one", template="debian"))] == ["one"]
        kinds = [each.kind for each in api.operations()]
        assert kinds.count("create") == 1, "few are made within the request"
        begun, go_on = threading.Event(), threading.Event()

        def step(_: str) -> None:
            begun.set()
            assert go_on.wait(10)

        def interrupted(*_: object, **__: object) -> None:
            assert begun.wait(10)
            raise KeyboardInterrupt

        appliance.box.pool.step = step
        monkeypatch.setattr(api, "finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.make_clones(CloneCreate(name="more", template="debian", count=11))
        go_on.set()
        [job, _] = [each for each in api.operations() if each.kind == "create"]
        assert appliance.box.service.operations.job(job.id).finished.wait(10)
        assert api.operation(job.id).state == "cancelled"
        assert len(api.clones()) == 14
