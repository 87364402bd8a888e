"""Boot storms: all at once, counted together, and nothing left."""

import json
import threading
from dataclasses import replace

import pytest

from appliance.errors import CannotTell, Unhealthy
from appliance.measure import guest, storm
from appliance.measure.crowd import Login
from appliance.measure.histogram import Latency
from appliance.measure.prepare import Begin
from appliance.measure.serial import MachineFault
from appliance.measure.storm import Plan, StormResult, remarks, storm_result
from appliance.run import Runner
from tests.unit.measured_appliance import FACTS, MIB, READ, Appliance, appliance, device

__all__ = ["appliance"]  # the fixture


@pytest.fixture(autouse=True)
def host(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storm, "facts", lambda *_: FACTS)
    monkeypatch.setattr(storm, "emulator", lambda _: "QEMU")
    monkeypatch.setattr(storm, "drop_host_caches", lambda _: appliance.said.append("drop"))
    monkeypatch.setattr("os.geteuid", lambda: 0)


def stormed(of: Appliance, plan: Plan) -> StormResult:
    return storm.run(of.api, plan, host=None, runner=Runner(), tell=lambda _: None)


LOGINS = tuple(Login(f"storm-{place}", seconds, 40.0) for place, seconds in enumerate((61.2, 70.1, 74.4, 80.35), 1))
PREFETCHED = StormResult(
    template="debian-13@1",
    begin=Begin.PREFETCHED,
    clones=4,
    logins=LOGINS,
    requests=5528,
    read_bytes=371_000_000,
    backend_requests=31,
    backend_bytes=1_003_520,
    cache_added_bytes=22_000_000,
    hits=10_150,
    misses=12,
    facts=FACTS,
)


def test_all_boot_at_once_and_are_gone_afterwards(appliance: Appliance) -> None:
    appliance.crowd = threading.Barrier(5)  # fewer than five at a time would wait for ever
    found = stormed(appliance, Plan("debian-13", clones=5, begin=Begin.COLD))
    assert appliance.said[0] == "cold"
    assert sorted(login.clone for login in found.logins) == [f"storm-{number}" for number in range(1, 6)]
    assert [login.seconds for login in found.logins] == sorted(login.seconds for login in found.logins)
    assert found.first >= 10.0, "a boot takes so long, and it began after the storm did"
    assert found.cpu_seconds == 45.0
    assert (found.requests, found.read_bytes, found.backend_bytes) == (5000, 5 * READ, READ)
    assert found.hit_rate_requests == 1.0
    assert (found.notes, found.facts) == ((), FACTS)
    assert [(each.phase.value, each.total) for each in found.latencies] == [("cold", 5)], "recorded around all boots"
    assert appliance.recorder == ""
    assert (appliance.clones, appliance.running) == ({}, set())
    assert found.boot_set is None


def test_the_cache_is_prefetched_after_it_was_emptied_and_what_that_read_is_not_the_storms(
    appliance: Appliance,
) -> None:
    appliance.has_boot_set = True
    found = stormed(appliance, Plan("debian-13", clones=2, begin=Begin.PREFETCHED))
    assert found.boot_set == appliance.boot_set("debian-13@1")
    assert appliance.said[:3] == ["cold", "drop", "warm"], "what is fetched may be in this host's memory"
    assert found.backend_bytes == 0
    assert found.prefetch is not None
    assert found.prefetch.seconds == 2
    stormed(appliance, Plan("debian-13", clones=2, name="again"))
    assert appliance.said[5:] == ["boot again-1", "boot again-2"], "as it is, nothing is done to the cache"


def test_a_storm_after_a_prefetch_that_found_its_data_in_the_cache_is_none(appliance: Appliance) -> None:
    appliance.given = READ // 2
    with pytest.raises(CannotTell, match="not into an empty cache"):
        stormed(appliance, Plan("debian-13", clones=2, begin=Begin.PREFETCHED))
    assert appliance.said == ["cold", "drop", "warm"], "nothing boots"
    assert appliance.clones == {}


def test_a_guest_that_the_emulator_crashed_is_left_out_and_that_is_said(appliance: Appliance) -> None:
    appliance.faults.append(MachineFault("the machine said it", fault=guest.EMULATOR_FAULTS[0]))
    found = stormed(appliance, Plan("debian-13", clones=3))
    assert (found.clones, len(found.logins)) == (3, 2)
    assert any("1 of 3 guests did not log in" in note for note in found.notes)
    appliance.faults += [MachineFault("the machine said it", fault=guest.EMULATOR_FAULTS[0]) for _ in range(2)]
    with pytest.raises(MachineFault):
        stormed(appliance, Plan("debian-13", clones=2))
    assert appliance.clones == {}


def test_one_that_fails_ends_all_the_others(appliance: Appliance) -> None:
    appliance.hanging = frozenset({"storm-1", "storm-3"})
    appliance.faults.append(MachineFault("the machine said it", fault="Kernel panic"))
    with pytest.raises(MachineFault) as caught:
        stormed(appliance, Plan("debian-13", clones=3))
    assert caught.value.fault == "Kernel panic"
    assert appliance.left == [], "none went on by itself"
    assert (appliance.clones, appliance.running) == ({}, set())


def test_a_storm_that_did_not_begin_cold_is_none(appliance: Appliance) -> None:
    before = appliance.counters().model_copy(update={"clones": {"a": device("dm"), "b": device("dm")}})
    clones = {"a": device("dm", 9, READ), "b": device("dm", 9, READ)}
    booted = {"clones": clones, "cached": device("bcache0", 18, 2 * READ)}
    enough = before.model_copy(update={**booted, "backend": device("md127", 9, READ * 3 // 4)})
    assert storm_result("t@1", Begin.COLD, ["a", "b"], LOGINS, before, enough).backend_bytes == READ * 3 // 4
    with pytest.raises(Unhealthy, match="did not begin cold"):
        storm_result("t@1", Begin.COLD, ["a", "b"], LOGINS, before, enough, known=READ)
    less = before.model_copy(update={**booted, "backend": device("md127", 9, READ * 3 // 4 - 4096)})
    with pytest.raises(Unhealthy, match="did not begin cold"):
        storm_result("t@1", Begin.COLD, ["a", "b"], LOGINS, before, less)
    assert storm_result("t@1", Begin.AS_IT_IS, ["a", "b"], LOGINS, before, less).clones == 2
    with pytest.raises(CannotTell, match="no counters of clone c"):
        storm_result("t@1", Begin.AS_IT_IS, ["a", "c"], LOGINS, before, enough)


def test_the_figures_in_words_and_for_programs() -> None:
    text = replace(PREFETCHED, notes=("a note",)).text()
    assert "4 fresh clones of debian-13@1 booted at once, cache prefetched\n" in text
    assert "logged in after: first 61.2 s, median 72.2 s, last 80.3 s\n" in text
    assert "processor time of QEMU: 160.0 s in all, 40.0 s each\n" in text
    assert "from the backend: 1.0 MiB in 31 reads\n" in text
    assert "hits: 99.73% of the bytes, 99.88% of the requests\n" in text
    assert text.endswith("Note: a note.\n")
    disk, clone = Latency(Begin.COLD, "backend disk sda", (0, 7)), Latency(Begin.COLD, "clone storm-1", (1,))
    told = replace(PREFETCHED, latencies=(disk, clone)).text()
    assert "backend disk sda: 7 requests\n     usecs" in told
    assert "clone storm-1" not in told, "clones are on the page"
    assert "of the bytes, - of the requests" in replace(PREFETCHED, hits=None).text()
    found = json.loads(json.dumps(PREFETCHED.as_json()))
    assert (found["first"], found["median"], found["last"]) == (61.2, 72.25, 80.35)
    assert found["begin"] == "prefetched"
    assert (found["kind"], found["format"], found["clones"], found["histograms"]) == ("storm", 1, 4, [])
    assert found["logins"][0] == {"clone": "storm-1", "seconds": 61.2, "cpu_seconds": 40.0}
    assert found["hit_rate_bytes"] == pytest.approx(0.9973, abs=5e-5)


def test_a_prefetch_that_was_not_enough_is_told_of() -> None:
    assert remarks(PREFETCHED) == []
    short = replace(PREFETCHED, backend_bytes=4 * MIB)
    assert any("1.1% of the bytes still came from the backend" in each for each in remarks(short))
    assert remarks(replace(short, begin=Begin.AS_IT_IS)) == []
