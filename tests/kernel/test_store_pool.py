"""The durable pool of the running store; the stories are in inside/pools.py."""

from tests.kernel.lab import Lab

STORIES = (
    "life_of_volumes",
    "an_open_volume_stays",
    "large_volumes_go_in_pieces",
    "transaction_ids_are_compared_and_swapped",
    "a_left_over_metadata_snapshot_is_no_obstacle",
    "latencies_are_counted",
)


def test_the_pool_keeps_its_promises(store: Lab) -> None:
    for story in STORIES:
        store.call(f"tests.kernel.inside.pools:{story}", timeout=120)
    roles = store.call("tests.kernel.inside.pools:roles_of_disks")
    assert sorted(roles.values()) == ["backend", "backend", "backend", "cache"]
