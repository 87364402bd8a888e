"""What a removal plans, and which serial numbers it takes."""

import dataclasses
from pathlib import Path

import pytest

from appliance.config import BackendConfig, Config, NvmeConfig, Part, Paths, RaidLevel
from appliance.errors import InUse, InvalidInput, Refused
from appliance.host import units
from appliance.store import remove
from appliance.store.machine import Machine
from appliance.store.remove import (
    Drive,
    EraseMember,
    ErasePartitions,
    ForgetSettings,
    Looked,
    StopServices,
    TakeDown,
    Wish,
)
from appliance.store.setup import Doing
from tests.unit.plans import ID

OURS = ("hatchery-meta", "hatchery-cache", "hatchery-fast")
FILES = tuple(Path("/etc/hatchery/conf.d") / part.file_name for part in Part)
NVME = Drive(ID + "nvme-M_S0", frozenset({"S0", "M_S0"}), OURS, table=True)
DISKS = tuple(Drive(f"{ID}ata-M_S{n}", frozenset({f"S{n}"}), member=True) for n in (1, 2, 3))
STORE = Looked((NVME, *DISKS), ("hatcheryd.service",), ("hatchery-pool-durable", "md127"), (), FILES)
ALL = Wish(("S0", "S1", "S2", "S3"))


def test_all_goes_in_an_order_that_can_be_cut_off_anywhere() -> None:
    assert remove.plan(STORE, ALL) == (
        StopServices(STORE.services),
        TakeDown(STORE.standing),
        ForgetSettings((FILES[2],)),
        ErasePartitions(NVME.path, OURS, table=True),
        *(EraseMember(disk.path) for disk in DISKS),
        ForgetSettings((FILES[1], FILES[0])),
    )


def test_what_is_done_already_is_not_done_again() -> None:
    drives = (
        dataclasses.replace(NVME, ours=()),
        *(dataclasses.replace(disk, member=False) for disk in DISKS[:2]),
        DISKS[2],
    )
    rest = Looked(drives, settings=FILES[:2])
    assert remove.plan(rest, ALL) == (
        ErasePartitions(NVME.path, (), table=True),
        EraseMember(DISKS[2].path),
        ForgetSettings((FILES[1], FILES[0])),
    )
    assert remove.plan(Looked(), ALL) == ()
    # The last moment: the disks are no longer known, and their numbers are no mistake.
    last = Looked((dataclasses.replace(NVME, ours=(), table=False),), settings=FILES[:1])
    assert remove.plan(last, ALL) == (ForgetSettings((FILES[0],)),)


@pytest.mark.parametrize(
    ("serials", "words"),
    [
        ((), "not every drive"),
        (("S0", "S1", "S2"), "ata-M_S3"),
        (("S1", "S2", "S3"), "nvme-M_S0"),
        (("S0", "S1", "S2", "S3", "S4"), "S4 is no serial number"),
        (("S0", "S1", "S2", "S33"), "not every drive"),
    ],
)
def test_other_serial_numbers_are_refused(serials: tuple[str, ...], words: str) -> None:
    with pytest.raises(Refused, match=words):
        remove.plan(STORE, Wish(serials, lose_attached=True))


@pytest.mark.parametrize("serials", [("S0", "S1", "S2", "S3", "S3"), ("S0", "S1", "S2", "S3", "")])
def test_serial_numbers_are_words_that_differ(serials: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        remove.plan(STORE, Wish(serials))


def test_a_drive_that_is_missing_may_be_named_and_need_not() -> None:
    gone = Drive(DISKS[2].path)
    found = dataclasses.replace(STORE, drives=(NVME, *DISKS[:2], gone))
    for serials in (ALL.serials, ALL.serials[:-1]):
        assert EraseMember(gone.path) not in remove.plan(found, Wish(serials))
    with pytest.raises(Refused):
        remove.plan(found, Wish((*ALL.serials[:-1], "S9")))


def test_attached_clones_are_lost_only_when_that_is_said() -> None:
    found = dataclasses.replace(STORE, attached=("hatchery-clone-7",))
    with pytest.raises(InUse) as caught:
        remove.plan(found, ALL)
    assert caught.value.why == "hatchery-clone-7"
    assert remove.plan(found, dataclasses.replace(ALL, lose_attached=True)) == remove.plan(STORE, ALL)


def test_where_nothing_was_set_up_nothing_is_looked_at(tmp_path: Path) -> None:
    paths = Paths(etc=tmp_path, state=tmp_path, run=tmp_path)
    config = Config(NvmeConfig((ID + "x",)), BackendConfig(RaidLevel.RAID5, (ID + "y",)), paths=paths)
    for doing in Doing:
        assert remove.run(Machine(config), Wish(("S9",)), doing).changed is False


def test_services_that_run() -> None:
    text = "hatcheryd.service loaded active running Hatchery\nhatchery-nbd@a.service loaded active running NBD of a\n\n"
    assert units.parse_list_units(text) == ("hatcheryd.service", "hatchery-nbd@a.service")
    assert units.parse_list_units("") == ()
