"""The audit log: a line of ``hatchery-audit`` in the journal for every change, with fields of its own.

``journalctl -t hatchery-audit``. What the API is asked for is written by ``appliance.api.audit``, which knows who is
at the other end of its socket. Here is what all lines have in common, and those of commands that change something
without the API: the store's, the rescue's and the update's. Who called them is root by what they need; with sudo it
is whom sudo says. The program that started them tells a unit from a shell. And here is what changes without anybody's
request, as when a lease or an operation ends, with ``hatcheryd`` for a user.
"""

import contextlib
import logging
import os
import pwd
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from appliance import errors
from appliance.errors import HatcheryError
from appliance.host import journal
from appliance.redact import shown_url

log = logging.getLogger(__name__)

TAG = "hatchery-audit"
"""What the lines are called in the journal."""

MOST_COMMAND = 500
"""Characters of a command that are told."""

Tell = Callable[[Mapping[str, str]], object]
"""Takes a line's fields; false when it went nowhere."""

_REFUSALS = (
    errors.InvalidInput,
    errors.NotFound,
    errors.AlreadyExists,
    errors.InUse,
    errors.Refused,
    errors.Cancelled,
)
"""What a caller is told before anything was done; all other errors are failures, as in the API."""


def write(
    message: str, result: str, fields: Mapping[str, str], tell: Tell = journal.send, level: int = logging.INFO
) -> None:
    """Write a line; where there is no journal, into the program's own log, with that ``level``."""
    known = {"MESSAGE": message, "PRIORITY": "5" if result == "done" else "4", "SYSLOG_IDENTIFIER": TAG}
    if not tell({**known, "HATCHERY_RESULT": result, **fields}):
        log.log(level, "%s", message)


def commanded(program: str, words: Sequence[str], body: Callable[[], int], tell: Tell = journal.send) -> int:
    """Do what a command line asks for, which is ``body``, and write down what became of it; returns its status.

    Raises what ``body`` raises.
    """
    who = caller()  # he may be gone at the end
    command = shlex.join([program, *map(_shown, words)])[:MOST_COMMAND]
    result, problem, status = "failed", "", ""
    try:
        ended = body()
        result, status = "failed" if ended else "done", str(ended)
    except HatcheryError as error:
        result = "refused" if isinstance(error, _REFUSALS) else "failed"
        problem = f"{error.code}: {error.what}"
        raise
    except BaseException as error:
        problem = type(error).__name__
        raise
    else:
        return ended
    finally:
        said = f"{who_in_words(who)}: {command}: {result}" + (f", {problem}" if problem else "")
        told = {**who, "HATCHERY_COMMAND": command, "HATCHERY_STATUS": status, "HATCHERY_PROBLEM": problem}
        # Who called it sees its end himself.
        write(said, result, told, tell, logging.DEBUG)


def unasked(kind: str, subject: str, state: str, words: str, tell: Tell = journal.send) -> None:
    """Write down a change that nobody asked for at that moment: a lease that ended, an operation that did."""
    said = f"hatcheryd: {kind} {subject}: {state}" + (f", {words}" if words else "")
    fields = {"HATCHERY_KIND": kind, "HATCHERY_NAMES": subject, "HATCHERY_RESULT": state}
    tell({"MESSAGE": said, "PRIORITY": "6", "SYSLOG_IDENTIFIER": TAG, "HATCHERY_USER": "hatcheryd", **fields})


def caller() -> dict[str, str]:
    """Who called this program, as fields of a line."""
    user = os.getuid()
    sudo = os.environ.get("SUDO_USER", "") if user == 0 else ""  # anybody else may have set it himself
    return {**process(user, os.getppid()), **({"HATCHERY_USER": sudo} if sudo else {})}


def process(user: int, pid: int) -> dict[str, str]:
    """A user and a process of his, as fields of a line."""
    found = {"HATCHERY_UID": str(user), "HATCHERY_PID": str(pid), "HATCHERY_USER": str(user)}
    with contextlib.suppress(KeyError):
        found["HATCHERY_USER"] = pwd.getpwuid(user).pw_name
    with contextlib.suppress(OSError):
        found["HATCHERY_PROGRAM"] = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return found


def who_in_words(who: Mapping[str, str]) -> str:
    """The same for people."""
    program = f" ({who['HATCHERY_PROGRAM']}, process {who['HATCHERY_PID']})" if "HATCHERY_PROGRAM" in who else ""
    return f"{who['HATCHERY_USER']}{program}"


def _shown(word: str) -> str:
    return shown_url(word) if "://" in word else word
