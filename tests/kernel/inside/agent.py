"""The control end inside User-Mode Linux: runs commands and functions for the test on the host.

A request is a file ``ID.request`` (JSON) in the shared folder, announced by a line ``ID`` on a serial line; the answer
is ``ID.answer`` in the same place, announced the same way, so that what is said may be long and the line's buffer
does not matter. Output of the command or function goes to ``ID.out`` and ``ID.err`` as it comes. Each request runs in
a child in a process group of its own: it may crash, hang (its deadline kills it), be killed, and others run meanwhile.

Requests: ``{"do": "run", "argv": [...], "stdin": "", "env": {}, "timeout": SECONDS or null}``,
``{"do": "call", "function": "package.module:name", "args": [...], "kwargs": {}, "timeout": ...}``,
``{"do": "kill", "target": ID, "signal": N}`` (no answer).
"""

import contextlib
import dataclasses
import faulthandler
import importlib
import json
import os
import select
import signal
import sys
import termios
import time
import traceback
import tty
from collections.abc import Set
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from appliance.errors import HatcheryError


def plain(value: object) -> object:
    """Turn a value that JSON does not know into one that it does. Raises TypeError for others."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Set):
        return sorted(value)
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"the function returned something that JSON cannot hold: {value!r}")


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as JSON, with the words of a HatcheryError kept apart."""
    words = {"kind": type(error).__name__, "text": str(error), "traceback": traceback.format_exc()}
    if isinstance(error, HatcheryError):
        words |= {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}
    return words


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it appears complete or not at all."""
    draft = path.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.rename(path)


class Agent:
    """Takes requests from the line and looks after the children that work on them."""

    def __init__(self, line: str, folder: Path) -> None:
        self.folder = folder
        self.line = os.open(line, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.line, termios.TCSANOW)
        self.children: dict[int, str] = {}
        self.deadlines: dict[int, float] = {}
        self.overdue: set[int] = set()

    def say(self, word: str) -> None:
        """Write a line to the host."""
        os.write(self.line, f"{word}\n".encode())

    def serve(self) -> None:
        """Work until the host says ``quit``."""
        wake_out, wake_in = os.pipe()
        os.set_blocking(wake_in, False)
        os.set_blocking(wake_out, False)
        signal.set_wakeup_fd(wake_in, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.say("ready")
        pending = b""
        while True:
            ready, _, _ = select.select([self.line, wake_out], [], [], self.patience())
            if wake_out in ready:
                os.read(wake_out, 4096)
            if self.line in ready:
                *lines, pending = (pending + os.read(self.line, 4096)).split(b"\n")
                for line in lines:
                    if line == b"quit":
                        return
                    self.begin(line.decode())
            self.reap()

    def patience(self) -> float | None:
        """Seconds to the next deadline of a child; None if there is none."""
        waiting = [end for pid, end in self.deadlines.items() if pid not in self.overdue]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def begin(self, name: str) -> None:
        """Start to work on a request."""
        request = json.loads((self.folder / f"{name}.request").read_text(encoding="utf-8"))
        if request["do"] == "kill":
            for pid, owner in self.children.items():
                if owner == request["target"]:
                    os.killpg(pid, request["signal"])
            return
        if request["do"] == "call":
            # Imported here, once, and inherited by every later child. An error shows up again in the child.
            with contextlib.suppress(Exception):
                importlib.import_module(request["function"].partition(":")[0])
        pid = os.fork()
        if pid == 0:
            self.work(name, request)
        # Here too: whoever comes first, so that a kill right now finds the group. EACCES: the child was first and runs
        # its program by now (setpgid(2)); ESRCH: it has even ended.
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        self.children[pid] = name
        if request["timeout"] is not None:
            self.deadlines[pid] = time.monotonic() + request["timeout"]

    def work(self, name: str, request: dict[str, Any]) -> None:
        """In the child: do it, leave the answer, end."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.close(self.line)
        for stream, suffix in ((1, "out"), (2, "err")):
            file = os.open(self.folder / f"{name}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(file, stream)
            os.close(file)
        faulthandler.enable()  # to the file that is standard error now
        status = 1
        try:
            if request["do"] == "run":
                self.execute(request)
            answer = {"result": self.invoke(request)}
            status = 0
        except BaseException as error:  # whatever a test's function raises is told to the host
            answer = {"error": describe(error)}
        try:
            text = json.dumps(answer, default=plain)
        except TypeError as error:
            text = json.dumps({"error": describe(error)})
        write_whole(self.folder / f"{name}.answer", text)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    def execute(self, request: dict[str, Any]) -> None:
        """Become the command; returns only by raising OSError."""
        reader, writer = os.pipe()
        stdin = request["stdin"].encode()
        if stdin:
            feeder = os.fork()
            if feeder == 0:
                os.close(reader)
                with os.fdopen(writer, "wb") as pipe:
                    pipe.write(stdin)
                os._exit(0)
        os.close(writer)
        os.dup2(reader, 0)
        os.close(reader)
        argv = request["argv"]
        os.execvpe(argv[0], argv, {**os.environ, **request["env"]})  # noqa: S606 - argv as the test gave it, no shell

    @staticmethod
    def invoke(request: dict[str, Any]) -> object:
        """Call the function."""
        module, _, name = request["function"].partition(":")
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        return function(*request["args"], **request["kwargs"])

    def reap(self) -> None:
        """Report children that ended, kill those whose time is over."""
        now = time.monotonic()
        for pid in [pid for pid, end in self.deadlines.items() if end <= now and pid not in self.overdue]:
            self.overdue.add(pid)
            os.killpg(pid, signal.SIGKILL)
        for pid, name in list(self.children.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found == 0:
                continue
            del self.children[pid]
            self.deadlines.pop(pid, None)
            answer = self.folder / f"{name}.answer"
            if not answer.exists():
                end = {"status": os.waitstatus_to_exitcode(status), "timeout": pid in self.overdue}
                write_whole(answer, json.dumps(end))
            self.overdue.discard(pid)
            self.say(name)


def main() -> None:
    """Serve on the line ``argv[1]`` with the shared folder ``argv[2]``."""
    Agent(sys.argv[1], Path(sys.argv[2])).serve()


if __name__ == "__main__":
    main()
