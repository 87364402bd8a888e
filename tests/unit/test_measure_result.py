"""Results computed from counters."""

from dataclasses import replace

import pytest

from appliance.errors import CannotTell, Unhealthy
from appliance.measure.result import (
    BootResult,
    Phase,
    accounted,
    boot_result,
    cache_cost,
    check_cold,
    check_emptied,
    known_bytes,
    prefetched_enough,
    summary,
    warm_enough,
)
from appliance.schema import BootSetSummary, CacheCounters, Counters, DeviceCounters, PrefetchView

MIB = 1 << 20


def device(
    name: str, reads: int = 0, read: int = 0, writes: int = 0, written: int = 0, busy: int = 0
) -> DeviceCounters:
    return DeviceCounters(
        name=name, reads=reads, read_bytes=read, writes=writes, write_bytes=written, discards=0, busy_millis=busy
    )


def counters(
    *,
    clone: DeviceCounters | None = None,
    backend: DeviceCounters | None = None,
    cache: DeviceCounters | None = None,
    asked: int = 0,
    hits: int = 0,
    misses: int = 0,
    bypass: int = 0,
) -> Counters:
    return Counters(
        taken=0,
        cache=cache or device("nvme0n1p2"),
        cached=device("bcache0", reads=asked),
        backend=backend or device("md127"),
        meta=None,
        disks=(),
        cache_stats=CacheCounters(
            hits=hits, misses=misses, bypass_hits=0, bypass_misses=bypass, bypassed_bytes=bypass * 4096
        ),
        clones={"a": clone or device("dm-7")},
    )


def measured(before: Counters, after: Counters) -> BootResult:
    return boot_result(run=1, clone="a", phase=Phase.COLD, seconds=50, cpu_seconds=75, before=before, after=after)


def test_a_boot_is_the_difference_of_two_readings() -> None:
    before = counters(
        clone=device("dm-7", 100, 10 * MIB, 5, MIB),
        backend=device("md127", 1000, 500 * MIB),
        cache=device("nvme0n1p2", 10, 20 * MIB, 10, 30 * MIB),
        asked=50,
        hits=40,
        misses=10,
    )
    after = counters(
        clone=device("dm-7", 2100, 210 * MIB, 25, 3 * MIB),
        backend=device("md127", 1500, 550 * MIB),
        cache=device("nvme0n1p2", 10, 170 * MIB, 10, 90 * MIB),
        asked=2050,
        hits=1540,
        misses=510,
    )
    boot = measured(before, after)
    assert (boot.requests, boot.read_bytes, boot.written_bytes) == (2000, 200 * MIB, 2 * MIB)
    assert (boot.backend_requests, boot.backend_bytes) == (500, 50 * MIB)
    assert (boot.cache_read_bytes, boot.cache_added_bytes) == (150 * MIB, 60 * MIB)
    assert boot.amplification == 0.25
    assert boot.hit_rate_bytes == 0.75
    assert boot.hit_rate_requests == 0.75
    assert boot.cpu_cores == 1.5


def test_time_with_requests_under_way_is_apart_from_the_rest() -> None:
    boot = measured(counters(clone=device("dm-7", busy=500)), counters(clone=device("dm-7", 9, MIB, busy=13_000)))
    assert (boot.seconds, boot.io_seconds, boot.rest_seconds) == (50, 12.5, 37.5)


def test_the_kernels_milliseconds_begin_again_after_some_weeks() -> None:
    before = counters(clone=device("dm-7", busy=2**32 - 1000))
    assert measured(before, counters(clone=device("dm-7", 9, MIB, busy=1000))).io_seconds == 2.0


def test_requests_after_the_prompt_do_not_make_the_rest_negative() -> None:
    boot = measured(counters(), counters(clone=device("dm-7", 9, MIB, busy=51_000)))
    assert (boot.io_seconds, boot.rest_seconds) == (50, 0)


def test_an_appliance_that_does_not_count_the_time_leaves_it_unknown() -> None:
    old = DeviceCounters.model_validate_json(
        '{"name": "dm-7", "reads": 9, "read_bytes": 9, "writes": 0, "write_bytes": 0, "discards": 0}'
    )
    boot = measured(counters(), counters(clone=old))
    assert (boot.io_seconds, boot.rest_seconds) == (None, None)
    found = summary([boot, replace(boot, io_seconds=4.0)], Phase.COLD)
    assert found is not None
    assert (found.io_seconds, found.rest_seconds) == (None, None)


def test_read_ahead_of_the_backend_is_no_negative_hit_rate() -> None:
    boot = measured(counters(), counters(clone=device("dm-7", 10, 10 * MIB), backend=device("md127", 9, 14 * MIB)))
    assert boot.amplification == 1.4
    assert boot.hit_rate_bytes == 0.0


def test_hits_are_unknown_until_every_read_is_accounted_for() -> None:
    before = counters(asked=100, hits=70, misses=10)  # 20 reads were never counted: before the cache was attached
    clone = device("dm-7", 10, MIB)
    early, late = (
        counters(clone=clone, asked=110, hits=75, misses=12),
        counters(clone=clone, asked=110, hits=75, misses=15),
    )
    assert not accounted(before, early)
    assert measured(before, early).hit_rate_requests is None
    assert accounted(before, late)
    assert measured(before, late).hit_rate_requests == 0.5


def test_bypassed_requests_are_accounted_for_but_no_hits() -> None:
    boot = measured(counters(), counters(clone=device("dm-7", 4, MIB), asked=4, hits=1, misses=1, bypass=2))
    assert boot.hit_rate_requests == 0.5
    assert boot.bypassed_bytes == 8192


def test_a_boot_that_read_nothing_is_not_a_result() -> None:
    with pytest.raises(CannotTell, match="saw no read"):
        measured(counters(), counters())


def test_counters_that_went_backwards_are_not_a_result() -> None:
    with pytest.raises(CannotTell, match="went backwards"):
        measured(counters(backend=device("md127", reads=5)), counters(clone=device("dm-7", 1, 1)))


def test_a_missing_device_is_not_a_result() -> None:
    gone = counters().model_copy(update={"clones": {}})
    with pytest.raises(CannotTell, match="no counters of clone a"):
        measured(counters(), gone)


def boots() -> list[BootResult]:
    cold = measured(
        counters(),
        counters(
            clone=device("dm-7", 100, 100 * MIB),
            backend=device("md127", 90, 90 * MIB),
            cache=device("p", 0, 0, 0, 100 * MIB),
            asked=100,
            hits=20,
            misses=80,
        ),
    )
    warm = replace(
        cold, phase=Phase.WARM, clone="b", seconds=30, backend_bytes=MIB, hits=99, misses=1, cache_added_bytes=10 * MIB
    )
    return [cold, warm, replace(warm, clone="c", seconds=34, backend_bytes=0, hits=100, misses=0)]


def cold(backend: int, *, asked: int = 100 * MIB, known: int | None = None) -> None:
    check_cold("the boot of a", asked=asked, backend=backend, known=known)


def test_cold_is_checked_against_what_a_boot_is_known_to_read() -> None:
    cold(90 * MIB, known=120 * MIB)
    with pytest.raises(Unhealthy, match="the boot of a did not begin cold"):
        cold(90 * MIB - 1, known=120 * MIB)  # a set may be larger than what one boot reads
    cold(72 * MIB, known=80 * MIB)  # what was read twice needed the backend once
    with pytest.raises(Unhealthy):
        cold(72 * MIB - 1, known=80 * MIB)


def test_cold_is_checked_without_a_boot_set_too() -> None:
    cold(75 * MIB)
    with pytest.raises(Unhealthy, match=str(75 * MIB)):
        cold(61 * MIB)  # 39 % of hits
    with pytest.raises(CannotTell, match="not known"):
        cold(5, asked=0)


def test_a_prefetch_is_held_against_what_the_template_has() -> None:
    found = PrefetchView(
        state="warm", why="", total_bytes=100 * MIB, backend_bytes=60 * MIB, held_bytes=80 * MIB, began=0
    )
    check_emptied("t@1", found)
    check_emptied("t@1", found.model_copy(update={"held_bytes": 0, "backend_bytes": 0}))  # all of it is holes
    check_emptied("t@1", found.model_copy(update={"held_bytes": None, "backend_bytes": 0}))
    for given in (60 * MIB - 1, 0):
        with pytest.raises(CannotTell, match="not into an empty cache"):
            check_emptied("t@1", found.model_copy(update={"backend_bytes": given}))


def test_only_boots_of_the_same_content_tell_what_a_boot_reads() -> None:
    found = BootSetSummary(total_bytes=90, extents=1, runs=1, guessed=False, changed=0, wasted_bytes=5)
    assert known_bytes(found) == 85
    assert known_bytes(found.model_copy(update={"wasted_bytes": None})) == 90
    assert known_bytes(found.model_copy(update={"guessed": True})) is None
    assert known_bytes(None) is None


def test_what_the_template_has_nothing_of_is_not_asked_of_the_cache() -> None:
    clone, backend = device("dm-7", 100, 100 * MIB), device("md127", 60, 60 * MIB)
    after = counters(clone=clone, backend=backend).model_copy(update={"cached": device("bcache0", 70, 70 * MIB)})
    assert measured(counters(), after).cached_bytes == 70 * MIB


def test_cold_and_warm_side_by_side() -> None:
    cold, warm = summary(boots(), Phase.COLD), summary(boots(), Phase.WARM)
    assert cold is not None
    assert warm is not None
    assert (cold.boots, cold.amplification, cold.hit_rate_requests) == (1, 0.9, 0.2)
    assert (warm.seconds.least, warm.seconds.mean, warm.seconds.most) == (30, 32, 34)
    assert summary(boots(), Phase.PREFETCHED) is None
    assert warm.amplification == pytest.approx(0.005)
    assert warm.hit_rate_requests == pytest.approx(0.995)


def test_one_slow_boot_does_not_move_the_median() -> None:
    _, warm, _ = boots()
    times = ((30.0, 3.0, 40.0), (31.0, 2.0, 41.0), (90.0, 61.0, 99.0))
    booted = [replace(warm, seconds=all_, io_seconds=io, cpu_seconds=cpu) for all_, io, cpu in times]
    found = summary(booted, Phase.WARM)
    assert found is not None
    assert (found.seconds.median, found.seconds.most) == (31, 90)
    assert found.io_seconds is not None
    assert found.rest_seconds is not None
    assert (found.io_seconds.median, found.rest_seconds.median) == (3, 29)
    assert (found.cpu_spread.least, found.cpu_spread.median, found.cpu_spread.most) == (40, 41, 99)
    assert found.cpu_seconds == found.cpu_spread.mean == 60


def test_one_boot_without_hits_makes_the_rate_unknown() -> None:
    first, *rest = boots()
    found = summary([first, *rest, replace(rest[0], hits=None, misses=None)], Phase.WARM)
    assert found is not None
    assert found.hit_rate_requests is None


def test_the_cache_cost_is_that_of_all_clones_in_first_clones() -> None:
    cost = cache_cost(boots())
    assert cost is not None
    assert (cost.clones, cost.first_bytes, cost.all_bytes) == (3, 100 * MIB, 120 * MIB)
    assert cost.ratio == pytest.approx(1.2)
    assert cache_cost(boots()[1:]) is None


def test_what_a_prefetch_and_boots_after_it_take_in_is_not_the_cost_of_clones() -> None:
    cold, warm, other = boots()
    prefetched = replace(cold, phase=Phase.PREFETCHED, cache_added_bytes=3 * MIB)
    reverse = [replace(boot, run=2) for boot in (prefetched, warm, other, cold)]
    assert cache_cost([cold, warm, other, prefetched, *reverse]) == cache_cost(boots())


def test_the_limit_holds_for_all_warm_boots_together() -> None:
    cold, warm, other = boots()
    assert warm_enough([cold]) is None
    assert warm_enough([cold, warm, other]) is True  # 1 % and 0 %
    assert warm_enough([cold, replace(warm, backend_bytes=MIB + MIB // 10), other]) is True
    assert warm_enough([cold, replace(warm, backend_bytes=2 * MIB + MIB // 10), other]) is False


def test_each_boot_after_a_prefetch_is_held_to_its_limit() -> None:
    cold, *_ = boots()
    fetched = [replace(cold, phase=Phase.PREFETCHED, backend_bytes=count) for count in (0, MIB)]
    assert prefetched_enough([cold]) is None
    assert prefetched_enough([cold, *fetched]) is True
    assert prefetched_enough([*fetched, replace(fetched[0], backend_bytes=MIB + 4096)]) is False
