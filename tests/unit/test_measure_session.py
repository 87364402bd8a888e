"""What a measurement does, in which order, and what it leaves."""

import re
import subprocess
from itertools import groupby

import pytest

from appliance.errors import CannotTell, InUse, Unhealthy
from appliance.measure import guest, prepare, recorded, session
from appliance.measure.reach import Access
from appliance.measure.result import Phase
from appliance.measure.serial import MachineFault
from appliance.measure.session import Measurement, Plan, Session, order
from appliance.run import Runner
from tests.unit.measured_appliance import FACTS, READ, Appliance, appliance

__all__ = ["appliance"]  # the fixture


@pytest.fixture(autouse=True)
def host(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "facts", lambda *_: FACTS)
    monkeypatch.setattr(session, "emulator", lambda _: "QEMU")
    monkeypatch.setattr(session, "drop_host_caches", lambda _: appliance.said.append("drop"))
    monkeypatch.setattr(prepare, "LEARN_DEADLINE", 0.0)


def measured(of: Appliance, plan: Plan) -> Measurement:
    return Session(of.api, plan, host=None, runner=Runner(), tell=lambda _: None).run()


def test_warm_boots_stand_in_the_middle_and_the_others_change_places() -> None:
    cold, prefetched, warm = Phase.COLD, Phase.PREFETCHED, Phase.WARM
    assert order(1, prefetched=True) == (cold, warm, prefetched)
    assert order(2, prefetched=True) == (prefetched, warm, cold)
    assert order(3, prefetched=True) == order(1, prefetched=True)
    assert {order(number, prefetched=False) for number in (1, 2)} == {(cold, warm)}


def test_runs_take_turns_once_the_first_cold_boot_has_taught_the_boot_set(appliance: Appliance) -> None:
    found = measured(appliance, Plan("debian-13", runs=2, clones=2, name="m"))
    assert appliance.said == [
        "cold", "drop", "boot m-1-1", "learn m-1-1", "boot m-1-2", "learn m-1-2",
        "cold", "drop", "warm", "boot m-1-prefetched", "learn m-1-prefetched",
        "cold", "drop", "warm", "boot m-2-prefetched", "boot m-2-2", "cold", "drop", "boot m-2-1",
    ]  # fmt: skip
    assert [boot.phase.value for boot in found.boots] == ["cold", "warm", "prefetched", "prefetched", "warm", "cold"]
    assert [boot.backend_bytes for boot in found.boots] == [READ, 0, 0, 0, 0, READ], "a prefetch is not of the boot"
    assert [each.seconds for each in found.prefetches] == [2, 2]
    assert found.boot_set is not None
    assert found.boots[0].io_seconds == 3.0
    assert appliance.clones == {}, "all were removed"


def test_the_first_run_begins_cold_where_there_is_no_boot_set_and_as_its_turn_is_where_there_is(
    appliance: Appliance,
) -> None:
    appliance.has_boot_set, appliance.missing = True, 0
    found = measured(appliance, Plan("debian-13", runs=4, clones=1))
    assert [phase.value for phase, _ in groupby(boot.phase for boot in found.boots)] == [
        "cold", "prefetched", "cold", "prefetched", "cold",
    ]  # fmt: skip


def test_without_a_boot_set_the_phase_is_left_out_and_that_is_said(appliance: Appliance) -> None:
    appliance.learns = False
    found = measured(appliance, Plan("debian-13", runs=2, clones=2))
    assert [boot.phase.value for boot in found.boots] == ["cold", "warm"] * 2
    assert "warm" not in appliance.said
    assert any("left out: debian-13@1 has no boot set" in note for note in found.notes)
    assert found.boot_set is None


def test_the_phase_can_be_declined(appliance: Appliance) -> None:
    found = measured(appliance, Plan("debian-13", runs=1, clones=2, prefetched=False, name="m"))
    assert [boot.clone for boot in found.boots] == ["m-1", "m-2"]
    assert not any("left out" in note for note in found.notes)


def test_a_prefetch_that_did_not_end_well_is_no_beginning(appliance: Appliance) -> None:
    appliance.prefetch_state = "incomplete"
    with pytest.raises(Unhealthy, match="is not in the cache"):
        measured(appliance, Plan("debian-13"))
    assert appliance.clones == {}


def test_a_prefetch_that_found_its_data_in_the_cache_is_no_beginning(appliance: Appliance) -> None:
    appliance.has_boot_set = True
    appliance.given = READ // 2
    with pytest.raises(CannotTell, match="the prefetch of template debian-13@1 was not into an empty cache") as caught:
        measured(appliance, Plan("debian-13", runs=1, name="m"))
    assert f"only {READ // 2} bytes came from the backend, where at least {READ * 3 // 4} of {READ}" in caught.value.why
    assert "measure again" in caught.value.hint
    assert "boot m-prefetched" not in appliance.said
    assert appliance.clones == {}


def test_an_older_appliance_does_not_say_what_a_prefetch_had_to_fetch(appliance: Appliance) -> None:
    appliance.held, appliance.given = None, 0
    assert len(measured(appliance, Plan("debian-13", runs=1)).prefetches) == 1


def test_a_boot_that_was_not_cold_ends_the_measurement(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> str:
        appliance.cached = True
        return "cold"

    monkeypatch.setattr(appliance, "cold", nothing)
    with pytest.raises(Unhealthy, match="did not begin cold"):
        measured(appliance, Plan("debian-13"))
    assert appliance.clones == {}


def test_after_the_emulators_fault_the_phase_begins_anew_with_a_fresh_clone(appliance: Appliance) -> None:
    appliance.faults.append(MachineFault("the machine said it", fault=guest.EMULATOR_FAULTS[0]))
    found = measured(appliance, Plan("debian-13", runs=1, clones=1, name="m", prefetched=False))
    assert appliance.said[:5] == ["cold", "drop", "cold", "drop", "boot m-spare-1"]
    assert any("was repeated" in note for note in found.notes)
    appliance.faults.append(MachineFault("the machine said it", fault="Kernel panic"))
    with pytest.raises(MachineFault):
        measured(appliance, Plan("debian-13"))
    assert appliance.clones == {}


def test_clones_that_are_kept_are_attached_again(appliance: Appliance) -> None:
    measured(appliance, Plan("debian-13", runs=1, clones=2, name="m", access=Access("web"), keep_clones=True))
    assert appliance.clones == {"m-1": "web", "m-2": "web", "m-prefetched": "web"}


def test_histograms_that_a_killed_measurement_left_are_no_obstacle(appliance: Appliance) -> None:
    with subprocess.Popen(["true"]) as killed:
        pass
    appliance.recorder = re.sub(r"^process \d+", f"process {killed.pid}", recorded.owner())
    assert recorded.gone(appliance.recorder)
    assert len(measured(appliance, Plan("debian-13", runs=1, clones=1)).boots) == 2
    assert appliance.recorder == ""


@pytest.mark.parametrize("change", [("", ""), (r"boot .*", "boot another"), (r".*", "somebody")])
def test_histograms_of_others_are_left_alone(appliance: Appliance, change: tuple[str, str]) -> None:
    running = appliance.recorder = re.sub(*change, recorded.owner(), count=1)
    with pytest.raises(InUse):
        measured(appliance, Plan("debian-13", runs=1))
    assert appliance.recorder == running
    assert appliance.clones == {}
