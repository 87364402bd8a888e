"""Rule 13: discards free the pool's blocks and go no further, where they would drown the alarm of rule 1."""

from appliance import wait
from tests.kernel.inside import rules, volumes
from tests.kernel.lab import Lab

MIB = 1024 * 1024


def discards(lab: Lab) -> int:
    return int(lab.run(["cat", "/sys/block/bcache0/stat"]).stdout.split()[11])


def fill_and_discard(lab: Lab, volume: str) -> int:
    """Write 16 MiB, discard them, return the bytes that the pool got back."""
    lab.run(["dd", "if=/dev/zero", f"of={volume}", "bs=1M", "count=16", "oflag=direct", "conv=fsync"])
    lab.call(rules.read_through, volume, 16)  # bcache counts what is read
    full = lab.call(rules.pool_used)
    lab.run(["blkdiscard", "-l", str(16 * MIB), volume])
    freed: int = full - lab.call(rules.pool_used)
    return freed


def test_discards_free_blocks_and_stay_above_the_cache(store: Lab) -> None:
    assert "no_discard_passdown" in store.call(rules.pool_features)
    store.call(rules.empty_template, 1, 32)
    clone = store.call(volumes.make_clone, 2, 1, 32)
    before = discards(store)
    assert fill_and_discard(store, clone) == 16 * MIB
    assert discards(store) == before
    assert store.call(rules.counted, 16) == 0

    # With the forbidden setting the same discard reaches the cache and counts as bypassing it.
    store.call(rules.reload_pool, without="no_discard_passdown", adding="")
    assert any("discards go through" in problem["what"] for problem in store.call(volumes.health)["problems"])
    assert fill_and_discard(store, clone) == 16 * MIB
    assert discards(store) > before
    wait.until(
        lambda: store.call(volumes.health)["cache"]["bypassed_bytes"] > 0,
        "the alarm of rule 1",
        deadline=60,
        interval=1,
    )
