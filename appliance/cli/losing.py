"""Commands that lose data: they say what would be lost with ``--dry-run``, and ask before, at a terminal.

A script is not asked: it has no terminal, and what it says is meant.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from appliance.cli.options import Session
from appliance.cli.output import err, out, print_json
from appliance.errors import Cancelled

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be lost, and do nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask at a terminal.")]


@dataclass(frozen=True, slots=True)
class Loss:
    """What would go, and what hangs on it."""

    what: str
    detail: str

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


def show(run: Session, losses: Sequence[Loss]) -> None:
    """What ``--dry-run`` prints."""
    if run.as_json:
        print_json({"losses": [asdict(loss) for loss in losses]})
        return
    for loss in losses:
        out().print(f"would lose {loss}", markup=False)


def at_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(run: Session, losses: Sequence[Loss], *, yes: bool) -> None:
    """Have somebody at a terminal say that it is meant. Raises Cancelled if it is not."""
    if yes or run.as_json or not losses or not at_a_terminal():
        return
    for loss in losses:
        err().print(f"This loses {loss}.", markup=False)
    if not typer.confirm("Go on?", default=False, err=True):
        raise Cancelled("nothing was done", why="the answer was no", hint="--yes does it without asking")
