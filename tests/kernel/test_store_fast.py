"""The fast pool of the running store; the stories are in inside/ephemeral.py."""

from tests.kernel.lab import Lab

STORIES = (
    "writes_stay_its_own",
    "larger_than_its_template",
    "trim_shows_the_template",
    "new_blocks_hold_nobody_elses_data",
    "an_origin_must_be_sealed",
    "latencies_are_counted",
    "a_large_one_goes_in_pieces",
)


def test_ephemeral_clones_keep_their_promises(store: Lab) -> None:
    for story in STORIES:
        store.call(f"tests.kernel.inside.ephemeral:{story}", timeout=120)
