"""Rule 15: when the NVMe drive dies, an ephemeral clone stops at once instead of reading on as its template."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.inside import disks, ephemeral, volumes
from tests.kernel.lab import Disks, Lab, Options

MIB = 1024 * 1024
TEMPLATE, CLONE = 1, 2
WRITTEN, UNWRITTEN = 2 * MIB, 10 * MIB


@pytest.fixture
def mortal(tree: Path, prepared: Path) -> Iterator[Lab]:
    """A running store on an NVMe drive that can die, with an ephemeral clone; nobody guards it yet."""
    with Lab(tree, Options(nvme=Disks.FAULTY), prepared=prepared) as lab:
        lab.run(["hatchery-store", "up"])
        lab.call(volumes.make_template, TEMPLATE, 16)
        path = lab.call(ephemeral.clone, CLONE, TEMPLATE, 16)
        lab.run(["dd", "if=/dev/urandom", f"of={path}", "bs=64k", "count=16", "seek=32", "oflag=direct", "conv=fsync"])
        yield lab


SECONDS = 8.0


def test_both_kinds_of_blocks_fail_at_once(mortal: Lab) -> None:
    mortal.begin(["hatchery-retry"])
    mortal.call(ephemeral.await_guard)
    before = mortal.call(volumes.digest, f"/dev/mapper/hatchery-ephemeral-{CLONE}", 16)
    last = mortal.call(ephemeral.dies_while_read, CLONE, WRITTEN, UNWRITTEN, SECONDS)
    assert last["unwritten"] < 3, "it reads on as its template"
    assert last["written"] < 1
    health = mortal.call(volumes.health)
    assert health["fast"]["health"] == "failed"
    assert "the fast pool has failed" in "; ".join(problem["what"] for problem in health["problems"])
    # The drive comes back, and what was flushed is there.
    mortal.call(disks.heal, 0)
    mortal.run(["hatchery-store", "up"])
    path = mortal.call(ephemeral.again, CLONE, TEMPLATE, 16)
    assert mortal.call(volumes.digest, path, 16) == before
    assert mortal.call(volumes.health)["fast"]["health"] == "ok"


def test_without_the_guard_it_would_read_on_as_the_template(mortal: Lab) -> None:
    last = mortal.call(ephemeral.dies_while_read, CLONE, WRITTEN, UNWRITTEN, SECONDS)
    assert last["unwritten"] > SECONDS - 2, "the scenario does not show what the rule prevents"
    assert last["written"] < 1
