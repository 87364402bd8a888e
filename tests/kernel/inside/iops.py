"""Requests a second of clones against those of the bare NVMe partition, measured with fio. Sizes in bytes.

Runs on the devices to compare take turns, so that what else the host does falls on all of them; what counts is the
median. The part of a device that is used was written before: a first write to a block of a pool allocates it.
"""

import json
from pathlib import Path
from typing import Any

from appliance import config
from appliance.host import block
from appliance.model import MIB
from appliance.run import Runner
from appliance.store import names, nvme

SPAN = 48 * MIB
"""How much of each device is read or written."""

_OUT = Path("/dev/shm/iops.json")  # noqa: S108 - inside the lab


def requests_a_second(device: str, kind: str, *, offset: int = 0, seconds: int = 3, size: int = SPAN) -> float:
    """4 KiB requests of one kind (``randread``, ``randwrite``), 16 at a time, for some seconds."""
    words = ["fio", "--output-format=json", f"--output={_OUT}", "--direct=1", "--ioengine=libaio", "--bs=4k"]
    words += [
        "--iodepth=16",
        "--time_based",
        f"--runtime={seconds}",
        "--ramp_time=1",
        "--norandommap",
        "--randrepeat=0",
    ]
    words += ["--name=job", f"--filename={device}", f"--rw={kind}", f"--offset={offset}", f"--size={size}"]
    Runner().run(words, timeout=seconds * 3 + 60)
    report: dict[str, Any] = json.loads(_OUT.read_text(encoding="utf-8"))
    (job,) = report["jobs"]
    if job["error"]:
        raise RuntimeError(f"fio: error {job['error']} on {device}")
    return float(job["read" if kind == "randread" else "write"]["iops"])


def fill(device: str, size: int = SPAN) -> None:
    """Write the part of the device that is measured, once."""
    words = ["fio", "--direct=1", "--ioengine=libaio", "--bs=256k", "--iodepth=4", "--name=fill", "--end_fsync=1"]
    Runner().run([*words, f"--filename={device}", "--rw=write", f"--size={size}"], timeout=300)


def bare_partition() -> tuple[str, int]:
    """The partition of the fast pool and an offset where the pool, which fills from its beginning, has nothing yet."""
    device = next((part.device for part in nvme.parts(config.load().require_nvme(), names.PART_FAST)), None)
    if device is None:
        raise RuntimeError("there is no fast partition")
    return str(block.get(device.path).path), device.size - SPAN - 4 * MIB


def take_turns(devices: dict[str, tuple[str, int]], kind: str, runs: int, seconds: int = 3) -> dict[str, list[float]]:
    """Requests a second of each device (path and offset by name), ``runs`` times in turn."""
    found: dict[str, list[float]] = {name: [] for name in devices}
    for _ in range(runs):
        for name, (path, offset) in devices.items():
            found[name].append(requests_a_second(path, kind, offset=offset, seconds=seconds))
    return found
