"""Plans for the NVMe drives: their partitions."""

from dataclasses import replace

import pytest

from appliance.config import NvmeConfig
from appliance.errors import NoSpace, Refused
from appliance.host.partitions import Partition, Table
from appliance.model import GIB, MIB
from appliance.store import names, nvme
from tests.unit.plans import EXT4, ID, NONE, disk, verbs


def ours() -> Table:
    found = (
        Partition(names.PART_META, MIB, 256 * MIB, "1"),
        Partition(names.PART_CACHE, 257 * MIB, GIB, "2"),
        Partition(names.PART_FAST, 257 * MIB + GIB, GIB, "3"),
    )
    return Table("t", MIB, 10 * GIB - MIB, found)


KNOWN = frozenset({names.PART_META, names.PART_CACHE, names.PART_FAST})
NVME = NvmeConfig((ID + "nvme",))


def test_a_fresh_drive_gets_a_new_table() -> None:
    (step,) = nvme.plan(NVME, NONE, disk("nvme"), NONE)
    assert isinstance(step, nvme.CreatePartitions)
    assert step.place is nvme.Place.NEW_TABLE
    assert [part.name for part in step.partitions] == [names.PART_META, names.PART_CACHE, names.PART_FAST]
    assert step.partitions[0].size == 256 * MIB
    for first, second in zip(step.partitions, step.partitions[1:], strict=False):
        assert first.end == second.start
    assert all(part.start % MIB == 0 and part.size % MIB == 0 for part in step.partitions)
    assert step.partitions[-1].end <= 10 * GIB - MIB


def test_a_drive_that_is_ours_needs_nothing() -> None:
    assert nvme.plan(NVME, NONE, disk("nvme", table=ours(), users=("part of md126",)), KNOWN) == ()
    assert verbs(nvme.plan(NVME, NONE, disk("nvme", table=ours()), NONE)) == ["TellKernel"]


def test_a_different_size_is_refused() -> None:
    with pytest.raises(Refused, match="hatchery-meta"):
        nvme.plan(replace(NVME, meta_bytes=GIB), NONE, disk("nvme", table=ours()), KNOWN)


def test_the_system_drives_free_space_is_used_and_nothing_else() -> None:
    system = Table("t", MIB, 10 * GIB - MIB, (Partition("esp", MIB, 511 * MIB), Partition("root", 512 * MIB, 2 * GIB)))
    found = disk("nvme", table=system, system=True, users=("mounted at /",), signatures=EXT4)
    (step,) = nvme.plan(NVME, frozenset({"S-nvme"}), found, NONE)
    assert isinstance(step, nvme.CreatePartitions)
    assert step.place is nvme.Place.FREE_SPACE
    assert step.partitions[0].start >= 512 * MIB + 2 * GIB


def test_a_foreign_table_is_refused_even_with_free_space() -> None:
    foreign = Table("t", MIB, 10 * GIB, (Partition("windows", MIB, GIB),))
    with pytest.raises(Refused, match="not empty"):
        nvme.plan(NVME, NONE, disk("nvme", table=foreign), NONE)
    assert verbs(nvme.plan(NVME, frozenset({"S-nvme"}), disk("nvme", table=foreign), NONE)) == [
        "WipeDisk",
        "CreatePartitions",
    ]


def test_some_of_our_partitions_are_refused() -> None:
    table = replace(ours(), partitions=ours().partitions[:1])
    with pytest.raises(Refused, match="not all"):
        nvme.plan(NVME, NONE, disk("nvme", table=table), KNOWN)


def test_a_drive_that_is_too_small() -> None:
    with pytest.raises(NoSpace, match="too little"):
        nvme.plan(NVME, NONE, disk("nvme", size=512 * MIB), NONE)


def test_one_drive_or_two() -> None:
    nvme.require_count(NvmeConfig((ID + "a", ID + "b")))
    with pytest.raises(Refused, match="3 NVMe"):
        nvme.require_count(NvmeConfig((ID + "a", ID + "b", ID + "c")))


def test_a_further_drive_gets_legs_that_fit() -> None:
    fit = nvme.Fit(drive=10 * GIB, meta=300 * MIB, cache=8 * GIB)
    meta, cache, fast = nvme.layout(NVME, 20 * GIB, MIB, 10 * GIB - 2 * MIB, fit)
    assert meta.size == 300 * MIB
    assert cache.size >= 8 * GIB
    assert fast.size < 10 * GIB // 4, "the fast pool gives way to the cache"
    assert fast.end <= 10 * GIB - MIB
    with pytest.raises(NoSpace, match="more are needed"):
        nvme.layout(NVME, 20 * GIB, MIB, 7 * GIB, fit)
    with pytest.raises(NoSpace):
        nvme.layout(replace(NVME, fast_bytes=4 * GIB), 20 * GIB, MIB, 10 * GIB, fit)
