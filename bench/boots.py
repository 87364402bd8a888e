"""``script/bench boots``: the demo with several cold starts, for figures that are more than one boot's luck."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from appliance.errors import Unhealthy
from bench import demo
from bench.report import Report, Row, ratio

PHASES = ("cold", "prefetched", "warm")

SUMMARY = "boot times, hit rates and amplification of cold, prefetched and warm clones, in QEMU (10 to 60 minutes)"


def options(parser: argparse.ArgumentParser) -> None:
    """Arguments of this bench."""
    parser.add_argument("--runs", type=int, default=3, help="how often to start with an empty cache (default: 3)")
    parser.add_argument(
        "--clones", type=int, default=3,
        help="how many clones to boot cold and warm each time, besides one with a prefetched cache (default: 3)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=demo.ROOT / "build" / "bench", metavar="DIR",
        help="where the demo's own results go (default: build/bench)",
    )  # fmt: skip


def measure(chosen: argparse.Namespace, tell: Callable[[str], None]) -> Report:
    """Run the demo and make rows of what it measured. Raises Unhealthy when it failed."""
    output: Path = chosen.output
    tell(f"running the demo; its results go to {output}")
    words = ["--runs", str(chosen.runs), "--clones", str(chosen.clones), "--output", str(output)]
    if demo.main(words) != 0:
        raise Unhealthy("the demo failed", hint=f"see {output / 'demo.log'}")
    return report(json.loads((output / "results.json").read_text(encoding="utf-8")))


def report(measured: Mapping[str, Any]) -> Report:
    """Rows of the results of ``hatchery measure boot --json-file``. Pure."""
    boots = {phase: [boot for boot in measured["boots"] if boot["phase"] == phase] for phase in PHASES}
    facts = measured["facts"]
    host = {name: str(facts[name]) for name in ("taken", "host", "guests", "appliance")}
    if not boots["cold"]:
        return Report("boots", host, ())
    times = "median boot time, from QEMU's start to the login prompt, of clones that never booted before"
    states = {"prefetched": "with the boot set fetched into an empty cache", "warm": "with a warm cache"}
    rows = []
    for phase in (phase for phase in states if boots[phase]):
        seconds = {name: [float(boot["seconds"]) for boot in boots[name]] for name in (phase, "cold")}
        read = {name: [float(boot["backend_bytes"]) for boot in boots[name]] for name in (phase, "cold")}
        rows += [
            Row(
                f"boot_{phase}_over_cold",
                ratio(seconds[phase], seconds["cold"]),
                "ratio",
                f"{times}, {states[phase]} over with an empty one",
                None,
                {f"{name}, s": found for name, found in seconds.items()},
            ),
            Row(
                f"backend_bytes_{phase}_over_cold",
                ratio(read[phase], read["cold"]),
                "ratio",
                "median of the bytes that a boot read from the backend, the same",
                None,
                {f"{name}, bytes": found for name, found in read.items()},
            ),
        ]
    return Report("boots", host, tuple(rows))
