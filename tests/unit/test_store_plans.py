"""Plans of the store: pure functions from what is wanted and what was found to steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.config import BackendConfig, CacheMode, NvmeConfig, Part, RaidLevel
from appliance.errors import InUse, InvalidInput, NoSpace, NotReady, Refused, Unhealthy
from appliance.host import bcache, md
from appliance.host.bcache import BackingState, Cached, State
from appliance.host.block import Device, Signature
from appliance.host.md import Array, Member, Superblock
from appliance.host.partitions import Partition, Table
from appliance.model import GIB, KIB, MIB
from appliance.store import backend, cache, disks, durable, mirror, names, nvme, setup
from appliance.store.backend import Backend
from appliance.store.cache import Cache, Side
from appliance.store.disks import Disk
from appliance.store.durable import Durable
from appliance.store.mirror import Leg, Making, Mirror

NONE: frozenset[str] = frozenset()
ID = "/dev/disk/by-id/"
UUID = "6c0f5c75a514e460c84d94e9529906fc"
GUID = "6c0f5c75-a514-e460-c84d-94e9529906fc"
EXT4 = (Signature("ext4", 0x438, "", "photos"),)


def disk(name: str = "sda", **changes: Any) -> Disk:
    fresh = Disk(ID + name, name, 10 * GIB, 512, frozenset({f"S-{name}"}), (), (), False, None, None)
    return replace(fresh, **changes)


def verbs(steps: object) -> list[str]:
    assert isinstance(steps, tuple)
    return [type(step).__name__ for step in steps]


# --- disks


def test_a_blank_disk_is_taken_as_it_is() -> None:
    assert disks.take(disk(), NONE) == ()


def test_foreign_content_is_refused_and_named() -> None:
    with pytest.raises(Refused) as caught:
        disks.take(disk(signatures=EXT4), frozenset({"S-other"}))
    assert "photos" in caught.value.why
    assert "S-sda" in caught.value.hint


def test_foreign_content_is_wiped_when_the_serial_is_given() -> None:
    assert verbs(disks.take(disk(signatures=EXT4), frozenset({"S-sda"}))) == ["WipeDisk"]


@pytest.mark.parametrize("wipe", [NONE, frozenset({"S-sda"})])
def test_a_disk_in_use_and_the_systems_are_never_taken(wipe: frozenset[str]) -> None:
    with pytest.raises(InUse, match="/mnt"):
        disks.take(disk(users=("mounted at /mnt",)), wipe)
    with pytest.raises(Refused, match="system"):
        disks.take(disk(system=True), wipe)


def test_one_disk_under_two_names_is_refused() -> None:
    with pytest.raises(Refused, match="one disk"):
        disks.refuse_twice([disk(), replace(disk(), path=ID + "other")])


# --- the cache drive


def ours() -> Table:
    found = (
        Partition(names.PART_META, MIB, 256 * MIB, "1"),
        Partition(names.PART_CACHE, 257 * MIB, GIB, "2"),
        Partition(names.PART_FAST, 257 * MIB + GIB, GIB, "3"),
    )
    return Table("t", MIB, 10 * GIB - MIB, found)


KNOWN = frozenset({names.PART_META, names.PART_CACHE, names.PART_FAST})
NVME = NvmeConfig((ID + "nvme",))


def test_a_fresh_drive_gets_a_new_table() -> None:
    (step,) = nvme.plan(NVME, NONE, disk("nvme"), NONE)
    assert isinstance(step, nvme.CreatePartitions)
    assert step.place is nvme.Place.NEW_TABLE
    assert [part.name for part in step.partitions] == [names.PART_META, names.PART_CACHE, names.PART_FAST]
    assert step.partitions[0].size == 256 * MIB
    for first, second in zip(step.partitions, step.partitions[1:], strict=False):
        assert first.end == second.start
    assert all(part.start % MIB == 0 and part.size % MIB == 0 for part in step.partitions)
    assert step.partitions[-1].end <= 10 * GIB - MIB


def test_a_drive_that_is_ours_needs_nothing() -> None:
    assert nvme.plan(NVME, NONE, disk("nvme", table=ours(), users=("part of md126",)), KNOWN) == ()
    assert verbs(nvme.plan(NVME, NONE, disk("nvme", table=ours()), NONE)) == ["TellKernel"]


def test_a_different_size_is_refused() -> None:
    with pytest.raises(Refused, match="hatchery-meta"):
        nvme.plan(replace(NVME, meta_bytes=GIB), NONE, disk("nvme", table=ours()), KNOWN)


def test_the_system_drives_free_space_is_used_and_nothing_else() -> None:
    system = Table("t", MIB, 10 * GIB - MIB, (Partition("esp", MIB, 511 * MIB), Partition("root", 512 * MIB, 2 * GIB)))
    found = disk("nvme", table=system, system=True, users=("mounted at /",), signatures=EXT4)
    (step,) = nvme.plan(NVME, frozenset({"S-nvme"}), found, NONE)
    assert isinstance(step, nvme.CreatePartitions)
    assert step.place is nvme.Place.FREE_SPACE
    assert step.partitions[0].start >= 512 * MIB + 2 * GIB


def test_a_foreign_table_is_refused_even_with_free_space() -> None:
    foreign = Table("t", MIB, 10 * GIB, (Partition("windows", MIB, GIB),))
    with pytest.raises(Refused, match="not empty"):
        nvme.plan(NVME, NONE, disk("nvme", table=foreign), NONE)
    assert verbs(nvme.plan(NVME, frozenset({"S-nvme"}), disk("nvme", table=foreign), NONE)) == [
        "WipeDisk",
        "CreatePartitions",
    ]


def test_some_of_our_partitions_are_refused() -> None:
    table = replace(ours(), partitions=ours().partitions[:1])
    with pytest.raises(Refused, match="not all"):
        nvme.plan(NVME, NONE, disk("nvme", table=table), KNOWN)


def test_a_drive_that_is_too_small_and_two_drives() -> None:
    with pytest.raises(NoSpace, match="too little"):
        nvme.plan(NVME, NONE, disk("nvme", size=512 * MIB), NONE)
    with pytest.raises(Refused, match="2 NVMe"):
        nvme.single(NvmeConfig((ID + "a", ID + "b")))


# --- the backend

DISKS = ("a", "b", "c")
BACKEND = BackendConfig(RaidLevel.RAID5, tuple(ID + name for name in DISKS))
META = 256 * MIB
BLOCK = 64 * KIB


def member(**changes: Any) -> Superblock:
    found = Superblock(UUID, "hatchery:backend", 5, 64 * KIB, 3, 20, 0, False, (0, 1, 2))
    return replace(found, **changes)


def array(name: str, *members: str, degraded: int = 0, state: str = "clean", backlog: int | None = None) -> Array:
    device = Device(name, "9:127", 20 * GIB, 512, None, 0)
    found = tuple(Member(each, frozenset({"in_sync"}), slot) for slot, each in enumerate(members))
    return Array(device, UUID, "raid5", state, 3, degraded, "idle", None, backlog, found)


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


def test_a_foreign_disk_among_them_is_refused() -> None:
    with pytest.raises(Refused, match="not empty"):
        plan_backend(backend_of(disk("a"), disk("b", signatures=EXT4), disk("c")))


def test_members_of_another_array_are_foreign() -> None:
    other = Signature("linux_raid_member", 4096, "", "nas:data")
    found = [disk(name, member=member(name="nas:data"), signatures=(other,)) for name in DISKS]
    with pytest.raises(Refused, match="not empty"):
        plan_backend(backend_of(*found))


def test_an_array_that_differs_is_refused() -> None:
    for changes in ({"level": 1}, {"raid_disks": 4}, {"chunk": 128 * KIB}):
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


# --- the mirror


def leg(device: str, number: int, **changes: Any) -> Leg:
    found = Superblock(UUID, "hatchery:meta", 1, 0, 2, 20, number, number == 1, (0, 1))
    return Leg(device, replace(found, **changes))


FAST, SLOW = leg("/dev/n1", 0), leg("/dev/md127p1", 1)
BLANK_FAST, BLANK_SLOW = Leg("/dev/n1", None), Leg("/dev/md127p1", None)
MINE = Table(GUID, 0, GIB, ())


def plan_mirror(found: Mirror, making: Making = Making.FORBIDDEN) -> list[str]:
    return verbs(mirror.plan(found, making, 0))


def test_a_new_mirror() -> None:
    found = Mirror(BLANK_FAST, BLANK_SLOW, None, None)
    assert plan_mirror(found, Making.ALLOWED) == ["CreateMirror", "PartitionMirror"]
    with pytest.raises(NotReady):
        plan_mirror(found)


def test_a_mirror_starts_from_both_legs() -> None:
    (step,) = mirror.plan(Mirror(FAST, SLOW, None, None), Making.FORBIDDEN, 0)
    assert step == mirror.AssembleMirror(UUID, ("/dev/n1", "/dev/md127p1"))


def test_a_mirror_never_starts_without_its_backend_leg() -> None:
    for slow in (Leg(None, None), BLANK_SLOW):
        with pytest.raises(NotReady, match="backend"):
            plan_mirror(Mirror(FAST, slow, None, None))
    # Nor is it made anew over a leg that was in use.
    with pytest.raises(Refused, match="older"):
        plan_mirror(Mirror(FAST, BLANK_SLOW, None, None), Making.ALLOWED)


def test_a_mirror_starts_without_nvme() -> None:
    (step,) = mirror.plan(Mirror(Leg(None, None), SLOW, None, None), Making.FORBIDDEN, 0)
    assert step == mirror.AssembleMirror(UUID, ("/dev/md127p1",))


def test_a_stale_nvme_leg_is_brought_up_to_date() -> None:
    stale = leg("/dev/n1", 0, events=7)
    assert plan_mirror(Mirror(stale, SLOW, None, None)) == ["AssembleMirror", "RejoinMirror"]


def test_an_nvme_leg_that_went_its_own_way_is_copied_over() -> None:
    fast = leg("/dev/n1", 0, roles=(0, 0xFFFE), events=90)
    slow = leg("/dev/md127p1", 1, roles=(0xFFFE, 1))
    (first, *rest) = mirror.plan(Mirror(fast, slow, None, None), Making.FORBIDDEN, 0)
    assert first == mirror.AssembleMirror(UUID, ("/dev/md127p1",))
    assert verbs(tuple(rest)) == ["ForgetLeg", "RejoinMirror"]


def test_the_leg_of_another_mirror_is_not_used() -> None:
    steps = plan_mirror(Mirror(leg("/dev/n1", 0, uuid="0" * 32), SLOW, None, None))
    assert steps == ["AssembleMirror", "ForgetLeg", "RejoinMirror"]


def test_a_running_mirror() -> None:
    whole = Mirror(FAST, SLOW, array("md126", "n1", "md127p1"), MINE)
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
    assert plan_mirror(Mirror(BLANK_FAST, SLOW, running, MINE)) == ["RejoinMirror"]
    with pytest.raises(Refused, match="not empty"):
        plan_mirror(Mirror(Leg("/dev/n1", None, "ext4"), SLOW, running, MINE))


def test_setup_of_the_mirror_goes_on() -> None:
    made = Mirror(leg("/dev/n1", 0, events=0), leg("/dev/md127p1", 1, events=0), None, None)
    assert plan_mirror(made, Making.ALLOWED) == ["AssembleMirror", "PartitionMirror"]
    one = Mirror(leg("/dev/n1", 0, events=0), BLANK_SLOW, None, None)
    assert plan_mirror(one, Making.ALLOWED)[0] == "CreateMirror"
    stale = Mirror(FAST, SLOW, array("md126", "n1", "md127p1"), replace(MINE, guid="other"))
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


# --- the cache

SET = "aaa4f3e0-e576-4140-8450-8be7c240efca"
CACHE_SB = bcache.Superblock("u", SET, 512, 0, None)
BACKING_SB = bcache.Superblock("v", SET, 512, MIB, BackingState.CLEAN)
RUNNING = Cached(Device("bcache0", "252:0", GIB, 512, None, 0), Device("md127p2", "259:1", GIB, 512, "md127", 0),
                 State.CLEAN, SET)  # fmt: skip
FULL = Cache(Side("/dev/n2", CACHE_SB, True, "", SET), Side("/dev/md127p2", BACKING_SB, True), RUNNING, ())


def plan_cache(found: Cache, making: Making = Making.FORBIDDEN) -> list[str]:
    return verbs(cache.plan(found, making, CacheMode.WRITETHROUGH))


def test_a_new_cache() -> None:
    blank = Cache(Side("/dev/n2", None, False, "", SET), Side("/dev/md127p2", None, False), None, ())
    assert plan_cache(blank, Making.ALLOWED) == [
        "MakeCache",
        "MakeBacking",
        "Register",
        "Register",
        "Attach",
        "ApplySettings",
    ]
    with pytest.raises(NotReady):
        plan_cache(blank)
    with pytest.raises(Refused, match="ext4"):
        plan_cache(replace(blank, backing=replace(blank.backing, kind="ext4")), Making.ALLOWED)


def test_a_cache_that_runs_needs_nothing_but_right_settings() -> None:
    assert plan_cache(FULL) == []
    assert plan_cache(replace(FULL, settings=("sequential_cutoff is 4.0M instead of 0",))) == ["ApplySettings"]


def test_a_cache_starts() -> None:
    off = replace(
        FULL, cache=replace(FULL.cache, registered=False), backing=replace(FULL.backing, registered=False), cached=None
    )
    assert plan_cache(off) == ["Register", "Register", "Attach", "ApplySettings"]


def test_without_nvme_the_backend_serves_alone() -> None:
    off = replace(FULL, cache=Side(None, None, False), backing=replace(FULL.backing, registered=False), cached=None)
    assert plan_cache(off) == ["Register", "RunWithoutCache", "ApplySettings"]


def test_a_cache_set_that_does_not_belong_to_its_partition_is_not_used() -> None:
    stale = replace(FULL, cache=replace(FULL.cache, guid="another", registered=False), cached=None)
    assert "Attach" not in plan_cache(stale)
    assert "RunWithoutCache" in plan_cache(stale)


def test_a_cache_that_returns_is_attached() -> None:
    lost = replace(FULL, cached=replace(RUNNING, state=State.NO_CACHE, set_uuid=None))
    assert plan_cache(lost) == ["Attach", "ApplySettings"]


# --- state and pool

DOWN = Durable(names.STATE_LABEL, "", False, False, False, False, False)


def test_the_state_file_system() -> None:
    assert verbs(durable.plan_state(DOWN, Making.FORBIDDEN, "/d", "/t")) == ["MountState"]
    assert durable.plan_state(replace(DOWN, mounted=True), Making.FORBIDDEN, "/d", "/t") == ()
    blank = replace(DOWN, label="")
    assert verbs(durable.plan_state(blank, Making.ALLOWED, "/d", "/t")) == ["MakeState", "MountState"]
    with pytest.raises(NotReady):
        durable.plan_state(blank, Making.FORBIDDEN, "/d", "/t")
    with pytest.raises(Refused, match="xfs"):
        durable.plan_state(replace(blank, foreign="xfs"), Making.ALLOWED, "/d", "/t")


def test_the_pool_is_checked_only_after_a_stop_that_was_not_clean() -> None:
    up = replace(DOWN, mounted=True)
    assert verbs(durable.plan_pool(up, "/m", "/t")) == ["CheckMetadata", "ActivateData", "ActivatePool"]
    assert verbs(durable.plan_pool(replace(up, clean=True), "/m", "/t")) == ["ActivateData", "ActivatePool"]
    assert verbs(durable.plan_pool(replace(up, blank_metadata=True), "/m", "/t")) == ["ActivateData", "ActivatePool"]
    assert verbs(durable.plan_pool(replace(up, clean=True, data=True), "/m", "/t")) == ["ActivatePool"]
    assert durable.plan_pool(replace(up, data=True, pool=True), "/m", "/t") == ()


def test_metadata_that_was_used_and_is_blank_is_damage() -> None:
    gone = replace(DOWN, mounted=True, blank_metadata=True, used=True)
    for found in (gone, replace(gone, clean=True)):
        with pytest.raises(Unhealthy, match=r"gone.*hatchery-store repair"):
            durable.plan_pool(found, "/m", "/t")


# --- specifications and names


def test_specifications() -> None:
    spec = setup.parse_spec(Part.NVME, {"devices": [ID + "x"], "meta_bytes": None, "wipe": ["S1"]})
    assert spec == setup.Spec(NvmeConfig((ID + "x",)), frozenset({"S1"}))
    for part, values in (
        (Part.NVME, []),
        (Part.NVME, {"devices": ["/dev/sda"]}),
        (Part.NVME, {"devices": [ID + "x"], "wipe": "S1"}),
        (Part.BACKEND, {"level": "raid5", "disks": [ID + "x"], "chunk_kib": 48}),
        (Part.STORE, {"block_kib": 100}),
        (Part.STORE, {"cache_mode": "writearound"}),
    ):
        with pytest.raises(InvalidInput):
            setup.parse_spec(part, values)
    with pytest.raises(Refused, match="writeback"):
        setup.parse_spec(Part.STORE, {"cache_mode": "writeback"})


def test_a_settings_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "conf.d" / "10-nvme.toml"
    setup.write_file(target, "one\n")
    setup.write_file(target, "two\n")
    assert target.read_text() == "two\n"
    assert [path.name for path in target.parent.iterdir()] == ["10-nvme.toml"]


def test_names() -> None:
    assert names.layer(names.Layer.CLONE, 7) == "hatchery-clone-7"
    assert names.uuid("hatchery-clone-7") == "HATCHERY-clone-7"
    assert names.parse_layer("hatchery-thin-12") == (names.Layer.THIN, 12)
    for other in ("hatchery-pool-durable", "hatchery-thin-x", "vg-thin-1", "hatchery-other-1"):
        assert names.parse_layer(other) is None
    with pytest.raises(InvalidInput):
        names.layer(names.Layer.THIN, 1 << 24)


def test_mdadm_makes_what_was_asked() -> None:
    raid5 = md.NewArray("backend", "hatchery", "raid5", 64, md.Consistency.PPL, (Path("/a"), Path("/b"), Path("/c")))
    words = [str(word) for word in md.create_command(raid5)]
    assert "--consistency-policy=ppl" in words
    assert "--assume-clean" not in words
    legs = md.NewArray("meta", "hatchery", "raid1", 0, md.Consistency.BITMAP, (Path("/a"),), (Path("/b"),))
    words = [str(word) for word in md.create_command(legs)]
    assert words[-3:] == ["/a", "--write-mostly", "/b"]
    assert "--bitmap=internal" in words
    assert not any("write-behind" in word for word in words)
