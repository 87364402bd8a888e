"""``biolatency-libbpf -D``: latency histograms of whole disks, from the block tracepoints by eBPF.

The parser reads what BCC's libbpf-tools/biolatency prints: for each disk a line ``disk = NAME`` and rows
``LOW -> HIGH : COUNT |****|``, in microseconds.
"""

import re
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from appliance.errors import CannotTell, DeadlineExceeded, NotReady
from appliance.model import Histogram
from appliance.run import Process, Runner

PROGRAM = "biolatency-libbpf"

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

    def __init__(self, process: Process, output: IO[bytes], errors: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self._errors = errors

    @classmethod
    def start(cls, runner: Runner) -> "Biolatency":
        """Begin. Raises NotReady when the program is not installed or the kernel cannot be traced."""
        if not Path("/sys/kernel/btf/vmlinux").exists():
            raise NotReady("disks have no histograms here", why="the kernel has no BTF type information for eBPF")
        output = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop
        errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by stop
        try:
            return cls(runner.start([PROGRAM, "-D"], stdout=output, stderr=errors), output, errors)
        except NotReady:
            output.close()
            errors.close()
            raise

    def stop(self) -> Mapping[str, Histogram]:
        """End it and return what it counted, by disk. Raises CannotTell."""
        try:
            self._process.signal(signal.SIGINT)
            try:
                status = self._process.wait(15)
            except DeadlineExceeded as error:
                raise CannotTell(f"{PROGRAM} does not end") from error
            self._output.seek(0)
            self._errors.seek(0)
            if status != 0:
                why = self._errors.read().decode(errors="replace").strip()
                raise CannotTell(f"{PROGRAM} failed with status {status}", why=why)
            return parse(self._output.read().decode(errors="replace"))
        finally:
            self._process.stop(1)
            self._output.close()
            self._errors.close()
