"""Replays: what they ask of the appliance, what they leave, and what is said of them. libnbd is not needed here."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from appliance.bootset.trace import Read
from appliance.errors import CannotTell, InUse, Unhealthy
from appliance.measure import replaying
from appliance.measure.prepare import Begin
from appliance.measure.replay import Replay
from appliance.measure.replaying import Plan, ReplayResult
from appliance.run import Runner
from tests.unit.measured_appliance import FACTS, MIB, READ, Appliance, appliance

__all__ = ["appliance"]  # the fixture

TRACE = (Read(0, READ // 2, 0), Read(READ // 2, READ // 2, 700), Read(0, MIB, 900))
"""Reads a part of the disk twice."""


@pytest.fixture(autouse=True)
def host(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(uris: Sequence[str], reads: Sequence[Read], told: Callable[[int], None]) -> Replay:
        """The later ones take longer."""
        assert appliance.recorder, "latencies are recorded"
        for uri in uris:
            appliance.boot(uri.rpartition("/")[2])
        read = sum(each.length for each in reads)
        told(read * len(uris))
        return Replay(tuple(5.0 - at for at in range(len(uris))), read * len(uris), len(reads) * len(uris))

    monkeypatch.setattr(replaying, "replay", play)
    monkeypatch.setattr(replaying, "facts", lambda *_: FACTS)
    monkeypatch.setattr(replaying, "drop_page_cache", lambda: appliance.said.append("drop"))
    monkeypatch.setattr("os.geteuid", lambda: 0)


def replayed(of: Appliance, plan: Plan, reads: Sequence[Read] = TRACE) -> ReplayResult:
    return replaying.run(of.api, plan, reads, host=None, runner=Runner(), tell=lambda _: None)


def test_a_cold_replay_is_checked(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replayed(appliance, Plan("debian-13", clones=2, begin=Begin.COLD))
    assert appliance.said[:2] == ["cold", "drop"]
    assert (found.backend_bytes, found.read_bytes) == (READ, 2 * (READ + MIB))
    monkeypatch.setattr(appliance, "cold", lambda: "cold")  # it does nothing
    with pytest.raises(Unhealthy, match="the replay did not begin cold"):
        replayed(appliance, Plan("debian-13", begin=Begin.COLD))
    assert replayed(appliance, Plan("debian-13", begin=Begin.AS_IT_IS)).backend_bytes == 0
    assert (appliance.clones, appliance.recorder) == ({}, "")


def test_a_prefetched_replay_says_what_the_prefetch_took_and_teaches_nothing(appliance: Appliance) -> None:
    assert replayed(appliance, Plan("debian-13", name="before")).boot_set is None
    appliance.has_boot_set = True
    appliance.said.clear()
    appliance.made.clear()
    found = replayed(appliance, Plan("debian-13", clones=3, begin=Begin.PREFETCHED, trace="other.trace"))
    assert found.boot_set == appliance.boot_set("debian-13@1")
    assert appliance.said[:3] == ["cold", "drop", "warm"]
    assert found.backend_bytes == 0
    assert found.prefetch is not None
    assert [wanted.learn for wanted in appliance.made] == [False]
    assert found.times == (("replay-3", 3.0), ("replay-2", 4.0), ("replay-1", 5.0))
    assert [(each.phase.value, each.total) for each in found.latencies] == [("prefetched", 5)]
    text = found.text()
    assert text.startswith("other.trace replayed by 3 clones of debian-13@1 at once, cache prefetched: 9 requests,")
    assert "done after: first 3.00 s, median 4.00 s, last 5.00 s\n" in text


def test_a_replay_after_a_prefetch_that_found_its_data_in_the_cache_is_none(appliance: Appliance) -> None:
    appliance.given = READ // 2
    with pytest.raises(CannotTell, match="not into an empty cache"):
        replayed(appliance, Plan("debian-13", begin=Begin.PREFETCHED))
    assert appliance.said == ["cold", "drop", "warm"], "nothing is replayed"
    assert appliance.clones == {}


def test_the_same_reads_are_the_same_trace(appliance: Appliance) -> None:
    first, again = (replayed(appliance, Plan("debian-13", name=name)) for name in ("a", "b"))
    other = replayed(appliance, Plan("debian-13"), TRACE[:2])
    untimed = replayed(appliance, Plan("debian-13", name="c"), [replace(read, micros=None) for read in TRACE])
    assert first.trace_sha256 == again.trace_sha256 == untimed.trace_sha256 != other.trace_sha256
    found = json.loads(json.dumps(first.as_json()))
    assert (found["kind"], found["clones"], found["seconds"], found["first"]) == ("replay", 1, [5.0], 5.0)
    assert found["histograms"][0]["device"] == "clone a-1"
    assert found["facts"]["taken"] == FACTS.taken


def test_while_others_record_nothing_is_replayed(appliance: Appliance) -> None:
    appliance.recorder = "somebody"
    with pytest.raises(InUse):
        replayed(appliance, Plan("debian-13"))
    assert (appliance.clones, appliance.recorder) == ({}, "somebody")
