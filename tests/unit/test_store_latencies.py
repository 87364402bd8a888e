"""Coarse latencies from block statistics: what is counted where, and when a look is too soon to tell."""

from pathlib import Path

import pytest

from appliance.errors import CannotTell
from appliance.host import block
from appliance.host.block import Times
from appliance.model import Histogram
from appliance.store.latencies import PATIENT_LOOKS, Latencies, Latency

STAT = Path(__file__).resolve().parents[1] / "data/block/6.12-stat.txt"


def test_times_are_read_from_the_statistics() -> None:
    assert block.parse_times(STAT.read_text()) == Times(reads=275, read_millis=750, writes=8579, write_millis=325680)
    with pytest.raises(CannotTell):
        block.parse_times("1 2 3")


def test_requests_are_counted_as_the_mean_of_their_look() -> None:
    latency = Latency()
    latency.look(1000, 9000)
    assert latency.histogram.total == 0, "what was before is not counted"
    latency.look(1010, 9100)  # 10 ms each: 8,192 to 16,383 us
    latency.look(1110, 9110)  # 100 us each: 64 to 127 us
    counts = latency.histogram.counts
    assert {slot: count for slot, count in enumerate(counts) if count} == {13: 10, 6: 100}
    assert latency.histogram.seconds == 0.11


def test_what_took_too_little_to_tell_is_counted_with_what_follows() -> None:
    latency = Latency()
    latency.look(0, 0)
    latency.look(5, 0)
    latency.look(10, 1)
    assert latency.histogram.total == 0
    latency.look(100, 9)  # 90 us each
    assert latency.histogram.counts[6] == 100


def test_it_does_not_wait_for_ever() -> None:
    latency = Latency()
    latency.look(0, 0)
    for _ in range(PATIENT_LOOKS):
        assert latency.histogram.total == 0
        latency.look(5, 0)
    assert latency.histogram.counts == (0, 0, 0, 0, 0, 0, 5)  # 0.5 ms in all


def test_a_disk_at_rest_does_not_count_as_waiting() -> None:
    latency = Latency()
    for _ in range(3 * PATIENT_LOOKS):
        latency.look(100, 50)
    latency.look(101, 51)
    assert latency.histogram.total == 0


@pytest.mark.parametrize("other", [(3, 30), (500, 5)])
def test_another_disk_of_the_same_name_begins_anew(other: tuple[int, int]) -> None:
    latency = Latency()
    latency.look(0, 0)
    latency.look(10, 100)
    latency.look(*other)
    latency.look(other[0] + 1, other[1] + 10)
    assert latency.histogram.counts[13] == 11
    assert latency.histogram.total == 11


def test_reads_and_writes_have_means_of_their_own() -> None:
    disks = Latencies()
    disks.take("sda", Times(0, 0, 0, 0))
    disks.take("sda", Times(100, 10, 5, 100))
    found = disks.histograms()["sda"]
    assert (found.counts[6], found.counts[14]) == (100, 5)


def test_a_bound_holds_that_share() -> None:
    found = Histogram((0, 0, 90, 0, 0, 9, 1))
    assert (found.bound(0.5), found.bound(0.9), found.bound(0.99), found.bound(1)) == (8, 8, 64, 128)
    assert Histogram().bound(0.5) is None
