"""Clones are made, written, trimmed, reset, promoted and removed in random order: space and content are exact.

``--count`` is how many clones come and go, ``--seed`` where chance begins.
"""

import pytest

from tests.kernel.inside import interleavings
from tests.kernel.lab import Lab
from tests.kernel.power import seed

CLONES, STEPS = 100, 40


def test_space_and_content_are_exact(store: Lab, request: pytest.FixtureRequest) -> None:
    clones = request.config.getoption("count") or CLONES
    score = store.call(interleavings.run, clones, STEPS, seed(request.config), timeout=600.0 + 10.0 * clones)
    print(score)
    assert score["clones"] >= clones
    assert score["trimmed"] > 0
