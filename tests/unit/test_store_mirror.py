"""Plans for the metadata mirror (rule 10)."""

from dataclasses import replace
from typing import Any

import pytest

from appliance.errors import NotReady, Refused
from appliance.host.md import Superblock
from appliance.host.partitions import Table
from appliance.model import GIB, MIB
from appliance.store import mirror
from appliance.store.mirror import Leg, Making, Mirror
from tests.unit.plans import GUID, UUID, array, verbs


def leg(device: str, number: int, **changes: Any) -> Leg:
    found = Superblock(UUID, "hatchery:meta", 1, 0, 2, 20, number, number == 1, (0, 1))
    return Leg(device, replace(found, **changes))


FAST, SLOW = leg("/dev/n1", 0), leg("/dev/md127p1", 1)
BLANK_FAST, BLANK_SLOW = Leg("/dev/n1", None), Leg("/dev/md127p1", None)
MINE = Table(GUID, 0, GIB, ())


def plan_mirror(found: Mirror, making: Making = Making.FORBIDDEN) -> list[str]:
    return verbs(mirror.plan(found, making, 0))


def test_a_new_mirror() -> None:
    found = Mirror((BLANK_FAST,), BLANK_SLOW, None, None)
    assert plan_mirror(found, Making.ALLOWED) == ["CreateMirror", "PartitionMirror"]
    with pytest.raises(NotReady):
        plan_mirror(found)


def test_a_mirror_starts_from_both_legs() -> None:
    (step,) = mirror.plan(Mirror((FAST,), SLOW, None, None), Making.FORBIDDEN, 0)
    assert step == mirror.AssembleMirror(UUID, ("/dev/n1", "/dev/md127p1"))


def test_a_mirror_never_starts_without_its_backend_leg() -> None:
    for slow in (Leg(None, None), BLANK_SLOW):
        with pytest.raises(NotReady, match="backend"):
            plan_mirror(Mirror((FAST,), slow, None, None))
    # Nor is it made anew over a leg that was in use.
    with pytest.raises(Refused, match="older"):
        plan_mirror(Mirror((FAST,), BLANK_SLOW, None, None), Making.ALLOWED)


def test_a_mirror_starts_without_nvme() -> None:
    (step,) = mirror.plan(Mirror((), SLOW, None, None), Making.FORBIDDEN, 0)
    assert step == mirror.AssembleMirror(UUID, ("/dev/md127p1",))


def test_a_stale_nvme_leg_is_brought_up_to_date() -> None:
    stale = leg("/dev/n1", 0, events=7)
    assert plan_mirror(Mirror((stale,), SLOW, None, None)) == ["AssembleMirror", "RejoinMirror"]


def test_a_backend_leg_that_went_on_alone_is_known_and_legs_come_back_last() -> None:
    gone_on = leg("/dev/md127p1", 1, roles=(0xFFFE, 1), events=30)
    found = Mirror((FAST,), gone_on, None, None)
    assert mirror.left_out(found)
    assert verbs(mirror.without_legs(mirror.plan(found, Making.FORBIDDEN, 0))) == ["AssembleMirror"]
    for other in (
        Mirror((FAST,), SLOW, None, None),
        Mirror((), gone_on, None, None),
        Mirror((BLANK_FAST,), gone_on, None, None),
        replace(found, array=array("md126", "n1", "md127p1")),
    ):
        assert not mirror.left_out(other), other


def test_an_nvme_leg_that_went_its_own_way_is_copied_over() -> None:
    fast = leg("/dev/n1", 0, roles=(0, 0xFFFE), events=90)
    slow = leg("/dev/md127p1", 1, roles=(0xFFFE, 1))
    (first, *rest) = mirror.plan(Mirror((fast,), slow, None, None), Making.FORBIDDEN, 0)
    assert first == mirror.AssembleMirror(UUID, ("/dev/md127p1",))
    assert verbs(tuple(rest)) == ["ForgetLeg", "RejoinMirror"]


def test_the_leg_of_another_mirror_is_not_used() -> None:
    steps = plan_mirror(Mirror((leg("/dev/n1", 0, uuid="0" * 32),), SLOW, None, None))
    assert steps == ["AssembleMirror", "ForgetLeg", "RejoinMirror"]


def test_a_running_mirror() -> None:
    whole = Mirror((FAST,), SLOW, array("md126", "n1", "md127p1"), MINE)
    assert plan_mirror(whole) == []
    assert plan_mirror(whole, Making.ALLOWED) == []
    half = replace(whole, array=array("md126", "md127p1", degraded=1))
    assert plan_mirror(half) == ["RejoinMirror"]
    lagging = replace(whole, array=array("md126", "n1", "md127p1", backlog=256))
    assert plan_mirror(lagging) == ["NoWriteBehind"]
    with pytest.raises(Refused, match="without its backend leg"):
        plan_mirror(replace(whole, array=array("md126", "n1", degraded=1)))


def test_a_new_nvme_drive_becomes_the_other_leg() -> None:
    running = array("md126", "md127p1", degraded=1)
    assert plan_mirror(Mirror((BLANK_FAST,), SLOW, running, MINE)) == ["RejoinMirror"]
    with pytest.raises(Refused, match="not empty"):
        plan_mirror(Mirror((Leg("/dev/n1", None, "ext4"),), SLOW, running, MINE))


def test_setup_of_the_mirror_goes_on() -> None:
    made = Mirror((leg("/dev/n1", 0, events=0),), leg("/dev/md127p1", 1, events=0), None, None)
    assert plan_mirror(made, Making.ALLOWED) == ["AssembleMirror"], "its table cannot be seen yet"
    assembled = replace(made, array=array("md126", "n1", "md127p1"))
    assert plan_mirror(assembled, Making.ALLOWED) == ["PartitionMirror"]
    one = Mirror((leg("/dev/n1", 0, events=0),), BLANK_SLOW, None, None)
    assert plan_mirror(one, Making.ALLOWED)[0] == "CreateMirror"
    stale = Mirror((FAST,), SLOW, array("md126", "n1", "md127p1"), replace(MINE, guid="other"))
    assert plan_mirror(stale, Making.ALLOWED) == ["PartitionMirror"]


def test_sizes_on_the_mirror() -> None:
    pool, state = mirror.layout(256 * MIB, 0)
    assert (pool.start, pool.end) == (MIB, state.start)
    assert state.size == 64 * MIB
    assert state.end <= 255 * MIB
    pool, state = mirror.layout(18 * GIB, 0)
    assert (pool.size <= 16 * GIB, state.size) == (True, 2 * GIB)
    with pytest.raises(Refused, match="too small"):
        mirror.layout(100 * MIB, 90 * MIB)


# --- two NVMe drives


def three(device: str, number: int, **changes: Any) -> Leg:
    return leg(device, number, **{"raid_disks": 3, "roles": (0, 1, 2), "write_mostly": number == 2, **changes})


ONE, TWO, BACK = three("/dev/n1", 0), three("/dev/m1", 1), three("/dev/md127p1", 2)


def test_a_new_mirror_of_three_legs() -> None:
    blank = Mirror((BLANK_FAST, Leg("/dev/m1", None)), BLANK_SLOW, None, None, 2)
    (first, second) = mirror.plan(blank, Making.ALLOWED, 0)
    assert first == mirror.CreateMirror(("/dev/n1", "/dev/m1"), "/dev/md127p1")
    assert verbs((second,)) == ["PartitionMirror"]
    with pytest.raises(NotReady):
        plan_mirror(replace(blank, fast=blank.fast[:1]), Making.ALLOWED)


@pytest.mark.parametrize("present", [(), (ONE,), (TWO,), (ONE, TWO)])
def test_three_legs_start_with_the_backends_and_never_without(present: tuple[Leg, ...]) -> None:
    (step,) = mirror.plan(Mirror(present, BACK, None, None, 2), Making.FORBIDDEN, 0)
    assert step == mirror.AssembleMirror(UUID, (*(str(one.device) for one in present), "/dev/md127p1"))
    for slow in (Leg(None, None), BLANK_SLOW):
        with pytest.raises(NotReady, match="backend"):
            plan_mirror(Mirror(present, slow, None, None, 2))


@pytest.mark.parametrize("number", [0, 1])
def test_a_stale_leg_of_two_is_brought_up_to_date_from_the_others(number: int) -> None:
    stale = three(("/dev/n1", "/dev/m1")[number], number, events=7)
    present = (stale, TWO) if number == 0 else (ONE, stale)
    steps = mirror.plan(Mirror(present, BACK, None, None, 2), Making.FORBIDDEN, 0)
    assert verbs(steps) == ["AssembleMirror", "RejoinMirror"]
    assert steps[1] == mirror.RejoinMirror(str(stale.device))


def test_a_leg_that_went_its_own_way_does_not_win_over_two_that_agree() -> None:
    alone = three("/dev/n1", 0, roles=(0, 0xFFFE, 0xFFFE), events=90)
    back = three("/dev/md127p1", 2, roles=(0xFFFE, 1, 2))
    steps = mirror.plan(Mirror((alone, TWO), back, None, None, 2), Making.FORBIDDEN, 0)
    assert steps[0] == mirror.AssembleMirror(UUID, ("/dev/m1", "/dev/md127p1"))
    assert verbs(steps[1:]) == ["ForgetLeg", "RejoinMirror"]


def test_a_second_drive_widens_a_mirror_that_runs() -> None:
    two = Mirror((FAST, Leg("/dev/m1", None)), SLOW, array("md126", "n1", "md127p1"), MINE, 2)
    assert plan_mirror(two) == ["RejoinMirror", "WidenMirror"]
    cut = replace(two, array=array("md126", "n1", "md127p1", "m1", raid_disks=2))
    assert plan_mirror(cut) == ["WidenMirror"]
    done = replace(two, array=array("md126", "n1", "md127p1", "m1"))
    assert plan_mirror(done) == []
    lost = replace(two, fast=(FAST,), array=array("md126", "n1", "md127p1", degraded=1))
    assert plan_mirror(lost) == []
