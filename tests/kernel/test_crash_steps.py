"""The power is cut after each change of each operation: what comes back is the old state or the new one, never between.

The cuts of a run follow each other on the same disks, so that what one recovery left is what the next cut begins with.
All the while a guest writes to its clone and flushes. Which changes there are is found by doing each operation once.
Without ``--all`` the power is cut after each change that lasts, and of those that are much alike after one, another
one for each ``--seed`` (by default each day): what does not last is gone with the kernel wherever that ends. Growing
the array has cuts of its own in test_store_growth.py.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.inside import crash
from tests.kernel.inside.crash_operations import OPERATIONS
from tests.kernel.lab import Lab
from tests.kernel.power import Extent, Power, seed

IN_FULL = {"create", "gc"}
"""The others are made of the same changes: they are cut once in each run."""

QUICK = IN_FULL | {"batch", "remove", "promote", "import", "reset", "remove-ephemeral", "remove-template"}
"""Those of a usual run; test_crash_any_time.py has all of them."""

REPEATED = [name for name, operation in OPERATIONS.items() if not operation.once]


@pytest.fixture(scope="module")
def power(tree: Path, prepared: Path, request: pytest.FixtureRequest) -> Iterator[Power]:
    with Lab(tree, prepared=prepared) as lab:
        lab.call(crash.furnish, timeout=240)
        power = Power(lab, seed(request.config))
        everything = request.config.getoption("run_all")
        power.learn([name for name in REPEATED if everything or name in QUICK])
        yield power
        power.end()


@pytest.mark.parametrize(
    "operation", [name if name in QUICK else pytest.param(name, marks=pytest.mark.heavy) for name in REPEATED]
)
def test_every_change(power: Power, operation: str, request: pytest.FixtureRequest) -> None:
    extent = Extent.LASTING if operation in IN_FULL else Extent.ONE
    for number in power.choose(operation, Extent.ALL if request.config.getoption("run_all") else extent):
        # What the last cut of all left is checked by the next one, and in the end by the fixture.
        power.cut(operation, number)


def test_the_recovery_itself(power: Power, request: pytest.FixtureRequest) -> None:
    batch = [change.number for change in power.changes["batch"] if change.lasting]
    power.cut("batch", batch[-2])
    power.learn_start()
    for number in power.choose("start", Extent.ALL if request.config.getoption("run_all") else Extent.ONE):
        power.cut("batch", batch[-2])
        assert power.cut_start(number)
    power.verify()


@pytest.mark.parametrize("operation", [name for name, operation in OPERATIONS.items() if operation.once])
def test_what_is_done_once(tree: Path, prepared: Path, operation: str, request: pytest.FixtureRequest) -> None:
    with Lab(tree, prepared=prepared) as lab:
        lab.call(crash.furnish, timeout=240)
        lab.call(crash.finish, timeout=240)
        lab.poweroff()
        furnished = lab.save(lab.folder / "furnished")
        lab.start()
        found = Power(lab, seed(request.config))
        found.learn([operation])
        everything = request.config.getoption("run_all")
        for number in found.choose(operation, Extent.ALL if everything else Extent.LASTING):
            with Lab(tree, prepared=furnished) as another:
                power = Power(another, found.seed)
                power.cut(operation, number)
                power.verify()
