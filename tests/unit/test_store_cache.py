"""Plans for the cache, on one NVMe drive and on two."""

from dataclasses import replace
from typing import Any

import pytest

from appliance.config import CacheMode
from appliance.errors import NotReady, Refused
from appliance.host import bcache
from appliance.host.bcache import BackingState, Cached, State
from appliance.host.block import Device
from appliance.host.md import Superblock
from appliance.model import GIB, MIB
from appliance.store import cache, cache_mirror
from appliance.store.cache import Cache, Side
from appliance.store.cache_mirror import CacheMirror, Leg
from appliance.store.mirror import Making
from tests.unit.plans import UUID, array, verbs

SET = "aaa4f3e0-e576-4140-8450-8be7c240efca"
CACHE_SB = bcache.Superblock("u", SET, 512, 0, None)
BACKING_SB = bcache.Superblock("v", SET, 512, MIB, BackingState.CLEAN)
RUNNING = Cached(Device("bcache0", "252:0", GIB, 512, None, 0), Device("md127p2", "259:1", GIB, 512, "md127", 0),
                 State.CLEAN, SET)  # fmt: skip
FULL = Cache(Side("/dev/n2", CACHE_SB, True, "", SET), Side("/dev/md127p2", BACKING_SB, True), RUNNING, ())


def plan_cache(found: Cache, making: Making = Making.FORBIDDEN) -> list[str]:
    return verbs(cache.plan(found, making, CacheMode.WRITETHROUGH))


def test_a_new_cache() -> None:
    blank = Cache(Side("/dev/n2", None, False, "", SET), Side("/dev/md127p2", None, False), None, ())
    assert plan_cache(blank, Making.ALLOWED) == [
        "MakeCache",
        "MakeBacking",
        "Register",
        "Register",
        "Attach",
        "ApplySettings",
    ]
    with pytest.raises(NotReady):
        plan_cache(blank)
    with pytest.raises(Refused, match="ext4"):
        plan_cache(replace(blank, backing=replace(blank.backing, kind="ext4")), Making.ALLOWED)


def test_a_cache_that_runs_needs_nothing_but_right_settings() -> None:
    assert plan_cache(FULL) == []
    assert plan_cache(replace(FULL, settings=("sequential_cutoff is 4.0M instead of 0",))) == ["ApplySettings"]


def test_a_cache_starts() -> None:
    off = replace(
        FULL, cache=replace(FULL.cache, registered=False), backing=replace(FULL.backing, registered=False), cached=None
    )
    assert plan_cache(off) == ["Register", "Register", "Attach", "ApplySettings"]


def test_without_nvme_the_backend_serves_alone() -> None:
    off = replace(FULL, cache=Side(None, None, False), backing=replace(FULL.backing, registered=False), cached=None)
    assert plan_cache(off) == ["Register", "RunWithoutCache", "ApplySettings"]


def test_a_cache_set_that_does_not_belong_to_its_partition_is_not_used() -> None:
    stale = replace(FULL, cache=replace(FULL.cache, guid="another", registered=False), cached=None)
    assert "Attach" not in plan_cache(stale)
    assert "RunWithoutCache" in plan_cache(stale)


def test_a_cache_that_returns_is_attached() -> None:
    lost = replace(FULL, cached=replace(RUNNING, state=State.NO_CACHE, set_uuid=None))
    assert plan_cache(lost) == ["Attach", "ApplySettings"]


def test_a_cache_that_died_is_made_anew_before_the_kernel_sees_it_again() -> None:
    """The kernel leaves such a device "clean": it would believe what the cache held when it died."""
    died = replace(FULL, cache=replace(FULL.cache, registered=False), cached=replace(RUNNING, set_uuid=None))
    assert plan_cache(died) == ["RemakeCache", "Register", "Attach", "ApplySettings"]
    detached = replace(died, cached=replace(RUNNING, set_uuid=None, state=State.NO_CACHE))
    assert plan_cache(detached) == ["Register", "Attach", "ApplySettings"], "the kernel empties this one by itself"
    assert plan_cache(replace(died, cache=FULL.cache)) == ["Attach", "ApplySettings"], "made anew, for another device"
    assert "RemakeCache" not in plan_cache(cache.without(died))


def test_a_cache_of_former_times_is_made_anew() -> None:
    """Another drive's cache was in use since; a device that lost its cache in an orderly way is no danger."""
    off = replace(
        FULL, cache=replace(FULL.cache, registered=False), backing=replace(FULL.backing, registered=False), cached=None
    )
    other = replace(off, backing=replace(off.backing, superblock=replace(BACKING_SB, set_uuid="of another drive")))
    assert plan_cache(other) == ["RemakeCache", "Register", "Register", "Attach", "ApplySettings"]
    for state in (BackingState.STALE, BackingState.DETACHED, BackingState.DIRTY):
        own = replace(BACKING_SB, set_uuid="of another drive", state=state)
        assert "RemakeCache" not in plan_cache(replace(off, backing=replace(off.backing, superblock=own)))


def test_a_growths_backing_device_is_made_by_a_start() -> None:
    blank = replace(FULL, backing=Side("/dev/md127p3", None, False), cached=None, later=True)
    assert plan_cache(blank) == ["MakeBacking", "Register", "Attach", "ApplySettings"]
    with pytest.raises(NotReady):
        plan_cache(replace(blank, later=False))
    with pytest.raises(Refused, match="ext4"):
        plan_cache(replace(blank, backing=replace(blank.backing, kind="ext4")))


def test_a_cache_whose_content_may_be_old_is_left_out_at_first() -> None:
    off = replace(FULL, backing=replace(FULL.backing, registered=False), cached=None)
    assert plan_cache(cache.without(off)) == ["Register", "RunWithoutCache", "ApplySettings"]


# --- a cache on two drives


def leg(name: str, number: int, **changes: Any) -> Leg:
    found = Superblock(UUID, "hatchery:cache", 1, 0, 2, 20, number, False, (0, 1))
    return Leg(f"/dev/{name}", f"guid-{name}", GIB, replace(found, **changes))


A, B = leg("a2", 0), leg("b2", 1)
BLANK_A, BLANK_B = Leg("/dev/a2", "guid-a2", GIB), Leg("/dev/b2", "guid-b2", GIB)
PLAIN = replace(BLANK_A, set_uuid="guid-a2")


def plan_two(found: CacheMirror, making: Making = Making.FORBIDDEN) -> list[str]:
    return verbs(cache_mirror.plan(found, making))


def test_one_drive_needs_no_mirror() -> None:
    for only in (PLAIN, BLANK_A):
        assert plan_two(CacheMirror(1, (only,), None), Making.ALLOWED) == []
        assert not cache_mirror.doubtful(CacheMirror(1, (only,), None))


def test_two_drives_become_a_mirror() -> None:
    (step,) = cache_mirror.plan(CacheMirror(2, (BLANK_A, replace(BLANK_B, size=2 * GIB)), None), Making.ALLOWED)
    assert step == cache_mirror.CreateCacheMirror(("/dev/a2", "/dev/b2"), GIB - cache_mirror.DATA_OFFSET)
    assert plan_two(CacheMirror(2, (BLANK_A, BLANK_B), None)) == [], "a start makes nothing"
    with pytest.raises(NotReady):
        plan_two(CacheMirror(2, (BLANK_A,), None), Making.ALLOWED)
    with pytest.raises(Refused, match="xfs"):
        plan_two(CacheMirror(2, (BLANK_A, replace(BLANK_B, kind="xfs")), None), Making.ALLOWED)


def test_a_second_drive_begins_the_mirror_and_the_first_stays_as_it_is() -> None:
    (step,) = cache_mirror.plan(CacheMirror(2, (PLAIN, BLANK_B), None), Making.ALLOWED)
    assert step == cache_mirror.CreateCacheMirror(("/dev/b2",), GIB - cache_mirror.DATA_OFFSET)
    half = CacheMirror(2, (PLAIN, leg("b2", 0, roles=(0, 0xFFFE))), array("md125", "b2", degraded=1))
    assert plan_two(half, Making.ALLOWED) == [], "the first drive still holds the cache in use"
    with pytest.raises(Refused, match="cache of their own"):
        plan_two(CacheMirror(2, (PLAIN, replace(BLANK_B, set_uuid="guid-b2")), None), Making.ALLOWED)


def test_a_mirror_starts_from_legs_that_agree() -> None:
    found = CacheMirror(2, (A, B), None)
    assert cache_mirror.plan(found, Making.FORBIDDEN) == (
        cache_mirror.AssembleCacheMirror(UUID, ("/dev/a2", "/dev/b2")),
    )
    assert not cache_mirror.doubtful(found)


def test_a_leg_that_lags_behind_never_wins() -> None:
    knows = leg("b2", 1, roles=(0xFFFE, 1), events=30)
    both = CacheMirror(2, (A, knows), None)
    assert not cache_mirror.doubtful(both)
    first, *rest = cache_mirror.plan(both, Making.FORBIDDEN)
    assert first == cache_mirror.AssembleCacheMirror(UUID, ("/dev/b2",))
    assert rest == [cache_mirror.RejoinCacheMirror("/dev/a2")]
    assert not cache_mirror.doubtful(CacheMirror(2, (knows,), None)), "it counted the other as gone"
    assert cache_mirror.doubtful(CacheMirror(2, (A,), None)), "the other may have gone on without it"


def test_a_leg_alone_is_believed_after_an_orderly_stop() -> None:
    stopped = CacheMirror(2, (A,), None, f"{UUID} 20")
    assert not cache_mirror.doubtful(stopped)
    for mark in (f"{UUID} 21", "other 20", ""):
        assert cache_mirror.doubtful(replace(stopped, mark=mark))


def test_legs_that_each_went_their_own_way_are_not_believed() -> None:
    apart = CacheMirror(2, (leg("a2", 0, roles=(0, 0xFFFE), events=50), leg("b2", 1, roles=(0xFFFE, 1))), None)
    assert cache_mirror.doubtful(apart)
    first, second = cache_mirror.plan(apart, Making.FORBIDDEN)
    assert first == cache_mirror.AssembleCacheMirror(UUID, ("/dev/a2",))
    assert isinstance(second, cache_mirror.RejoinCacheMirror)
    assert second.why


def test_a_running_mirror_takes_back_its_leg_and_takes_in_a_new_drives() -> None:
    running = array("md125", "b2", degraded=1)
    for back in (A, BLANK_A, leg("a2", 0, uuid="0" * 32)):
        assert plan_two(CacheMirror(2, (back, B), running)) == ["RejoinCacheMirror"]
    with pytest.raises(Refused, match="not empty"):
        plan_two(CacheMirror(2, (replace(BLANK_A, kind="xfs"), B), running))
    assert plan_two(CacheMirror(2, (A, B), array("md125", "a2", "b2"))) == []
