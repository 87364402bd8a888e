"""Which disks may be taken."""

from dataclasses import replace

import pytest

from appliance.errors import InUse, Refused
from appliance.store import disks
from tests.unit.plans import EXT4, ID, NONE, disk, verbs


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
