"""What the tests of the store's plans share: disks, arrays and names as they might be found."""

from dataclasses import replace
from typing import Any

from appliance.host.block import Device, Signature
from appliance.host.md import Array, Member
from appliance.model import GIB
from appliance.store.disks import Disk

NONE: frozenset[str] = frozenset()
ID = "/dev/disk/by-id/"
UUID = "6c0f5c75a514e460c84d94e9529906fc"
GUID = "6c0f5c75-a514-e460-c84d-94e9529906fc"
EXT4 = (Signature("ext4", 0x438, "", "photos"),)


def disk(name: str = "sda", **changes: Any) -> Disk:
    """A blank disk, but for ``changes``."""
    fresh = Disk(ID + name, name, 10 * GIB, 512, frozenset({f"S-{name}"}), (), (), False, None, None)
    return replace(fresh, **changes)


def array(name: str, *members: str, degraded: int = 0, state: str = "clean", **changes: Any) -> Array:
    """A running array of these members."""
    device = Device(name, "9:127", 20 * GIB, 512, None, 0)
    found = tuple(Member(each, frozenset({"in_sync"}), slot) for slot, each in enumerate(members))
    fresh = Array(device, UUID, "raid5", state, len(members) + degraded, degraded, "idle", None, None, found)
    return replace(fresh, **changes)


def verbs(steps: object) -> list[str]:
    """The names of a plan's steps."""
    assert isinstance(steps, tuple)
    return [type(step).__name__ for step in steps]
