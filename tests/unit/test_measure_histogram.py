"""Latency histograms."""

from appliance.measure.histogram import Latency, added, ascii_form, bounds, latencies
from appliance.measure.result import Phase
from appliance.schema import CloneHistogram, DiskHistogram, Histograms, HistogramView


def test_the_ascii_form_is_that_of_the_bpf_tools() -> None:
    assert ascii_form((0, 5, 40, 0, 20, 0, 0)) == (
        "     usecs               : count     distribution\n"
        "         0 -> 1          : 0        |                                        |\n"
        "         2 -> 3          : 5        |*****                                   |\n"
        "         4 -> 7          : 40       |****************************************|\n"
        "         8 -> 15         : 0        |                                        |\n"
        "        16 -> 31         : 20       |********************                    |"
    )


def test_no_requests_are_told_in_words() -> None:
    assert ascii_form((0, 0)) == "no requests"
    assert ascii_form(()) == "no requests"


def test_buckets_are_powers_of_two() -> None:
    assert [bounds(index) for index in (0, 1, 2, 10)] == [(0, 1), (2, 3), (4, 7), (1024, 2047)]


def test_histograms_of_different_length_add_up() -> None:
    assert added([(1, 2), (10, 0, 5)]) == (11, 2, 5)


def test_percentiles_are_upper_bounds_of_buckets() -> None:
    latency = Latency(Phase.COLD, "disk", (0, 0, 50, 0, 49, 1))
    assert latency.total == 100
    assert latency.percentile(0.5) == 7
    assert latency.percentile(0.99) == 31
    assert latency.percentile(1) == 63
    assert Latency(Phase.COLD, "disk", ()).percentile(0.5) is None


def view(*counts: int) -> HistogramView:
    return HistogramView(counts=counts)


def test_recordings_are_joined_by_phase_and_device_and_empty_ones_left_out() -> None:
    def recorded(clone: str) -> Histograms:
        return Histograms(
            seconds=1,
            disks=(
                DiskHistogram(role="backend", disk="sda", histogram=view(0, 1)),
                DiskHistogram(role="cache", disk="nvme0n1", histogram=view(2)),
                DiskHistogram(role="backend", disk="sdb", histogram=view()),
            ),
            clones=(
                CloneHistogram(clone=clone, histogram=view(0, 0, 7)),
                CloneHistogram(clone="idle", histogram=view(0)),
            ),
        )

    found = latencies([(Phase.COLD, recorded("a")), (Phase.WARM, recorded("b")), (Phase.WARM, recorded("b"))])
    assert [(item.phase.value, item.device, item.counts) for item in found] == [
        ("cold", "cache drive nvme0n1", (2,)),
        ("cold", "backend disk sda", (0, 1)),
        ("cold", "clone a", (0, 0, 7)),
        ("warm", "cache drive nvme0n1", (4,)),
        ("warm", "backend disk sda", (0, 2)),
        ("warm", "clone b", (0, 0, 14)),
    ]
