"""4 KiB random reads a second of disks and exports, by fio, in turns, so that what else runs falls on all of them."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from appliance.run import Runner
from tests.kernel.inside.iops import SLICE_MS

COMPARED = (
    ("qd1", ("device", "unix"), 1),
    ("qd16", ("device", "unix"), 16),
    ("tls", ("plain", "tls"), 16),
)
"""What is compared: its name, the two targets, how many requests at a time."""


def take_turns(
    targets: Mapping[str, Sequence[str]], depth: int, runs: int, seconds: int, span: int, fio: Sequence[str] = ("fio",)
) -> dict[str, list[float]]:
    """Reads a second of each target, ``runs`` times ``seconds`` of each; a target is what fio is told of it.

    ``span`` is how much of each is read, in bytes; ``fio`` how it is started.
    """
    found: dict[str, list[float]] = {name: [] for name in targets}
    order = list(targets)
    turns = [
        name for turn in range(max(1, seconds * 1000 // SLICE_MS)) for name in (order if turn % 2 == 0 else order[::-1])
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "fio.json"
        words = [*fio, "--output-format=json", f"--output={out}", "--bs=4k", "--rw=randread", f"--iodepth={depth}"]
        words += ["--time_based", f"--runtime={SLICE_MS}ms", "--norandommap", "--randrepeat=0", f"--size={span}"]
        for name in turns:
            words += [f"--name={name}", *targets[name], "--stonewall"]
        for _ in range(runs):
            Runner().run(words, timeout=len(turns) * 15 + 60)
            jobs = json.loads(out.read_text(encoding="utf-8"))["jobs"]
            failed = [job["jobname"] for job in jobs if job["error"]]
            if failed or len(jobs) != len(turns):
                raise RuntimeError(f"fio failed on {failed}: {len(jobs)} of {len(turns)} turns")
            for name in targets:
                mine = [job["read"] for job in jobs if job["jobname"] == name]
                total, took = sum(part["total_ios"] for part in mine), sum(part["runtime"] for part in mine)
                found[name].append(1000 * total / took)
    return found
