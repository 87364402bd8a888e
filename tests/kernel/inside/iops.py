"""Requests a second of clones against those of the bare NVMe partition, measured with fio. Sizes in bytes.

The devices to compare take turns of a quarter of a second in one fio, so that what else the host does falls on all of
them; what counts is the median of the runs' ratios. The part of a device that is used was written before: a first write
to a block of a pool allocates it.
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

SLICE_MS = 250
"""How long a device is measured before it is the other one's turn."""

_OUT = Path("/dev/shm/iops.json")  # noqa: S108 - inside the lab


def requests_a_second(device: str, kind: str, *, offset: int = 0, seconds: int = 3) -> float:
    """4 KiB requests of one kind (``read``, ``randread``, ``randwrite``), 16 at a time, for some seconds on end."""
    (job,) = _fio(["one"], {"one": (device, offset)}, kind, seconds * 1000)
    return float(job["write" if kind == "randwrite" else "read"]["iops"])


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
    """Requests a second of each device (path and offset by name), ``runs`` times ``seconds`` of each."""
    found: dict[str, list[float]] = {name: [] for name in devices}
    slices = max(1, seconds * 1000 // SLICE_MS)
    for _ in range(runs):
        done = _fio(_turns(list(devices), slices), devices, kind, SLICE_MS)
        for name in devices:
            mine = [job["write" if kind == "randwrite" else "read"] for job in done if job["jobname"] == name]
            found[name].append(1000 * sum(part["total_ios"] for part in mine) / sum(part["runtime"] for part in mine))
    return found


def _turns(names: list[str], slices: int) -> list[str]:
    """Whose turn it is: there and back, so that what grows or shrinks meanwhile does not favour the first."""
    return [name for turn in range(slices) for name in (names if turn % 2 == 0 else names[::-1])]


def _fio(turns: list[str], devices: dict[str, tuple[str, int]], kind: str, each_ms: int) -> list[dict[str, Any]]:
    words = ["fio", "--output-format=json", f"--output={_OUT}", "--direct=1", "--ioengine=libaio", "--bs=4k"]
    words += ["--iodepth=16", "--time_based", f"--runtime={each_ms}ms", "--norandommap", "--randrepeat=0"]
    words += [f"--rw={kind}", f"--size={SPAN}"]
    for name in turns:
        path, offset = devices[name]
        words += [f"--name={name}", f"--filename={path}", f"--offset={offset}", "--stonewall"]
    Runner().run(words, timeout=len(turns) * (10 + each_ms // 1000) + 60)
    report: dict[str, list[dict[str, Any]]] = json.loads(_OUT.read_text(encoding="utf-8"))
    failed = [job["jobname"] for job in report["jobs"] if job["error"]]
    if failed or len(report["jobs"]) != len(turns):
        raise RuntimeError(f"fio failed on {failed}: {len(report['jobs'])} of {len(turns)} turns")
    return report["jobs"]
