"""QMP, the control protocol of QEMU's programs: JSON objects, one a line, over a unix socket.

Source: QEMU's docs/interop/qmp-spec.rst. One connection at a time is served by the other side, so connections are
short. QEMU 10.0 reads a command one byte at a time, with a look at all that it serves before each (``monitor_can_read``
in its monitor/monitor.c): what a command costs is how long it is.
"""

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.errors import CannotTell, DeadlineExceeded, NotReady


class QmpError(Exception):
    """The other side refused a command. ``kind`` is its error class, ``text`` its words."""

    def __init__(self, command: str, kind: str, text: str) -> None:
        super().__init__(f"{command}: {kind}: {text}")
        self.kind = kind
        self.text = text


class Qmp:
    """One connection, past the greeting. Use as a context manager."""

    def __init__(self, path: Path, *, deadline: float = 10.0) -> None:
        """Connect to ``path``; each answer or event must come within ``deadline`` seconds.

        Raises NotReady when nobody listens there, DeadlineExceeded when it does not greet.
        """
        self._path = path
        self._deadline = deadline
        self._buffer = b""
        self._events: list[dict[str, Any]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(deadline)
        try:
            self._socket.connect(str(path))
            self._receive(time.monotonic() + deadline)
            self.execute("qmp_capabilities")
        except OSError as error:
            self._socket.close()
            raise NotReady(f"no storage daemon answers at {path}", why=str(error)) from error
        except BaseException:
            self._socket.close()
            raise

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run one command and return its result. Events that come in between are kept for ``wait_event``.

        Raises QmpError when it is refused, DeadlineExceeded, CannotTell when the connection breaks.
        """
        request: dict[str, Any] = {"execute": command}
        if arguments is not None:
            request["arguments"] = dict(arguments)
        end = time.monotonic() + self._deadline
        try:
            self._socket.sendall(json.dumps(request, separators=(",", ":")).encode() + b"\n")
        except OSError as error:
            raise CannotTell(f"{self._path} hung up on {command}", why=str(error)) from error
        while True:
            message = self._receive(end)
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                refusal = message["error"]
                raise QmpError(command, str(refusal.get("class")), str(refusal.get("desc")))
            elif "return" in message:
                return message["return"]

    def wait_event(self, name: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """Wait for an event of that name whose data holds ``data``; it may have come already.

        Raises DeadlineExceeded, CannotTell when the connection breaks.
        """
        end = time.monotonic() + self._deadline
        while True:
            for event in self._events:
                if event["event"] == name and data.items() <= event.get("data", {}).items():
                    self._events.remove(event)
                    return event
            message = self._receive(end)
            if "event" in message:
                self._events.append(message)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(f"{self._path} did not answer within {self._deadline:g} s")
            self._socket.settimeout(left)
            try:
                chunk = self._socket.recv(65536)
            except TimeoutError as error:
                raise DeadlineExceeded(f"{self._path} did not answer within {self._deadline:g} s") from error
            except OSError as error:
                raise CannotTell(f"the connection to {self._path} broke", why=str(error)) from error
            if not chunk:
                raise CannotTell(f"{self._path} hung up", why="the storage daemon ended")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        message = json.loads(line)
        if not isinstance(message, dict):
            raise CannotTell(f"{self._path} does not speak QMP", why=repr(line[:80]))
        return message

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> "Qmp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
