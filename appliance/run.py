"""The only place that starts processes.

Commands are argv lists, run with closed standard input, a fixed locale and a deadline. Each is logged as a line
that can be pasted into a shell.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from appliance.errors import CommandFailed, DeadlineExceeded, NotReady

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 120.0
"""Seconds after which a command counts as hung."""


@dataclass(frozen=True, slots=True)
class Completed:
    """What a finished command left: its argv, exit status and decoded output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class Runner:
    """Starts commands. One instance is passed down from the program's entry point."""

    def __init__(self, env: Mapping[str, str] | None = None) -> None:
        self._env = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str = "",
        timeout: float = DEFAULT_TIMEOUT,
        check: bool = True,
    ) -> Completed:
        """Run ``argv`` to its end and return what it printed.

        Raises CommandFailed on a non-zero status (unless ``check`` is off), DeadlineExceeded after ``timeout``
        seconds, NotReady when the program is not installed.
        """
        words = [str(word) for word in argv]
        line = shlex.join(words)
        log.debug("+ %s", line)
        try:
            done = subprocess.run(
                words,
                input=stdin,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                env=self._env,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError as error:
            raise NotReady(
                f"cannot run {words[0]}", why="the program is not installed", hint=f"install {words[0]}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(f"`{line}` did not end within {timeout:g} s") from error
        if check and done.returncode != 0:
            raise CommandFailed(line, done.returncode, done.stderr or done.stdout)
        return Completed(tuple(words), done.returncode, done.stdout, done.stderr)

    def become(self, argv: Sequence[str | Path]) -> NoReturn:
        """Replace this process by ``argv``, which gets its terminal and gives its exit status.

        Raises NotReady when the program is not installed.
        """
        words = [str(word) for word in argv]
        log.debug("+ exec %s", shlex.join(words))
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.execvpe(words[0], words, self._env)  # noqa: S606 - no shell is wanted
        except FileNotFoundError as error:
            raise NotReady(
                f"cannot run {words[0]}", why="the program is not installed", hint=f"install {words[0]}"
            ) from error

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: IO[bytes] | int = subprocess.DEVNULL,
        stdout: IO[bytes] | int = subprocess.DEVNULL,
        stderr: IO[bytes] | int | None = None,
        pass_fds: Sequence[int] = (),
    ) -> "Process":
        """Start ``argv`` in its own process group and return at once. Raises NotReady when it is not installed."""
        words = [str(word) for word in argv]
        log.debug("+ %s &", shlex.join(words))
        try:
            popen = subprocess.Popen(
                words,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=self._env,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NotReady(
                f"cannot run {words[0]}", why="the program is not installed", hint=f"install {words[0]}"
            ) from error
        return Process(popen)


class Process:
    """A running command. Use as a context manager, or call ``stop``: nothing is left behind."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.popen = popen

    @property
    def pid(self) -> int:
        """Process id, also the id of its group."""
        return self.popen.pid

    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def wait(self, timeout: float) -> int:
        """Wait for the end; return the exit status. Raises DeadlineExceeded after ``timeout`` seconds."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise DeadlineExceeded(f"process {self.pid} did not end within {timeout:g} s") from error

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group; fine if it has ended already."""
        try:
            os.killpg(self.popen.pid, number)
        except ProcessLookupError:
            return

    def stop(self, grace: float = 5.0) -> int:
        """End it: SIGTERM, and SIGKILL after ``grace`` seconds. Returns the exit status."""
        if self.running():
            self.signal(signal.SIGTERM)
            try:
                return self.popen.wait(grace)
            except subprocess.TimeoutExpired:
                self.signal(signal.SIGKILL)
        return self.popen.wait()

    def kill(self) -> int:
        """End it with SIGKILL at once, as a crash would. Returns the exit status."""
        self.signal(signal.SIGKILL)
        return self.popen.wait()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
