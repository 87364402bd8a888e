"""Boot sets: traces, extents, how boots are merged, files, pictures."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bootset import boot_set as boot_sets
from appliance.bootset import file, picture
from appliance.bootset.boot_set import BootSet, merge
from appliance.bootset.extents import PAGE, Covered, overlap, pages_in_order, pages_read
from appliance.bootset.file import BootSetFile
from appliance.bootset.trace import Read, format_trace, parse_trace
from appliance.errors import InvalidInput
from appliance.model import Extent

TRACE = Path(__file__).parents[2] / "bench/traces/debian-13-uefi.trace"
SIZE = 1_153_482_752

ranges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 20)).map(lambda found: (found[0], sum(found))), max_size=20
)
boots = st.lists(
    st.lists(st.builds(Read, st.integers(0, 64 * PAGE), st.integers(1, 8 * PAGE)), min_size=1, max_size=30),
    min_size=1,
    max_size=5,
)


def pages_of(found: BootSet) -> set[int]:
    return {page for each in found.extents for page in range(each.offset // PAGE, each.end // PAGE)}


# --- traces


def test_a_recorded_boot_is_read() -> None:
    reads = parse_trace(TRACE.read_text())
    assert reads[0] == Read(0, 512)
    assert len(reads) == 2062
    assert sum(read.length for read in reads) == 154_893_824


@given(st.lists(st.builds(Read, st.integers(0), st.integers(1), st.none() | st.integers(0)), min_size=1))
def test_a_trace_is_the_same_after_writing_and_reading(reads: list[Read]) -> None:
    assert parse_trace(format_trace(reads, "one\ntwo")) == tuple(reads)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("0 512\n4096\n", "line 2"),
        ("0 512 1 1\n", "line 1"),
        ("-1 512\n", "line 1"),
        ("0 x\n", "line 1"),
        ("0 0\n", "reads nothing"),
    ],
)
def test_what_is_no_trace_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_trace(text)


# --- extents


@given(ranges)
def test_covered_is_a_set_that_tells_what_is_new(found: list[tuple[int, int]]) -> None:
    covered, model = Covered(), set[int]()
    for start, end in found:
        new = {at for first, last in covered.add(start, end) for at in range(first, last)}
        assert new == set(range(start, end)) - model
        model |= new
    assert {at for first, last in covered for at in range(first, last)} == model
    assert covered.total() == len(model)
    kept = list(covered)
    assert all(before[1] < after[0] for before, after in pairwise(kept))


@given(boots)
def test_pages_come_once_and_in_order(runs: list[list[Read]]) -> None:
    size = 50 * PAGE - 100
    naive: list[int] = []
    for read in runs[0]:
        end = min(read.offset + read.length, size)
        naive += [page for page in range(read.offset // PAGE, -(-end // PAGE)) if page not in naive]
    assert [page for found in pages_in_order(runs[0], size) for page in range(*found)] == naive


@given(ranges, ranges)
def test_overlap_counts_what_both_hold(left: list[tuple[int, int]], right: list[tuple[int, int]]) -> None:
    sides = []
    for side in (left, right):
        covered = Covered()
        for start, end in side:
            covered.add(start, end)
        sides.append([Extent(start, end - start) for start, end in covered])
    both = [{at for each in side for at in range(each.offset, each.end)} for side in sides]
    assert overlap(*sides) == len(both[0] & both[1])


# --- merging


@given(boots)
def test_a_boot_set_has_what_most_boots_read_and_little_else(runs: list[list[Read]]) -> None:
    size = 128 * PAGE
    read = [{page for found in pages_in_order(run, size) for page in range(*found)} for run in runs]
    wanted = {page for page in set().union(*read) if 2 * sum(page in run for run in read) > len(runs)}
    if not wanted:
        with pytest.raises(InvalidInput, match="nothing in common"):
            merge(runs, size)
        return
    found = merge(runs, size)
    pages = pages_of(found)
    assert pages >= wanted
    assert len(pages - wanted) <= len(wanted) * boot_sets.CLOSED_SHARE
    assert found.total == len(pages) * PAGE
    assert found.runs == len(runs)


def test_the_order_is_that_of_the_first_reads() -> None:
    def at(*pages: int) -> list[Read]:
        return [Read(page * PAGE, PAGE) for page in pages]

    found = merge([at(90, 10, 50), at(90, 10, 70, 50), at(10, 90, 50)], 100 * PAGE)
    assert [extent.offset // PAGE for extent in found.extents] == [90, 10, 50]


def test_small_gaps_are_closed_and_large_ones_are_not() -> None:
    reads = [Read(0, 30 * PAGE), Read(31 * PAGE, 30 * PAGE), Read(1000 * PAGE, 40 * PAGE)]
    assert merge([reads], 2000 * PAGE).extents == (Extent(0, 61 * PAGE), Extent(1000 * PAGE, 40 * PAGE))


def test_what_boots_read_last_is_left_out_of_a_full_set() -> None:
    reads = [Read(50 * PAGE, 5 * PAGE), Read(0, 5 * PAGE)]
    assert merge([reads], 100 * PAGE, cap=5 * PAGE).extents == (Extent(50 * PAGE, 5 * PAGE),)


def test_gaps_are_not_closed_beyond_what_a_set_may_have() -> None:
    reads = [Read(0, 50 * PAGE), Read(51 * PAGE, 50 * PAGE)]
    assert merge([reads], 200 * PAGE, cap=101 * PAGE).total == 101 * PAGE
    assert merge([reads], 200 * PAGE, cap=100 * PAGE).total == 100 * PAGE


def test_a_real_boot_makes_a_set_with_few_extents_and_little_waste() -> None:
    reads = parse_trace(TRACE.read_text())
    distinct = pages_read(reads, SIZE)
    found = merge([reads], SIZE)
    assert distinct <= found.total <= distinct * (1 + boot_sets.CLOSED_SHARE)
    assert len(found.extents) < len(pages_in_order(reads, SIZE)) / 4


# --- files


def stored() -> BootSetFile:
    return BootSetFile("debian-13@2", "ab" * 32, BootSet((Extent(8 * PAGE, PAGE), Extent(0, 2 * PAGE)), 10 * PAGE, 3))


def test_a_file_holds_all_of_it() -> None:
    assert file.load(file.dump(stored())) == stored()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "tar"}, "no boot set"),
        ({"version": 2}, "another release"),
        ({"extents": []}, "no extents"),
        ({"extents": [[0]]}, "is no extent"),
        ({"extents": [[0, True]]}, "is no extent"),
        ({"extents": [[0, 100]]}, "whole pages"),
        ({"extents": [[0, -PAGE]]}, "whole pages"),
        ({"extents": [[0, 2 * PAGE], [PAGE, PAGE]]}, "overlaps"),
        ({"extents": [[10 * PAGE, PAGE]]}, "outside"),
        ({"size": "x"}, "not a number"),
        ({"runs": 0}, "not a number"),
        ({"template": 1}, "not a name"),
    ],
)
def test_what_is_no_boot_set_is_refused(change: dict[str, object], words: str) -> None:
    text = json.dumps(json.loads(file.dump(stored())) | change)
    with pytest.raises(InvalidInput, match=words):
        file.load(text)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "null", "x" * (file.LARGEST + 1)])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        file.load(text)


# --- pictures


def test_a_picture_shows_where_on_the_disk_it_lies() -> None:
    extents = [Extent(0, 16 * PAGE), Extent(40 * PAGE, 4 * PAGE), Extent(63 * PAGE, PAGE)]
    assert picture.draw(extents, 64 * PAGE, columns=4, rows=2) == "██  \n ▒ ░"


@given(boots)
def test_a_picture_adds_up(runs: list[list[Read]]) -> None:
    size = 128 * PAGE
    found = merge(runs[:1], size)
    assert sum(picture.shares(found.extents, size, 37)) * size / 37 == pytest.approx(found.total)
