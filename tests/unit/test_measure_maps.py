"""Latencies as heat maps, and a boot set's places on its disk."""

import re

import pytest

from appliance.measure.histogram import Latency
from appliance.measure.maps import CELLS, ROWS, disk_map, heat_maps
from appliance.measure.result import Phase
from tests.unit.test_measure_report import BOOT_SET, MIB

COLD, PREFETCHED, WARM = Phase.COLD, Phase.PREFETCHED, Phase.WARM
# The first ones as a demo recorded them: 128 us to half a second.
NVME = (0, 0, 0, 0, 0, 0, 1, 127, 802, 751, 607, 551, 364, 207, 80, 76, 30, 5, 2)
SDA = (0, 0, 0, 0, 0, 0, 17, 112, 432, 489, 298, 260, 198, 110, 71, 67, 39, 66, 0, 1)
RECORDED = (
    Latency(COLD, "cache drive nvme0n1", NVME),
    Latency(COLD, "backend disk sda", SDA),
    Latency(COLD, "clone m-1", (0, 0, 4)),
    Latency(PREFETCHED, "cache drive nvme0n1", NVME),
    Latency(PREFETCHED, "clone m-prefetched", (0, 0, 5)),
    Latency(WARM, "cache drive nvme0n1", NVME),
    Latency(WARM, "clone m-2", (0, 0, 0, 6)),
)


def words(svg: str) -> list[str]:
    return [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if text]


def test_disks_have_their_phases_side_by_side_and_clones_stand_by_phase() -> None:
    disks, clones = heat_maps(RECORDED)
    assert [(each.device, each.phase.value) for each in disks.latencies] == [
        ("cache drive nvme0n1", "cold"),
        ("cache drive nvme0n1", "prefetched"),
        ("cache drive nvme0n1", "warm"),
        ("backend disk sda", "cold"),
    ]
    assert words(disks.svg)[:4] == ["cold", "prefetched", "warm", "cold"]
    assert {"nvme0n1", "sda", "64µs", "524ms"} <= set(words(disks.svg))
    assert "32µs" not in words(disks.svg), "nothing was so fast"
    assert words(clones.svg)[:3] == ["m-1", "m-prefetched", "m-2"]
    assert [each.device for each in clones.latencies] == ["clone m-1", "clone m-prefetched", "clone m-2"]


def test_a_cell_is_the_darker_the_more_requests_it_has() -> None:
    found = heat_maps([Latency(COLD, "clone a", (1, 1000)), Latency(COLD, "clone b", (30,))])[0]
    fills = [fill for fill in re.findall(r'style="fill: (#[0-9a-f]{6})"', found.svg) if fill != "#ffffff"]
    yellow, dark, between = fills[:3]
    assert (yellow, dark) == ("#fde725", "#440154")
    assert between not in (yellow, dark)


def test_many_clones_lose_their_names_and_not_their_columns() -> None:
    found = heat_maps([Latency(WARM, f"clone m-{number}", (0, 1)) for number in range(60)])[0]
    assert not any(word.startswith("m-") for word in words(found.svg))
    assert len(found.latencies) == 60


def test_nothing_recorded_is_no_map() -> None:
    assert heat_maps(()) == ()
    assert [each.title for each in heat_maps(RECORDED[:1])] == ["Disks"]


def test_a_disks_map_has_all_its_cells_and_marks_what_belongs_to_the_boot_set() -> None:
    # 60 MiB from the 40th, 90 MiB from the 1024th, 30 MiB from the first.
    picture = disk_map(BOOT_SET.model_copy(update={"size": CELLS * ROWS * MIB}))
    assert picture.count("<rect") == CELLS * ROWS
    assert picture.count("fill-opacity") == 180
    assert "from 40.0 MiB: 100% of 1.0 MiB" in picture
    assert "from 30.0 MiB" not in picture
    assert disk_map(BOOT_SET).count("<rect") == CELLS * ROWS, "also of a disk that cells do not divide"


def test_a_cell_that_holds_little_is_seen() -> None:
    little = BOOT_SET.model_copy(update={"places": ((0, 4096),), "size": CELLS * ROWS * MIB})
    [opacity] = re.findall(r'fill-opacity="([^"]*)"', disk_map(little))
    assert float(opacity) == pytest.approx(0.25)
    full = BOOT_SET.model_copy(update={"places": ((0, MIB),), "size": CELLS * ROWS * MIB})
    assert 'fill-opacity="1.00"' in disk_map(full)
