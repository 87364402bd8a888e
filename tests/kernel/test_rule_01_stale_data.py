"""Rule 1: a write that goes past the cache while its block is read leaves old data there; ours do not go past it."""

import pytest

from tests.kernel.inside import stale
from tests.kernel.lab import Lab

KIB = 1024
LENGTHS = (4 * KIB, 64 * KIB, 1024 * KIB)
FORBIDDEN = {
    "writearound": ({"cache_mode": "writearound"}, 64 * KIB),
    "a sequential cutoff": ({"sequential_cutoff": str(256 * KIB)}, 1024 * KIB),
}
ROUNDS = 3


def test_old_data_stays_with_forbidden_settings_and_never_with_ours(lab: Lab) -> None:
    lab.call(stale.make)
    for name, (settings, length) in FORBIDDEN.items():
        assert lab.call(stale.race, settings, ROUNDS, length)["old"] > 0, f"{name}: the scenario shows nothing"
    for length in LENGTHS:
        assert lab.call(stale.race, {}, ROUNDS, length) == {"new": ROUNDS, "old": 0}, f"{length} bytes"


@pytest.mark.heavy
def test_what_no_setting_prevents(lab: Lab) -> None:
    """In writethrough mode a write that finds no free bucket goes past the cache, and the counters do not tell.

    This is the kernel's doing (see docs/reliability.md); the test says when a kernel no longer does it.
    """
    lab.call(stale.make)
    assert lab.call(stale.race_without_buckets, 64 * KIB) == "old", "the kernel has learned: correct the documents"
