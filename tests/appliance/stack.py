"""The store of an appliance as its system shows it: by lsblk, mdadm and sysfs, and by nothing of ours."""

import json
from dataclasses import dataclass
from typing import Any

from appliance.wait import until
from tests.appliance.site import Site

_LOOK = r"""
import json, pathlib, subprocess

def read(path):
    return path.read_text().strip() if path.exists() else ""

def said(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout

devices = said("lsblk", "--json", "--list", "--output=KNAME,PKNAME,TYPE,SERIAL,LOG-SEC,PARTLABEL")
arrays = []
for md in sorted(pathlib.Path("/sys/block").glob("md*/md")):
    detail = said("mdadm", "--detail", "--export", f"/dev/{md.parent.name}")
    words = ("level", "raid_disks", "degraded", "consistency_policy", "sync_action")
    arrays.append({
        "kname": md.parent.name,
        "detail": dict(line.split("=", 1) for line in detail.splitlines() if "=" in line),
        "sysfs": {word: read(md / word) for word in words},
        "members": {folder.name.removeprefix("dev-"): read(folder / "state") for folder in md.glob("dev-*")},
    })
caches = [
    {word: read(folder / word) for word in ("cache_mode", "state", "sequential_cutoff")}
    for folder in sorted(pathlib.Path("/sys/block").glob("bcache*/bcache"))
]
print(json.dumps({"devices": json.loads(devices)["blockdevices"], "arrays": arrays, "caches": caches}))
"""


@dataclass(frozen=True)
class Array:
    """An array: ``members`` are the serial numbers of the drives that it is on, of those that work in it."""

    level: str
    places: int
    degraded: int
    policy: str
    action: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Stack:
    """What there is. ``labels`` are the partitions' by their drive or array, ``sectors`` each drive's, in bytes."""

    arrays: dict[str, Array]
    caches: list[dict[str, str]]
    labels: dict[str, list[str]]
    sectors: dict[str, int]


NVME_LABELS = ["hatchery-meta", "hatchery-cache", "hatchery-fast"]
"""The partitions of each NVMe drive of a store."""


def cache_is(stack: Stack, mode: str) -> bool:
    """Whether there is one cached device, in this mode, with nothing that goes past the cache."""
    [cache] = stack.caches
    return f"[{mode}]" in cache["cache_mode"] and cache["sequential_cutoff"] in {"0", "0.0k"}


def look(site: Site) -> Stack:
    """Read the system."""
    found = json.loads(site.vm.ssh(["python3", "-c", _LOOK]).stdout)
    # A device is listed once for each that it lies on.
    devices = list({device["kname"]: device for device in found["devices"]}.values())
    parent = {device["kname"]: device["pkname"] for device in devices if device["type"] in {"part", "md"}}
    serial = {device["kname"]: device["serial"] for device in devices if device["serial"]}
    arrays = {each["detail"]["MD_NAME"].removeprefix("hatchery:"): each for each in found["arrays"]}
    owner = {**serial, **{each["kname"]: name for name, each in arrays.items()}}
    labels: dict[str, list[str]] = {}
    for device in devices:
        if device["partlabel"]:
            labels.setdefault(owner.get(device["pkname"], device["pkname"]), []).append(device["partlabel"])
    sectors = {serial[device["kname"]]: int(device["log-sec"]) for device in devices if device["serial"]}
    return Stack(
        {name: _array(each, parent, serial) for name, each in arrays.items()}, found["caches"], labels, sectors
    )


def _array(each: dict[str, Any], parent: dict[str, str], serial: dict[str, str]) -> Array:
    working = [member for member, state in each["members"].items() if "in_sync" in state and "faulty" not in state]
    drives = (parent.get(member, member) for member in working)
    return Array(
        each["sysfs"]["level"],
        int(each["sysfs"]["raid_disks"].split()[0]),
        int(each["sysfs"]["degraded"]),
        each["sysfs"]["consistency_policy"],
        each["sysfs"]["sync_action"],
        tuple(sorted(serial.get(drive, "an array") for drive in drives)),
    )


def at_rest(site: Site, deadline: float = 600) -> Stack:
    """Wait until all arrays are whole, and nothing is being copied in them."""
    last: list[Stack] = []

    def whole() -> bool:
        last[:] = [look(site)]
        return all(array.degraded == 0 and array.action == "idle" for array in last[0].arrays.values())

    site.vm.ssh(["sysctl", "-q", "-w", "dev.raid.speed_limit_min=500000"])
    until(whole, "the arrays to be whole", deadline=deadline, interval=2)
    print("found:", last[0])
    return last[0]
