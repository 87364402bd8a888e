"""A process that is given bytes and answers with bytes, in a unit of its own where there is a service manager."""

import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO

from appliance.run import Runner

END_PATIENCE = 30.0
"""Seconds in which it has ended after its last byte."""


class Piped:
    """A process with its standard input and output. It never fills a pipe with what it complains of."""

    def __init__(self, runner: Runner, words: Sequence[str], unit: str | None = None) -> None:
        """``unit`` is that of systemd's in which ``words`` have it run; none: it is a child."""
        self._runner = runner
        self._unit = unit
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  its reader may outlive `stop`
        pipe = subprocess.PIPE
        self._process = runner.start(words, stdin=pipe, stdout=pipe, stderr=self._errors)
        popen = self._process.popen
        if popen.stdin is None or popen.stdout is None:
            raise AssertionError("unreachable: both were asked for")
        self.input: IO[bytes] = popen.stdin
        self.output: IO[bytes] = popen.stdout

    def end(self) -> str:
        """Wait for its end; why it failed, or nothing. Raises DeadlineExceeded."""
        status = self._process.wait(END_PATIENCE)
        if status == 0:
            return ""
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"it ended with status {status}"

    def stop(self) -> None:
        """End it. A reader in another thread gets what there is, and then the end."""
        if self._unit is not None and self._process.running():
            self._runner.run(["systemctl", "stop", self._unit], check=False)
        self._process.stop()
