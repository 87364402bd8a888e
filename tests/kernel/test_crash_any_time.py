"""The power is cut at any time: while operations run in random order, and while the last cut is recovered from.

``--count`` is how often, ``--seed`` where it begins. A guest writes to its clone and flushes all the while.
"""

import random
from pathlib import Path

import pytest

from tests.kernel.inside import crash
from tests.kernel.lab import Lab
from tests.kernel.power import Power, seed

USUAL = 5


def test_any_time(tree: Path, prepared: Path, request: pytest.FixtureRequest) -> None:
    with Lab(tree, prepared=prepared) as lab:
        lab.call(crash.furnish, timeout=240)
        power = Power(lab, seed(request.config))
        dice = random.Random(power.seed)
        for _ in range(request.config.getoption("count") or USUAL):
            power.cut_any_time(dice)
        power.verify()
        power.end()
