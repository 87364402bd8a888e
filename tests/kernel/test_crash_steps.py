"""The power is cut after each change of each operation: what comes back is the old state or the new one, never between.

The cuts of a run follow each other on the same disks, so that what one recovery left is what the next cut begins with.
All the while a guest writes to its clone and flushes. Which changes there are is found by doing each operation once.
Without ``--all`` the power is cut after each change that lasts, and of those that are much alike after one, another
one for each ``--seed`` (by default each day).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.inside import crash
from tests.kernel.inside.crash_operations import OPERATIONS
from tests.kernel.lab import Lab
from tests.kernel.power import Extent, Power, seed

IN_FULL = {"create", "batch", "remove", "reset", "resize", "promote", "import"}
"""The others are made of the same changes: they are cut once in each run."""


@pytest.fixture(scope="module")
def power(tree: Path, prepared: Path, request: pytest.FixtureRequest) -> Iterator[Power]:
    with Lab(tree, prepared=prepared) as lab:
        lab.call(crash.furnish, timeout=240)
        power = Power(lab, seed(request.config))
        power.learn(list(OPERATIONS))
        yield power
        power.end()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_change(power: Power, operation: str, request: pytest.FixtureRequest) -> None:
    extent = Extent.LASTING if operation in IN_FULL else Extent.ONE
    for number in power.choose(operation, Extent.ALL if request.config.getoption("run_all") else extent):
        power.cut(operation, number)
    power.verify()
