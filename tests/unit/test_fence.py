"""When the fast pool counts as dead, and what is done to its clones then."""

from typing import Any

import pytest

from appliance import fence
from appliance.errors import InUse, NotFound
from appliance.fence import Fence, verdict
from appliance.host.dm import DeviceNumber, Entry, Flush, Target
from appliance.host.thin import PoolMode
from appliance.store import fast, names

LINE = "7 100/1024 20/4096 - {} no_discard_passdown error_if_no_space {} 1024"
BOTH = (True, True)


class FakeDm:
    """Device-mapper as far as the fence uses it: a pool with two clones in it."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.tables = {name: [Target(0, 2048, "linear", "8:1 0")] for name in fence.DEVICES}
        self.tables |= {f"hatchery-ephemeral-{i}": [Target(0, 64 * i, "thin", "254:1 1 254:2")] for i in (1, 2)}
        self.others = ["hatchery-clone-3", "hatchery-template-4"]
        self.reloaded: list[tuple[str, Flush]] = []
        self.broken = ""

    def list(self) -> tuple[Entry, ...]:
        found = [name for name in self.tables if "ephemeral" in name] + self.others
        return tuple(Entry(name, names.uuid(name), DeviceNumber(254, 9)) for name in found)

    def table(self, name: str) -> tuple[Target, ...]:
        return tuple(self.tables[name])

    def status(self, name: str) -> tuple[Target, ...]:
        assert name == fence.POOL
        if not self.line:
            raise NotFound("gone")
        return (Target(0, 2048, "thin-pool", self.line),)

    def reload(self, name: str, targets: Any, *, flush: Flush) -> None:
        if name == self.broken:
            raise InUse("it does not want to")
        self.tables[name] = targets
        self.reloaded.append((name, flush))


def guard(dm: FakeDm, *unreadable: tuple[str, int]) -> str:
    return Fence(dm, lambda _, name, offset: (name, offset) not in unreadable).guard()  # type: ignore[arg-type]  # a fake


@pytest.mark.parametrize(
    ("mode", "needs_check", "readable", "dead"),
    [
        (PoolMode.READ_WRITE, False, (BOTH, BOTH), False),
        (PoolMode.OUT_OF_DATA_SPACE, False, (BOTH, BOTH), False),
        (PoolMode.READ_ONLY, False, (BOTH, BOTH), True),
        (PoolMode.FAILED, False, (BOTH, BOTH), True),
        (PoolMode.READ_WRITE, True, (BOTH, BOTH), True),
        (PoolMode.READ_WRITE, False, ((False, True), (True, False)), False),
        (PoolMode.READ_WRITE, False, ((False, False), BOTH), True),
        (PoolMode.READ_WRITE, False, (BOTH, (False, False)), True),
    ],
)
def test_what_counts_as_dead(mode: PoolMode, needs_check: bool, readable: Any, dead: bool) -> None:
    assert bool(verdict(mode, needs_check, readable)) is dead


def test_a_living_pool_is_left_alone() -> None:
    dm = FakeDm(LINE.format("rw", "-"))
    assert guard(dm) == ""
    assert guard(dm, (fence.DEVICES[0], 0)) == "", "one bad sector is not a dead drive"
    assert dm.reloaded == []


@pytest.mark.parametrize("line", [LINE.format("ro", "-"), LINE.format("rw", "needs_check"), "Fail", ""])
def test_all_clones_of_a_dead_pool_are_stopped_and_nothing_else(line: str) -> None:
    dm = FakeDm(line)
    assert guard(dm)
    assert dm.reloaded == [(f"hatchery-ephemeral-{i}", Flush.NO_FLUSH) for i in (1, 2)]
    assert dm.table("hatchery-ephemeral-2") == (Target(0, 128, "error", ""),)
    assert guard(dm) == "", "what is stopped is not stopped again"
    assert len(dm.reloaded) == 2


def test_the_second_drive_counts_as_the_first() -> None:
    dm = FakeDm(LINE.format("rw", "-"))
    last = 2048 * 512 - 4096
    assert guard(dm, (fence.DEVICES[0], last), (fence.DEVICES[1], last)) == "its drive cannot be read"


def test_one_clone_that_cannot_be_stopped_does_not_save_the_others() -> None:
    dm = FakeDm("Fail")
    dm.broken = "hatchery-ephemeral-1"
    assert guard(dm)
    assert [name for name, _ in dm.reloaded] == ["hatchery-ephemeral-2"]


def test_the_fence_and_the_store_mean_the_same_devices() -> None:
    assert (fence.POOL, fence.DEVICES) == (fast.POOL, (fast.META, fast.DATA))
    assert names.uuid(names.layer(names.Layer.EPHEMERAL, 1)).startswith(fence.UUID_PREFIX)
