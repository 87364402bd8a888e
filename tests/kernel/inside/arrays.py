"""The store's arrays from inside: how they are, members taken out, and steps that a growth must not disturb."""

import json
from pathlib import Path
from typing import Any

from appliance import config, wait
from appliance.host import bcache, block, md
from appliance.run import Runner
from appliance.store import backend, cache, cache_mirror, mirror
from appliance.store.machine import Machine


def look() -> dict[str, dict[str, Any]]:
    """The backend, the metadata mirror and, where there is one, the cache's mirror."""
    machine = Machine(config.load())
    found = {"backend": backend.running(machine.config.require_backend()), "meta": mirror.running(machine)}
    mirrored = cache_mirror.find(machine)
    if mirrored is not None:
        found["cache"] = mirrored
    return {
        name: {
            "places": array.raid_disks,
            "degraded": array.degraded,
            "policy": array.policy,
            "reshaping": array.reshaping,
            "action": array.sync_action,
            "size": array.device.size,
            "members": {member.name: sorted(member.state) for member in array.members},
        }
        for name, array in found.items()
    }


def whole(deadline: float = 100.0) -> None:
    """Wait until no array lacks a member or is being rearranged."""
    wait.until(
        lambda: all(array["degraded"] == 0 and not array["reshaping"] for array in look().values()),
        "the arrays to be whole",
        deadline=deadline,
        interval=0.2,
    )


def reshaped(deadline: float = 200.0) -> None:
    """Wait until the backend is not being rearranged any more."""
    wait.until(lambda: not look()["backend"]["reshaping"], "the reshape to end", deadline=deadline, interval=0.2)


def being_checked(deadline: float = 30.0) -> None:
    """Wait until the backend is being scrubbed."""
    wanted = Machine(config.load()).config.require_backend()
    wait.until(lambda: backend.running(wanted).sync_action == "check", "a scrub", deadline=deadline)


def slow_reshape(kib_per_second: int) -> None:
    """Let the backend take its time, so that something can happen meanwhile."""
    array = backend.running(Machine(config.load()).config.require_backend())
    for name in ("sync_speed_min", "sync_speed_max"):
        (array.device.sysfs / "md" / name).write_text(str(kib_per_second))


def lose(drive: str) -> None:
    """Throw the legs on this NVMe drive, a path, out of both mirrors; they keep what they hold."""
    name = Path(drive).resolve().name
    machine = Machine(config.load())
    for array in (mirror.running(machine), cache_mirror.find(machine)):
        for member in array.members if array is not None else ():
            device = block.by_name(member.name)
            if array is not None and device is not None and device.parent == name:
                Runner().run(["mdadm", "--manage", array.device.path, "--fail", device.path])


def dirty() -> bool:
    """Whether the cache holds what the backend does not have."""
    return cache.device(Machine(config.load())).state is bcache.State.DIRTY


def keep_dirty() -> None:
    """Let bcache write nothing back by itself."""
    (cache.device(Machine(config.load())).backing.sysfs / "bcache/writeback_running").write_text("0")


def mode() -> str:
    """The cache's mode on all backing devices."""
    found = {
        bcache.chosen((each.backing.sysfs / "bcache/cache_mode").read_text())
        for each in cache.devices(Machine(config.load()))
    }
    return " ".join(sorted(found))


def table(drive: str = "") -> str:
    """The partition table of the backend as the kernel's own check of it and sfdisk see it."""
    array = backend.running(Machine(config.load()).config.require_backend())
    done = Runner().run(["sfdisk", "--verify", array.device.path])
    dump = json.loads(Runner().run(["sfdisk", "--json", array.device.path]).stdout)
    parts = [part["name"] for part in dump["partitiontable"]["partitions"]]
    return f"{' '.join(parts)}: {done.stdout} {done.stderr}{drive}"


def switch_log(times: int) -> None:
    """Switch the backend's partial parity log off and on, as a growth does."""
    runner = Runner()
    for _ in range(times):
        for policy in (md.Consistency.RESYNC, md.Consistency.PPL):
            array = backend.running(Machine(config.load()).config.require_backend())
            md.set_consistency(runner, array, policy)
