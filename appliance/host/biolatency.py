"""``biolatency-libbpf -D``: latency histograms of whole disks, from the block tracepoints by eBPF.

It runs in a unit of its own, which has the privileges that it takes and no others; its output is in a file.

The parser reads what BCC's libbpf-tools/biolatency prints: for each disk a line ``disk = NAME`` and rows
``LOW -> HIGH : COUNT |****|``, in microseconds.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from appliance.errors import CannotTell, CommandFailed, NotReady
from appliance.host.units import booted_with_systemd
from appliance.model import Histogram
from appliance.run import Runner

PROGRAM = "biolatency-libbpf"

UNIT = "hatchery-latencies.service"

BTF = Path("/sys/kernel/btf/vmlinux")
"""The kernel's type information, without which the program does not know what it looks at."""

OUTPUT = Path("/run/hatchery/latencies")
"""What the program printed; the unit's file names it too."""

_DISK = re.compile(r"^disk = (\S+)")
_ROW = re.compile(r"^\s*(\d+)\s*->\s*(\d+)\s*:\s*(\d+)\s*\|")


def parse(text: str) -> Mapping[str, Histogram]:
    """The histograms by disk. Raises CannotTell when a row is not a power of two."""
    counts: dict[str, list[int]] = {}
    disk = ""
    for line in text.splitlines():
        if found := _DISK.match(line):
            disk = found.group(1)
        elif row := _ROW.match(line):
            low, high, count = (int(group) for group in row.groups())
            slot = max(low, 1).bit_length() - 1
            if high != (2 << slot) - 1:
                raise CannotTell(f"{PROGRAM} printed a row that is not a power of two", why=line.strip())
            row_counts = counts.setdefault(disk, [])
            row_counts.extend([0] * (slot + 1 - len(row_counts)))
            row_counts[slot] += count
    return {name: Histogram(tuple(values)) for name, values in counts.items() if name}


class Biolatency:
    """One running measurement."""

    def __init__(self, runner: Runner, output: Path = OUTPUT) -> None:
        self._runner = runner
        self._output = output

    @classmethod
    def start(cls, runner: Runner) -> "Biolatency":
        """Begin. Raises NotReady when the program cannot be started or the kernel cannot be traced."""
        if not BTF.exists():
            raise NotReady("disks have no histograms here", why="the kernel has no BTF type information for eBPF")
        if not booted_with_systemd():
            raise NotReady("disks have no histograms here", why=f"{UNIT} needs systemd")
        try:
            # One that a former process left counts from now on too.
            runner.run(["systemctl", "restart", UNIT])
        except CommandFailed as error:
            raise NotReady("disks have no histograms", why=error.why, hint=f"see `journalctl -u {UNIT}`") from error
        return cls(runner)

    def stop(self) -> Mapping[str, Histogram]:
        """End it and return what it counted, by disk. Raises CannotTell."""
        try:
            if self._runner.run(["systemctl", "is-active", UNIT], check=False).returncode != 0:
                raise CannotTell(
                    f"{PROGRAM} ended by itself", why="its own log says why", hint=f"see `journalctl -u {UNIT}`"
                )
            # It is sent SIGINT and prints; this returns when it has ended.
            self._runner.run(["systemctl", "stop", UNIT])
            return parse(self._output.read_text(encoding="utf-8", errors="replace"))
        except (CommandFailed, OSError) as error:
            raise CannotTell(f"what {PROGRAM} counted cannot be read", why=str(error)) from error
