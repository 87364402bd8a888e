"""Plans for the backend array: made, started, mended, grown."""

from dataclasses import replace
from typing import Any

import pytest

from appliance.config import BackendConfig, RaidLevel
from appliance.errors import InUse, NoSpace, NotReady, Refused
from appliance.host.block import Signature
from appliance.host.md import Array, Superblock
from appliance.host.partitions import Partition, Table
from appliance.model import GIB, KIB, MIB
from appliance.store import backend, grow, names
from appliance.store.backend import Backend
from appliance.store.disks import Disk
from appliance.store.grow import Grown
from tests.unit.plans import EXT4, GUID, ID, NONE, UUID, array, disk, verbs

DISKS = ("a", "b", "c")
BACKEND = BackendConfig(RaidLevel.RAID5, tuple(ID + name for name in DISKS))
META = 256 * MIB
BLOCK = 64 * KIB


def member(**changes: Any) -> Superblock:
    found = Superblock(UUID, "hatchery:backend", 5, 64 * KIB, 3, 20, 0, False, (0, 1, 2))
    return replace(found, **changes)


def backend_of(*found: Disk, **changes: Any) -> Backend:
    return replace(Backend(found, None, None), **changes)


def plan_backend(found: Backend, wipe: frozenset[str] = NONE, wanted: BackendConfig = BACKEND) -> list[str]:
    return verbs(backend.plan(wanted, wipe, found, META, BLOCK))


def members_of(**changes: Any) -> tuple[Disk, ...]:
    return tuple(disk(name, member=member(**changes), signatures=EXT4) for name in DISKS)


def test_fresh_disks_become_an_array() -> None:
    assert plan_backend(backend_of(*map(disk, DISKS))) == ["CreateBackend", "PartitionBackend"]


def test_an_array_that_runs_needs_nothing() -> None:
    found = backend_of(*members_of(), array=array("md127", *DISKS), table=Table(GUID, 0, GIB, ()))
    assert plan_backend(found) == []


def test_an_array_that_is_stopped_is_started() -> None:
    assert plan_backend(backend_of(*members_of()))[0] == "AssembleBackend"


def test_setup_that_ended_after_the_array_goes_on_with_its_table() -> None:
    assert plan_backend(backend_of(*members_of(), array=array("md127", *DISKS))) == ["PartitionBackend"]


def test_the_table_of_an_earlier_array_is_not_taken_for_ours() -> None:
    stale = Table("another-guid", 0, GIB, (Partition(names.PART_META, 0, 1), Partition(names.PART_DATA, 1, 1)))
    found = backend_of(*members_of(), array=array("md127", *DISKS), table=stale)
    assert plan_backend(found) == ["PartitionBackend"]


def test_setup_that_ended_while_superblocks_were_written_begins_again() -> None:
    half = (disk("a", member=member(events=0)), disk("b", member=member(events=0)), disk("c"))
    assert plan_backend(backend_of(*half)) == ["CreateBackend", "PartitionBackend"]


def test_a_replaced_disk_is_taken_in() -> None:
    running = array("md127", "a", "b", degraded=1)
    found = backend_of(*members_of()[:2], disk("c"), array=running, table=Table(GUID, 0, GIB, ()))
    assert plan_backend(found) == ["RejoinBackend"]
    foreign = replace(found, disks=(*found.disks[:2], disk("c", signatures=EXT4)))
    with pytest.raises(Refused):
        plan_backend(foreign)
    assert plan_backend(foreign, frozenset({"S-c"})) == ["WipeDisk", "RejoinBackend"]


def test_a_member_that_was_away_is_taken_back() -> None:
    found = backend_of(*members_of(), array=array("md127", "a", "b", degraded=1), table=Table(GUID, 0, GIB, ()))
    assert plan_backend(found) == ["RejoinBackend"]


def test_a_member_that_failed_and_answers_again_is_taken_back() -> None:
    def failed(*kernel_names: str) -> Array:
        found = array("md127", *kernel_names, degraded=1)
        *working, last = found.members
        return replace(found, members=(*working, replace(last, state=frozenset({"faulty"}), slot=None)))

    found = backend_of(*members_of(), array=failed("a", "b", "c"), table=Table(GUID, 0, GIB, ()))
    assert plan_backend(found) == ["RejoinBackend"]
    nodes = [path.rpartition("/")[2] for path in BACKEND.disks]
    steps = backend.plan_start(BACKEND, dict.fromkeys(BACKEND.disks, member()), failed(*nodes))
    assert steps == (backend.RejoinBackend(BACKEND.disks[2]),)


def test_a_new_disk_under_a_failed_ones_name_is_taken_while_the_array_still_has_that() -> None:
    whole = array("md127", *DISKS, degraded=1)
    failed = replace(
        whole, members=(*whole.members[:2], replace(whole.members[2], state=frozenset({"faulty"}), slot=None))
    )
    new = disk(DISKS[2], users=("part of md127",))
    table = Table(GUID, 0, GIB, ())
    assert plan_backend(backend_of(*members_of()[:2], new, array=failed, table=table)) == ["RejoinBackend"]
    with pytest.raises(InUse):
        plan_backend(backend_of(*members_of()[:2], new, array=whole, table=table))
    mounted = replace(new, users=(*new.users, "mounted at /srv"))
    with pytest.raises(InUse, match="mounted"):
        plan_backend(backend_of(*members_of()[:2], mounted, array=failed, table=table))
    with pytest.raises(Refused, match="not empty"):
        plan_backend(backend_of(*members_of()[:2], replace(new, signatures=EXT4), array=failed, table=table))


def test_a_foreign_disk_among_them_is_refused() -> None:
    with pytest.raises(Refused, match="not empty"):
        plan_backend(backend_of(disk("a"), disk("b", signatures=EXT4), disk("c")))


def test_members_of_another_array_are_foreign() -> None:
    other = Signature("linux_raid_member", 4096, "", "nas:data")
    found = [disk(name, member=member(name="nas:data"), signatures=(other,)) for name in DISKS]
    with pytest.raises(Refused, match="not empty"):
        plan_backend(backend_of(*found))


def test_an_array_that_differs_is_refused() -> None:
    for changes in ({"level": 1}, {"raid_disks": 4}, {"chunk": 128 * KIB}, {"level": 1, "raid_disks": 2}):
        with pytest.raises(Refused, match="different"):
            plan_backend(backend_of(*members_of(**changes)))
    mixed = (*members_of()[:2], disk("c", member=member(uuid="0" * 32)))
    with pytest.raises(Refused, match="different backend arrays"):
        plan_backend(backend_of(*mixed))


def test_impossible_backends() -> None:
    with pytest.raises(Refused, match="needs 4 disks"):
        plan_backend(backend_of(*map(disk, DISKS)), wanted=replace(BACKEND, level=RaidLevel.RAID6))
    with pytest.raises(NoSpace, match="metadata partition is too small"):
        plan_backend(backend_of(*(disk(name, size=4096 * GIB) for name in DISKS)))
    with pytest.raises(NoSpace, match="disks are too small"):
        plan_backend(backend_of(*(disk(name, size=100 * MIB) for name in DISKS)))


def test_disks_are_examined_before_there_is_an_nvme_drive() -> None:
    create, make = backend.plan(BACKEND, NONE, backend_of(*map(disk, DISKS)), 0, BLOCK)
    assert verbs((create, make)) == ["CreateBackend", "PartitionBackend"]
    assert "as large as the NVMe drive's" in str(make.describe())
    # Whether the metadata fit cannot be told yet.
    large = backend_of(*(disk(name, size=4096 * GIB) for name in DISKS))
    assert verbs(backend.plan(BACKEND, NONE, large, 0, BLOCK)) == ["CreateBackend", "PartitionBackend"]
    with pytest.raises(NoSpace, match="disks are too small"):
        backend.plan(BACKEND, NONE, backend_of(*(disk(name, size=100 * MIB) for name in DISKS)), 0, BLOCK)
    with pytest.raises(Refused, match="not empty"):
        backend.plan(BACKEND, NONE, backend_of(disk("a"), disk("b", signatures=EXT4), disk("c")), 0, BLOCK)


def test_disks_with_sectors_of_two_sizes_become_no_array() -> None:
    with pytest.raises(Refused, match="sectors of different sizes") as caught:
        plan_backend(backend_of(disk("a"), disk("b"), disk("c", logical_block=4096)))
    assert f"{ID}c: 4096 bytes" in caught.value.why
    running = array("md127", "a", "b", degraded=1)
    table = Table(GUID, 0, GIB, ())
    with pytest.raises(Refused, match="sectors of different sizes"):
        plan_backend(backend_of(*members_of()[:2], disk("c", logical_block=4096), array=running, table=table))
    # Those that are in the array already are left alone.
    mixed = (*members_of()[:2], replace(members_of()[2], logical_block=4096))
    assert plan_backend(backend_of(*mixed, array=array("md127", *DISKS), table=table)) == []


@pytest.mark.parametrize("stripe", [4096, 128 * KIB, 192 * KIB, 320 * KIB])
def test_both_partitions_begin_on_a_full_stripe(stripe: int) -> None:
    meta, data = backend.layout(20 * GIB, stripe, META)
    assert meta.start % stripe == data.start % stripe == data.size % stripe == 0
    assert meta.size == META
    assert meta.end <= data.start
    assert data.end <= 20 * GIB - MIB


def test_a_start_takes_what_is_there() -> None:
    all_three = {path: member() for path in BACKEND.disks}
    (step,) = backend.plan_start(BACKEND, all_three, None)
    assert step == backend.AssembleBackend(UUID, BACKEND.disks)
    two = dict(list(all_three.items())[:2])
    (step,) = backend.plan_start(BACKEND, two, None)
    assert step == backend.AssembleBackend(UUID, BACKEND.disks[:2])
    stray = {**two, BACKEND.disks[2]: member(uuid="0" * 32)}
    assert backend.plan_start(BACKEND, stray, None) == (step,)
    for nothing in ({}, {BACKEND.disks[0]: member(name="nas:data")}):
        with pytest.raises(NotReady, match="cannot start"):
            backend.plan_start(BACKEND, nothing, None)


# --- growing

FOUR = replace(BACKEND, disks=(*BACKEND.disks, ID + "d"))


def test_one_disk_more_makes_the_array_grow() -> None:
    running = array("md127", *DISKS)
    found = backend_of(*members_of(), disk("d"), array=running, table=Table(GUID, 0, GIB, ()))
    (step,) = backend.plan(FOUR, NONE, found, META, BLOCK)
    assert step == backend.GrowBackend((ID + "d",), 4)
    foreign = replace(found, disks=(*found.disks[:3], disk("d", signatures=EXT4)))
    with pytest.raises(Refused, match="not empty"):
        plan_backend(foreign, wanted=FOUR)
    assert plan_backend(foreign, frozenset({"S-d"}), FOUR) == ["WipeDisk", "GrowBackend"]
    # Cut off after the disk was added: it is a spare, and needs no wiping.
    spare = member(device_number=3, roles=(0, 1, 2, 0xFFFF))
    added = replace(found, disks=(*found.disks[:3], disk("d", member=spare, signatures=EXT4)))
    assert plan_backend(added, wanted=FOUR) == ["GrowBackend"]


def test_an_array_that_lacks_a_disk_does_not_grow() -> None:
    running = array("md127", "a", "b", degraded=1)
    for third in (disk("c"), disk("c", member=member(), signatures=EXT4)):
        found = backend_of(*members_of()[:2], third, disk("d"), array=running, table=Table(GUID, 0, GIB, ()))
        with pytest.raises(Refused, match="while it lacks a disk"):
            plan_backend(found, wanted=FOUR)


def test_a_growth_that_the_metadata_cannot_follow_is_refused_with_numbers() -> None:
    big = [disk(name, size=90 * GIB, member=member(), signatures=EXT4) for name in DISKS]
    found = backend_of(*big, disk("d", size=90 * GIB), array=array("md127", *DISKS), table=Table(GUID, 0, GIB, ()))
    with pytest.raises(NoSpace, match=r"256 MiB, but \d+ MiB are needed"):
        plan_backend(found, wanted=FOUR)


def test_a_mirror_does_not_grow() -> None:
    wanted = BackendConfig(RaidLevel.RAID1, FOUR.disks)
    with pytest.raises(Refused, match="different"):
        plan_backend(backend_of(*members_of(level=1), disk("d"), array=array("md127", *DISKS)), wanted=wanted)


PARTS = (Partition(names.PART_META, MIB, META), Partition(names.PART_DATA, META + 2 * MIB, 20 * GIB - META - 4 * MIB))


def grown(size: int, **changes: Any) -> Grown:
    running = array("md127", *DISKS, "d", policy="ppl")
    running = replace(running, device=replace(running.device, size=size), **changes)
    return Grown(running, Table(GUID, MIB, 20 * GIB, PARTS), FOUR.disks)


def test_a_growth_goes_on_where_it_was_cut_off() -> None:
    begun = grown(20 * GIB, raid_disks=3)
    assert grow.plan(FOUR, begun) == (backend.GrowBackend((ID + "d",), 4),)
    assert grow.plan(FOUR, replace(begun, inside=FOUR.disks[:3])) == (), "a disk that was not added by a command"
    assert grow.plan(FOUR, grown(20 * GIB, reshaping=True, policy="resync")) == ()
    assert verbs(grow.plan(FOUR, replace(grown(20 * GIB, reshaping=True), idle=True))) == ["ContinueGrowth"]
    assert verbs(grow.plan(FOUR, grown(20 * GIB, policy="resync"))) == ["RestoreLog"]
    assert verbs(grow.plan(FOUR, grown(30 * GIB, policy="resync"))) == ["RestoreLog", "AddData"]
    assert grow.plan(FOUR, grown(20 * GIB)) == ()


def test_the_new_space_follows_the_old_on_a_full_stripe() -> None:
    added = grow.space(FOUR, grown(30 * GIB))
    assert added is not None
    assert added.name == "hatchery-data-2"
    assert added.start >= PARTS[-1].end
    assert added.start % (192 * KIB) == 0
    assert 30 * GIB - 4 * MIB < added.end <= 30 * GIB - MIB
    foreign = replace(grown(30 * GIB), table=Table("other", MIB, GIB, PARTS))
    assert grow.space(FOUR, foreign) is None
