"""Reading what boots need into the cache: in large requests where that goes, in passes, guests first."""

import itertools
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.bootset import prefetch
from appliance.bootset.extents import PAGE, sampled
from appliance.bootset.prefetch import LARGEST, SMALL, SMALLEST, Pace, Pieces, Room, Surroundings
from appliance.errors import Unhealthy
from appliance.model import GIB, MIB, Extent, joined
from tests.unit.model_cache import ModelCache

EXTENTS = (Extent(MIB, 64 * PAGE), Extent(0, 2 * PAGE))
SIZE = 16 * MIB


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume"
    with path.open("wb") as file:
        file.truncate(SIZE)
    return path


@given(st.lists(st.integers(0, 40), unique=True, min_size=1), st.integers(1, 3), st.integers(1, 5))
def test_pieces_are_all_of_the_extents_in_order(places: list[int], length: int, most: int) -> None:
    extents = [Extent(place * 4 * MIB, length * MIB - PAGE) for place in places]
    pieces, found = Pieces(extents), []
    while (piece := pieces.take(most * 64 * PAGE)) is not None:
        found.append(piece)
    assert all(0 < piece.length <= most * 64 * PAGE for piece in found)
    assert [piece.offset for piece in found] == sorted(piece.offset for piece in found)
    assert joined(found) == tuple(sorted(extents))


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9))))
def test_joined_extents_are_the_same_bytes_apart_from_each_other(given_: list[tuple[int, int]]) -> None:
    extents = [Extent(offset, length) for offset, length in given_]
    found = joined(extents)
    assert {byte for each in found for byte in range(each.offset, each.end)} == {
        byte for each in extents for byte in range(each.offset, each.end)
    }
    assert all(one.end < other.offset for one, other in itertools.pairwise(found))


@given(st.lists(st.integers(1, 9), min_size=1), st.integers(1, 60))
def test_a_sample_is_of_pages_of_the_extents_each_once(lengths: list[int], count: int) -> None:
    extents = [Extent(place * 16 * PAGE, length * PAGE) for place, length in enumerate(lengths)]
    found = sampled(extents, count, random.Random(1))
    assert len(set(found)) == len(found) == min(count, sum(lengths))
    for page in found:
        assert any(each.offset <= page.offset and page.end <= each.end for each in extents)


def test_passes_go_on_until_the_backend_has_nothing_left_to_read(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(prefetch, "TELL_SECONDS", 0.0)
    cache = ModelCache(monkeypatch, lambda offset, _, times: offset > 0 or times > 1)
    around = Surroundings(cache.flow, lambda: 0)
    done = prefetch.fetch(volume, EXTENTS, around, lambda number, read: told.append((number, read)))
    assert done.passes == (66 * PAGE, 2 * PAGE, 0)
    assert done.complete
    assert [told[-1], max(read for number, read in told if number == 1)] == [(3, 66 * PAGE), 66 * PAGE]


def test_requests_are_as_large_as_the_cache_has_room_for(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, largest in ((64 * GIB, LARGEST), (4 * GIB, 2 * MIB), (GIB, SMALLEST)):
        room = prefetch.room(size)
        cache = ModelCache(monkeypatch)
        done = prefetch.fetch(volume, (Extent(0, SIZE),), Surroundings(cache.flow, lambda: 0, room))
        assert done.complete
        assert done.passes == (SIZE, 0)
        assert set(cache.lengths) == {largest}


def test_requests_become_small_where_the_cache_does_not_keep_large_ones(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ModelCache(monkeypatch, lambda _, length, __: length <= SMALL)
    done = prefetch.fetch(volume, (Extent(0, SIZE),), Surroundings(cache.flow, lambda: 0, MIB))
    assert done.complete
    assert min(cache.lengths) <= SMALL
    assert len(done.passes) <= 6


def test_a_cache_that_has_little_room_gets_all_in_time(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes in one piece more each time, and is given more and more time."""
    waits: list[float] = []
    look = Pace.look

    def looked(pace: Pace, fetched: int, kept: int, late: int = 0) -> None:
        look(pace, fetched, kept, late)
        waits.append(pace.seconds)

    monkeypatch.setattr(Pace, "look", looked)
    monkeypatch.setattr(prefetch, "LARGEST", SMALLEST)
    cache = ModelCache(monkeypatch, lambda offset, _, times: times > offset // SMALLEST)
    done = prefetch.fetch(volume, (Extent(0, 7 * SMALLEST),), Surroundings(cache.flow, lambda: 0))
    assert done.complete
    assert len(done.passes) > 5
    assert max(waits[:6]) >= prefetch.EASE_LEAST, "the later passes began in a hurry"


def test_it_is_given_up_loudly(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(monkeypatch, lambda offset, *_: offset > 0)
    done = prefetch.fetch(volume, EXTENTS, Surroundings(cache.flow, lambda: 0))
    assert not done.complete
    assert done.left == 2 * PAGE


def test_without_a_cache_one_pass_is_enough_to_know(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ModelCache(monkeypatch, lambda *_: False)
    done = prefetch.fetch(volume, EXTENTS, Surroundings(cache.flow, lambda: 0))
    assert not done.complete
    assert (done.passes, done.left) == ((66 * PAGE,), 66 * PAGE)


def test_what_the_backend_reads_for_others_does_not_count(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is in the cache, and a neighbour misses all the time: more than there is to read in each pass."""
    monkeypatch.setattr(prefetch, "LARGEST", 16 * PAGE)
    cache = ModelCache(monkeypatch)
    asked = itertools.count(1)

    def flow() -> tuple[int, int]:
        if next(asked) % 20 == 0:
            cache.read += SIZE
        return cache.flow()

    cache.held.update(range(0, SIZE, PAGE))
    done = prefetch.fetch(volume, (Extent(0, SIZE),), Surroundings(flow, lambda: 0))
    assert done.passes[0] > SIZE, "the neighbour did nothing"
    assert done.complete
    assert cache.asked < 1.5 * SIZE / (16 * PAGE), "what is known to be in the cache was read again"


def test_guests_go_first_and_do_not_keep_it_from_ending(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With guests that are never quiet, one small request is under way at a time, and each waits."""
    asked: list[str] = []

    def guests() -> int:
        asked.append(threading.current_thread().name)
        return 1

    cache = ModelCache(monkeypatch)
    around = Surroundings(lambda: (0, 0), guests, MIB)
    done = prefetch.fetch(volume, (Extent(0, 6 * MIB),), around)
    assert done.complete
    # What the threads had taken before they saw a guest was as large as usual.
    small = [length for length in cache.lengths if length <= SMALL]
    assert len(cache.lengths) - len(small) <= prefetch.DEPTH
    assert done.seconds >= len(cache.lengths) * prefetch.PAUSE, "it did not wait"
    assert len(asked) > len(cache.lengths)


def test_a_guest_that_was_seen_keeps_requests_small_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(prefetch, "monotonic", lambda: now[0])
    pace = Pace(prefetch.MOST_ROOM)
    assert pace.size == LARGEST
    pace.give_way()
    pace.look(MIB, MIB)
    assert pace.size == SMALL
    now[0] += prefetch.QUIET
    for size in (2 * SMALL, 4 * SMALL, 8 * SMALL, LARGEST, LARGEST):
        pace.look(MIB, MIB)
        assert pace.size == size


def test_requests_become_small_and_then_wait_while_the_cache_does_not_keep_what_comes() -> None:
    pace = Pace(MIB)
    pace.look(MIB, MIB)
    assert (pace.size, pace.seconds) == (MIB, 0)
    for size in (2 * SMALL, SMALL, SMALL // 2, SMALLEST):
        pace.look(MIB, MIB // 2)
        assert (pace.size, pace.seconds) == (size, 0)
    waits = []
    for _ in range(8):
        pace.look(MIB, MIB // 2)
        waits.append(pace.seconds)
    assert waits[0] == prefetch.EASE_LEAST
    assert waits[1] == 2 * prefetch.EASE_LEAST
    assert waits[-1] == prefetch.EASE_MOST
    for _ in range(8):
        pace.look(MIB, 2 * MIB)  # guests write too
    assert (pace.size, pace.seconds) == (SMALLEST, 0), "what was too large does not come again"


def test_no_more_is_under_way_than_there_is_room_for() -> None:
    space = Room(MIB)
    order: list[str] = []
    waiting = threading.Event()

    def other() -> None:
        waiting.set()
        with space.taken(MIB):
            order.append("other")

    thread = threading.Thread(target=other)
    with space.taken(SMALL), space.taken(SMALL):
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "other"]
    with space.taken(4 * MIB):
        pass  # what is larger than the room goes alone


def test_a_volume_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Unhealthy, match="cannot be read"):
        prefetch.fetch(tmp_path / "none", EXTENTS, Surroundings(lambda: (0, 0), lambda: 0))
