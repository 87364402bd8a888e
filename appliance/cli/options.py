"""What all commands share: which appliance, which form of output, and the progress of long jobs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from appliance import client, progress, schema
from appliance.cli.output import err
from appliance.errors import Cancelled, HatcheryError, InvalidInput
from appliance.model import GIB, KIB, MIB


@dataclass(slots=True)
class Session:
    """One run of the program: the options that stand before the command's name."""

    host: str | None
    as_json: bool
    socket: Path | None

    @contextmanager
    def connect(self) -> Iterator[client.Client]:
        """A client of the chosen appliance."""
        with client.connect(host=self.host, socket=self.socket) as connection:
            yield connection


def session(context: typer.Context, as_json: bool = False) -> Session:
    """The run's session; ``--json`` may also stand after the command's name."""
    found: Session = context.find_object(Session) or Session(None, False, None)
    found.as_json = found.as_json or as_json
    return found


_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}


def duration(text: str) -> float:
    """Seconds of a time like ``90m``, ``8h`` or ``7d``. Raises InvalidInput."""
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not (number.isascii() and number.isdigit()) or int(number) == 0:
        raise InvalidInput(
            f"{text!r} is not a time", why="it is a whole number with s, m, h, d or w after it", hint="for example 8h"
        )
    return float(int(number) * _SECONDS[unit])


def parse_size(text: str) -> int:
    """Bytes of a size like ``40G`` or ``512M``; units are powers of 1024. Raises InvalidInput."""
    unit = text[-1:].upper() if text[-1:].isalpha() else ""
    number = text[: len(text) - len(unit)]
    if unit not in _BYTES or not (number.isascii() and number.isdigit()) or int(number) == 0:
        raise InvalidInput(
            f"{text!r} is not a size", why="it is a whole number with K, M, G or T after it", hint="for example 40G"
        )
    return int(number) * _BYTES[unit]


TemplateArgument = Annotated[
    str, typer.Argument(metavar="NAME[@VERSION]", help="The template; a bare name: its newest.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Result and errors as JSON.")]
"""``--json`` after a command's name."""


CANCEL_PATIENCE = 120.0
"""Seconds in which a job that was cancelled has taken back what it did."""


class AtCtrlC(Enum):
    """What becomes of a job whose follower is interrupted: the one who began it wants it no more."""

    CANCEL = "cancel"
    LEAVE = "leave"


def follow(
    connection: client.Client,
    operation: schema.Operation,
    *,
    deadline: float,
    show: bool,
    at_ctrl_c: AtCtrlC = AtCtrlC.CANCEL,
) -> schema.Operation:
    """Follow a job to its end with a progress bar. Raises what it failed with; KeyboardInterrupt, having seen to it."""
    try:
        return _follow(connection, operation, deadline=deadline, show=show)
    except KeyboardInterrupt:
        if at_ctrl_c is AtCtrlC.CANCEL:
            _give_up(connection, operation)
        raise


def _give_up(connection: client.Client, operation: schema.Operation) -> None:
    """Cancel a job and say what became of it; a second Ctrl-C does not wait for that."""
    name = f"{operation.kind} of {operation.subject}"
    try:
        connection.cancel(operation.id)
        err().print(f"Cancelling the {name}; Ctrl-C again does not wait for it.")
        connection.finish(operation, deadline=CANCEL_PATIENCE)
        err().print(f"The {name} was done already.")
    except Cancelled:
        err().print(f"The {name} was cancelled.")
    except HatcheryError as error:
        err().print(f"The {name} goes on: {error.why or error.what}. See `hatchery operation show {operation.id}`.")


def _follow(connection: client.Client, operation: schema.Operation, *, deadline: float, show: bool) -> schema.Operation:
    with progress.bar(_told(operation), show=show) as display:

        def update(state: schema.Operation) -> None:
            if state.counts:
                display.tell(_told(state), state.done_count, state.total_count, state.counts)
            else:
                display.tell(_told(state), state.done_bytes, state.total_bytes or None)

        return connection.finish(operation, deadline=deadline, progress=update)


def _told(operation: schema.Operation) -> str:
    return f"{operation.subject}: {operation.phase}"
