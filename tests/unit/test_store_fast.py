"""The fast pool's header, layout and plans."""

from dataclasses import replace

import pytest

from appliance.errors import NotReady, Refused, Unhealthy
from appliance.host.thin import PoolMode
from appliance.model import GIB, KIB, MIB
from appliance.store import fast, fast_header, names
from appliance.store.fast import Area, Fast
from appliance.store.fast_header import HEADER_BYTES, Header
from appliance.store.mirror import Making

BLOCK = 64 * KIB
HEADER = Header("pool-1", "guid-a", 0, 1, 4 * MIB, BLOCK)
AREA = Area("/dev/nvme0n1p3", "guid-a", 256 * MIB, HEADER)
BLANK = replace(AREA, header=None)
SECOND = Area("/dev/nvme1n1p3", "guid-b", 100 * MIB + 10 * KIB, replace(HEADER, guid="guid-b", index=1, count=2))
FIRST = replace(AREA, header=replace(HEADER, count=2))


def verbs(steps: object) -> list[str]:
    assert isinstance(steps, tuple)
    return [type(step).__name__ for step in steps]


def test_a_header_is_read_back() -> None:
    data = fast_header.render(HEADER)
    assert len(data) == HEADER_BYTES
    assert fast_header.parse(data + b"the metadata area") == HEADER
    assert fast_header.parse(bytes(HEADER_BYTES)) is None


@pytest.mark.parametrize(
    "data",
    [
        b"XFSB".ljust(HEADER_BYTES, b"\0"),
        fast_header.render(HEADER).replace(b"guid-a", b"guid-b"),
        fast_header.render(HEADER).replace(b"HATCHERY-FAST 1", b"HATCHERY-FAST 2"),
        bytes(100) + b"x" * (HEADER_BYTES - 100),
    ],
)
def test_anything_else_is_not_taken_for_a_blank_partition(data: bytes) -> None:
    with pytest.raises(Unhealthy):
        fast_header.parse(data)


def test_a_partition_is_judged_by_its_first_bytes() -> None:
    bare = replace(BLANK, guid="guid-a")
    assert fast.judged(bare, bytes(HEADER_BYTES)) == bare
    assert fast.judged(bare, fast_header.render(HEADER)) == AREA
    assert fast.judged(replace(bare, guid="guid-z"), fast_header.render(HEADER)).foreign, "a copy of another drive's"
    assert fast.judged(bare, b"XFSB".ljust(HEADER_BYTES, b"\0")).foreign


@pytest.mark.parametrize(("size", "metadata"), [(64 * MIB, 4 * MIB), (10 * GIB, 10 * MIB), (100 << 40, 16 * GIB)])
def test_metadata_has_64_bytes_for_each_of_the_smallest_blocks(size: int, metadata: int) -> None:
    assert fast.metadata_bytes(size) == metadata


def test_two_drives_follow_one_another() -> None:
    whole = fast.ours([SECOND, FIRST])
    assert whole == (FIRST, SECOND)
    meta, data = fast.metadata_table(whole), fast.data_table(whole)
    assert [(t.start, t.length, t.params) for t in meta] == [
        (0, 8192, "/dev/nvme0n1p3 2048"),
        (8192, 8192, "/dev/nvme1n1p3 2048"),
    ]
    first, second = data
    assert (first.start, first.length, first.params) == (0, 251 * 2048, "/dev/nvme0n1p3 10240")
    # Whole blocks of each drive: none lies on two.
    assert (second.start, second.length, second.params) == (251 * 2048, 95 * 2048, "/dev/nvme1n1p3 10240")


@pytest.mark.parametrize(
    "found",
    [
        [FIRST],
        [SECOND],
        [FIRST, replace(SECOND, header=None)],
        [FIRST, replace(SECOND, header=replace(HEADER, identity="pool-2", index=1, count=2))],
        [],
    ],
)
def test_a_part_of_a_pool_is_not_a_pool(found: list[Area]) -> None:
    with pytest.raises(NotReady):
        fast.ours(found)


def test_a_pool_is_made_on_blank_partitions_by_setup_alone() -> None:
    found = Fast(1, (BLANK,))
    assert verbs(fast.plan(found, Making.ALLOWED, BLOCK)) == ["CreateFast", "ActivateMetadata", "ActivateFast"]
    assert fast.plan(found, Making.FORBIDDEN, BLOCK) == ()
    # Headers that were written, but the pool never ran: cut off, it begins again.
    fresh = replace(AREA, header=replace(HEADER, fresh=True))
    assert verbs(fast.plan(Fast(1, (fresh,)), Making.ALLOWED, BLOCK))[0] == "CreateFast"
    # One of two drives is away: wait for it.
    assert fast.plan(Fast(2, (BLANK,)), Making.ALLOWED, BLOCK) == ()
    # It runs, but whoever started it was cut off before the header said so.
    for making in Making:
        running = Fast(1, (fresh,), PoolMode.READ_WRITE, devices=True)
        assert fast.plan(running, making, BLOCK) == (fast.GrowFast(()),)


def test_a_drive_that_is_added_is_taken_in_by_setup_alone() -> None:
    added = replace(SECOND, header=None)
    running = Fast(2, (AREA, added), PoolMode.READ_WRITE, devices=True)
    assert fast.plan(running, Making.ALLOWED, BLOCK) == (fast.GrowFast((added,)),)
    assert fast.plan(running, Making.FORBIDDEN, BLOCK) == ()
    stopped = Fast(2, (AREA, added), clean="pool-1")
    assert verbs(fast.plan(stopped, Making.ALLOWED, BLOCK)) == ["ActivateMetadata", "ActivateFast", "GrowFast"]
    assert verbs(fast.plan(stopped, Making.FORBIDDEN, BLOCK)) == ["ActivateMetadata", "ActivateFast"]
    (header,) = fast.further([AREA], [added])
    assert header == replace(HEADER, guid="guid-b", index=1, count=2)
    # Cut off after the new header, it is a pool of two whatever the old header says.
    assert fast.ours([AREA, replace(added, header=header)])[1].guid == "guid-b"


def test_a_pool_that_is_there_is_started_and_checked_unless_it_was_left_clean() -> None:
    for making in Making:
        dirty = fast.plan(Fast(1, (AREA,)), making, BLOCK)
        assert verbs(dirty) == ["ActivateMetadata", "CheckFast", "ActivateFast"]
        other = fast.plan(Fast(1, (AREA,), clean="pool-0"), making, BLOCK)
        assert verbs(other) == verbs(dirty), "the mark is another pool's"
        clean = fast.plan(Fast(1, (AREA,), clean="pool-1"), making, BLOCK)
        assert verbs(clean) == ["ActivateMetadata", "ActivateFast"]


def test_a_running_pool_is_left_alone_and_a_failed_one_started_anew() -> None:
    for mode in (PoolMode.READ_WRITE, PoolMode.OUT_OF_DATA_SPACE):
        assert fast.plan(Fast(1, (AREA,), mode, devices=True), Making.ALLOWED, BLOCK) == ()
    for mode in (PoolMode.FAILED, PoolMode.READ_ONLY):
        steps = fast.plan(Fast(1, (AREA,), mode, devices=True), Making.FORBIDDEN, BLOCK)
        assert verbs(steps) == ["StopFast", "ActivateMetadata", "CheckFast", "ActivateFast"]


def test_no_drive_or_hardly_any_space_is_no_pool_and_no_error() -> None:
    for making in Making:
        assert fast.plan(Fast(1, ()), making, BLOCK) == ()
        assert fast.plan(Fast(1, (replace(BLANK, size=16 * MIB),)), making, BLOCK) == ()


def test_foreign_content_and_half_a_pool_are_refused_with_the_way_out() -> None:
    for making in Making:
        with pytest.raises(Refused, match="recreate-fast"):
            fast.plan(Fast(1, (replace(BLANK, foreign="it holds photos"),)), making, BLOCK)
        with pytest.raises(NotReady, match="recreate-fast"):
            fast.plan(Fast(2, (FIRST,)), making, BLOCK)


def test_the_operators_word_gives_up_what_is_there() -> None:
    for area in (AREA, BLANK, replace(BLANK, foreign="damaged")):
        steps = fast.plan_anew(Fast(1, (area,), PoolMode.FAILED, devices=True), BLOCK)
        assert verbs(steps) == ["StopFast", "CreateFast", "ActivateMetadata", "ActivateFast"]
    with pytest.raises(NotReady):
        fast.plan_anew(Fast(1, ()), BLOCK)


def test_a_new_pool_has_an_identity_of_its_own_and_knows_its_partitions() -> None:
    made = fast.headers([replace(FIRST, header=None), replace(SECOND, header=None)], BLOCK, "pool-9")
    assert [(h.identity, h.guid, h.index, h.count, h.fresh) for h in made] == [
        ("pool-9", "guid-a", 0, 2, True),
        ("pool-9", "guid-b", 1, 2, True),
    ]


def test_names_of_the_fast_pool() -> None:
    assert (fast.POOL, fast.META, fast.DATA) == (
        "hatchery-pool-fast",
        "hatchery-pool-fast-meta",
        "hatchery-pool-fast-data",
    )
    assert names.parse_layer("hatchery-ephemeral-3") == (names.Layer.EPHEMERAL, 3)
    order = list(names.Layer)
    assert order.index(names.Layer.EPHEMERAL) < order.index(names.Layer.TEMPLATE), "it holds its template open"
