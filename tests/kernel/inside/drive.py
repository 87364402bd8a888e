"""Load on clones while a drive dies below them, and what becomes of it. Sizes in bytes."""

import json
from pathlib import Path
from typing import Any

from appliance.model import MIB
from appliance.run import Runner

HALF = 32 * MIB
"""Load reads the first half of a volume, which is the template's, and writes the second."""

_OUT = Path("/dev/shm")  # noqa: S108 - inside the lab


def job(name: str, device: str, kind: str, *options: str) -> list[str]:
    """The arguments of one fio job."""
    return [f"--name={name}", f"--filename={device}", f"--rw={kind}", f"--size={HALF}", *options]


def load(devices: list[str], seconds: int, *options: str) -> dict[str, int]:
    """Read and write all devices at depth, errors counted and passed over; what was written is read back at the end.

    Returns the number of errors by ``R`` or ``W`` and the device's name.
    """
    output = _OUT / "fio.json"
    words = ["fio", "--output-format=json", f"--output={output}", "--direct=1", "--ioengine=libaio", "--bs=16k"]
    words += ["--continue_on_error=all", "--group_reporting=0", *options]
    for device in devices:
        name = Path(device).name
        reading = ("--iodepth=16", "--offset=0", "--time_based", f"--runtime={seconds}", "--thinktime=2ms")
        writing = ("--iodepth=4", f"--offset={HALF}", f"--rate_iops={HALF // 16384 // seconds}", "--verify=crc32c")
        words += job(f"R {name}", device, "randread", *reading)
        words += job(f"W {name}", device, "randwrite", *writing)
    done = Runner().run(words, timeout=seconds * 4 + 60, check=False)
    text = output.read_text(encoding="utf-8")
    begin = text.find('{\n  "fio version"')
    if begin < 0:
        raise RuntimeError(f"fio ended with {done.returncode} and no report\n{text[-2000:]}\n{done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(text[begin:])
    return {found["jobname"]: int(found["total_err"]) for found in report["jobs"]}


def requests(device: str) -> int:
    """Requests that the device has answered so far."""
    stat = Path("/sys/block") / Path(device).resolve().name / "stat"
    fields = stat.read_text(encoding="ascii").split()
    return int(fields[0]) + int(fields[4])
