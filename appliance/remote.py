"""Reaching an appliance's unix sockets from another machine, through SSH.

The API has no port of its own: who may log in as root (or as a member of the group ``hatchery``) may use it.
"""

import os
import shlex
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.errors import InvalidInput, NotReady
from appliance.run import Process, Runner
from appliance.wait import until

OPTIONS_VARIABLE = "HATCHERY_SSH_OPTIONS"
"""Environment variable with further options for ssh, written as on a shell's command line."""

OPTIONS = (
    "-o", "BatchMode=yes",
    "-o", "ExitOnForwardFailure=yes",
    "-o", "ServerAliveInterval=15",
    "-o", "ServerAliveCountMax=4",
    # A connection shared with others would outlive this one's end, and its forwards with it.
    "-o", "ControlMaster=no",
    "-o", "ControlPath=none",
)  # fmt: skip
"""No questions, no half-made forwards, and a dead connection is noticed within a minute."""

LOGIN_DEADLINE = 60.0
"""Seconds for a login; an emulated appliance takes ten."""


@contextmanager
def forwarded(host: str, remote: Path, runner: Runner, *, deadline: float = LOGIN_DEADLINE) -> Iterator[Path]:
    """A local unix socket that leads to the unix socket ``remote`` on ``host`` (``USER@NAME``) while it is open.

    Raises NotReady with ssh's own words when the login or the forward fails, DeadlineExceeded.
    """
    if not host or host.startswith("-"):
        raise InvalidInput(
            f"{host!r} is not a host to log in to",
            why="it is empty, or ssh would take it for an option",
            hint="give USER@HOST, for example root@box",
        )
    with tempfile.TemporaryDirectory(prefix="hatchery-ssh-") as name:
        folder = Path(name)
        local, errors = folder / "api.sock", folder / "ssh.log"
        extra = shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))
        with errors.open("wb") as log:
            # The user's options come first: ssh takes the first value that it is given.
            argv = ["ssh", "-N", "-T", *extra, *OPTIONS, "-L", f"{local}:{remote}", host]
            process = runner.start(argv, stdout=log, stderr=log)
        with process:
            until(lambda: _listening(local, process, errors, host), f"the login to {host}", deadline=deadline)
            yield local


def _listening(local: Path, process: Process, errors: Path, host: str) -> bool:
    if not process.running():
        words = errors.read_text(encoding="utf-8", errors="replace").strip()
        raise NotReady(
            f"cannot reach {host} through ssh",
            why=words or "ssh gave no reason",
            hint=f"try `ssh {host} true`; options for ssh go into ~/.ssh/config or {OPTIONS_VARIABLE}",
        )
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(local))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def command_line(host: str | None, words: Sequence[str], *, terminal: bool) -> tuple[str, ...]:
    """The words that run a program on the appliance: here, or on ``host`` through SSH, with a ``terminal`` there.

    Raises InvalidInput.
    """
    if host is None:
        return tuple(words)
    if not host or host.startswith("-"):
        raise InvalidInput(
            f"{host!r} is not a host to log in to",
            why="it is empty, or ssh would take it for an option",
            hint="give USER@HOST, for example root@box",
        )
    extra = shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))
    return ("ssh", *(("-t",) if terminal else ("-T",)), *extra, host, "--", shlex.join(words))
