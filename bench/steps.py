"""The steps of a long job, each with its time, told as lines; and child programs whose output is shown and kept."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import CommandFailed
from appliance.run import Runner

GRACE = 90.0
"""Seconds that a child may take to clean up when it is told to end."""


def clock(seconds: float) -> str:
    """A span of time for people: ``3:07``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


class Steps:
    """Tells what goes on: to standard error, and to a log file that also gets all that child programs say."""

    def __init__(self, log: Path) -> None:
        self._begin = time.monotonic()
        self._log = log.open("w", encoding="utf-8")
        self.taken: list[tuple[str, float]] = []
        """The finished steps with their seconds."""

    def close(self) -> None:
        """End the log."""
        self._log.close()

    @property
    def elapsed(self) -> float:
        """Seconds since the first step."""
        return time.monotonic() - self._begin

    def tell(self, text: str) -> None:
        """One line, with the time since the start."""
        line = f"[{clock(self.elapsed):>5}] {text}"
        print(line, file=sys.stderr, flush=True)
        self.keep(line)

    def keep(self, line: str) -> None:
        """A line for the log file alone."""
        self._log.write(line + "\n")
        self._log.flush()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step: told when it begins and when it is done, with what it took."""
        begin = time.monotonic()
        self.tell(f"{name} ...")
        yield
        took = time.monotonic() - begin
        self.taken.append((name, took))
        self.tell(f"{name}: done in {clock(took)}")

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str],
        shown: Callable[[str], str | None] = lambda line: line,
        separate_errors: bool = False,
    ) -> str:
        """Run a child program to its end and return its standard output.

        ``shown`` makes what is told of a line of its output, None for nothing; the log gets every line. With
        ``separate_errors`` only its standard error is told and standard output is just returned. However this ends,
        the child has ended first. Raises CommandFailed with its last lines.
        """
        runner = Runner(env=env)
        words = [str(word) for word in argv]
        watched, writer = os.pipe()
        with (
            os.fdopen(watched, encoding="utf-8", errors="replace") as lines,
            tempfile.TemporaryFile() as output,
        ):
            try:
                process = runner.start(words, stdout=output if separate_errors else writer, stderr=writer)
            finally:
                os.close(writer)
            try:
                told: list[str] = []
                for raw in lines:
                    line = raw.rstrip()
                    told.append(line)
                    self.keep("    " + line)
                    if (text := shown(line)) is not None:
                        self.tell("  " + text)
                status = process.popen.wait()
            except BaseException:
                process.stop(GRACE)
                raise
            output.seek(0)
            result = output.read().decode(errors="replace")
        if status != 0:
            raise CommandFailed(" ".join(words[:3]) + " ...", status, "\n".join(told))
        return result if separate_errors else "\n".join(told)
