"""Measurements of boots are kept with their template, shown on the page and in the metrics, and go with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from appliance import schema
from appliance.client import connect
from appliance.errors import NotFound
from appliance.measure import told
from appliance.measure.facts import Facts
from appliance.measure.result import BootResult, Phase
from appliance.measure.session import Measurement
from appliance.service import measured
from appliance.web import metrics
from tests.unit.service_harness import Box
from tests.unit.service_harness import box as make_box
from tests.unit.test_cli import Appliance, appliance, image
from tests.unit.web_server import values

__all__ = ["appliance", "image"]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with make_box(tmp_path) as made:
        made.add_template("debian")
        yield made


def times(phase: schema.MeasuredPhase, seconds: float) -> schema.BootTimes:
    return schema.BootTimes(
        phase=phase, boots=3, seconds_least=seconds - 1, seconds_median=seconds, seconds_most=seconds + 1,
        io_seconds=seconds / 2, read_bytes=1e8, backend_bytes=1e6, hit_ratio=0.99,
    )  # fmt: skip


def test_the_last_ones_of_each_template_are_kept_newest_first(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "KEPT", 2)
    box.add_template("other")
    for seconds in (50.0, 40.0, 30.0):
        box.service.measurements.add("debian", schema.Measured(on="hv1", phases=(times("cold", seconds),)))
    box.service.measurements.add("other@1", schema.Measured(phases=(times("warm", 7.0),)))
    found = box.service.measurements.list().measurements
    assert [(view.template, view.phases[0].seconds_median) for view in found] == [
        ("other@1", 7.0), ("debian@1", 30.0), ("debian@1", 40.0),
    ]  # fmt: skip
    again = box.restart().measurements.list().measurements
    assert again == found, "a restart forgets nothing"
    box.service.templates.remove("other")
    assert {view.template for view in box.service.measurements.list().measurements} == {"debian@1"}
    with pytest.raises(NotFound):
        box.service.measurements.add("other", schema.Measured(phases=(times("warm", 7.0),)))


def test_a_file_that_cannot_be_read_costs_the_past_alone(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    box.paths.measurements.write_text('{"1": "broken"}')
    assert box.service.measurements.list().measurements == ()
    assert "cannot be read" in caplog.text
    box.service.measurements.add("debian", schema.Measured(phases=(times("cold", 50.0),)))
    assert len(box.service.measurements.list().measurements) == 1


def test_the_metrics_have_the_last_one(box: Box) -> None:
    for seconds in (50.0, 40.0):
        phases = (times("cold", seconds), times("prefetched", 9.0))
        box.service.measurements.add("debian", schema.Measured(on="hv1", phases=phases))
    views = box.service.measurements.list().measurements
    found = values(metrics.text(metrics.Answers(box.service.status(), None, (), (), measurements=views)).decode())
    label = ("template", "debian@1")
    assert found["hatchery_boot_seconds", (("phase", "cold"), label)] == 40
    assert found["hatchery_boot_seconds", (("phase", "prefetched"), label)] == 9
    assert found["hatchery_boot_hit_ratio", (("phase", "cold"), label)] == 0.99
    assert found["hatchery_boot_measured_timestamp_seconds", (label,)] == views[0].taken


def test_what_is_given_back_is_counted(box: Box) -> None:
    box.service.create_clones(schema.CloneCreate(name="web", template="debian", count=2))
    box.service.clones.remove("web-1", force=False)
    found = values(metrics.text(metrics.Answers(box.service.status(), None, (), ())).decode())
    assert found["hatchery_gc_volumes_total", ()] == 1
    assert found["hatchery_gc_volume_bytes_total", ()] > 0
    assert found["hatchery_gc_waiting_volumes", ()] == 0
    box.service.life.renew("web-2", 0.0)
    assert box.service.collect().finished.wait(10)
    assert box.service.status().given_back.leases == 1
    assert box.service.status().given_back.volumes == 2


def result(*boots: BootResult) -> Measurement:
    return Measurement("debian", Facts("now", "a host", "QEMU 10, KVM", "an appliance"), boots, (), ())


def boot_of(phase: Phase, *, seconds: float) -> BootResult:
    return BootResult(
        run=1, clone="a", phase=phase, seconds=seconds, cpu_seconds=1, requests=9, read_bytes=100, written_bytes=0,
        backend_requests=1, backend_bytes=10, cache_read_bytes=90, cache_added_bytes=0, bypassed_bytes=0, hits=None,
        misses=None,
    )  # fmt: skip


def test_the_tool_tells_the_appliance_what_it_measured(appliance: Appliance, image: Path) -> None:
    appliance.json("template", "add", "debian", str(image))
    boots = (boot_of(Phase.COLD, seconds=50.0), boot_of(Phase.COLD, seconds=60.0), boot_of(Phase.WARM, seconds=8.0))
    said: list[str] = []
    with connect(socket=appliance.socket) as client:
        told.tell(client, result(*boots), said.append)
        told.tell(client, result(), said.append)
        [view] = client.measurements()
        assert [(each.phase, each.boots, each.seconds_median) for each in view.phases] == [
            ("cold", 2, 55.0), ("warm", 1, 8.0),
        ]  # fmt: skip
        assert view.on == "a host; QEMU 10, KVM"
        assert said == []
        client.remove_template("debian")
        told.tell(client, result(*boots), said.append)
    assert "does not remember" in said[0]


def test_a_measurement_without_a_boot_is_none() -> None:
    with pytest.raises(ValidationError):
        schema.Measured(phases=())
