"""The product's own setup of the lab's disks."""

import json
from pathlib import Path

from appliance import wait
from appliance.run import Runner


def drives() -> list[str]:
    """The NVMe drives by their stable names."""
    return sorted(str(path) for path in Path("/dev/disk/by-id").glob("nvme-LAB_*"))


def disks() -> list[str]:
    """The backend's disks by their stable names."""
    return sorted(str(path) for path in Path("/dev/disk/by-id").glob("ata-LAB_*"))


def specs() -> dict[str, dict[str, object]]:
    """What the store is made of: the specification of each part."""
    return {
        "nvme": {"devices": drives()},
        "backend": {"level": "raid5", "disks": disks(), "chunk_kib": 64},
        "store": {"cache_mode": "writethrough", "block_kib": 64},
    }


def part(name: str, *options: str, **changes: object) -> dict[str, object]:
    """Set up one part with the program; returns its JSON answer. Raises CommandFailed."""
    spec = json.dumps({**specs()[name], **changes})
    done = Runner().run(["hatchery-store", "setup", name, "--spec", "-", "--json", *options], stdin=spec, timeout=180)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def everything() -> dict[str, dict[str, object]]:
    """Set up all parts, in order."""
    return {name: part(name) for name in specs()}


def in_sync() -> None:
    """Wait until no array is being synchronised, so that a test's timing and counters are its own."""

    def idle() -> bool:
        actions = [path.read_text().strip() for path in Path("/sys/block").glob("md*/md/sync_action")]
        return all(action in ("idle", "frozen") for action in actions)

    Path("/proc/sys/dev/raid/speed_limit_max").write_text("2000000")
    wait.until(idle, "the arrays to be in sync", deadline=230)
