"""Commands that lose data: they say what would be lost with ``--dry-run``, and ask before, at a terminal.

Only what cannot be had back is asked about. A script is not asked: it has no terminal, and what it says is meant.
With ``--json`` at a terminal, what would ask is refused without ``--yes``: a program reads there, and answers nothing.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, TypeVar

import typer

from appliance.cli.options import Session
from appliance.cli.output import err, out, print_json
from appliance.errors import Cancelled, NotFound, Refused

T = TypeVar("T")

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be lost, and do nothing.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask at a terminal.")]


@dataclass(frozen=True, slots=True)
class Loss:
    """What would go, and what hangs on it. ``for_good``: it cannot be had back, so that somebody is asked."""

    what: str
    detail: str
    for_good: bool = True

    def __str__(self) -> str:
        return f"{self.what}: {self.detail}"


def show(run: Session, losses: Sequence[Loss]) -> None:
    """What ``--dry-run`` prints."""
    if run.as_json:
        print_json({"losses": [asdict(loss) for loss in losses]})
        return
    for loss in losses:
        out().print(f"would lose {loss}", markup=False)
    if not losses:
        out().print("nothing would be lost")


def at_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def known(look: Callable[[], T], *, absent_is_error: bool = False) -> T | None:
    """What is to be lost; None when it is not there, which what loses it says better. Raises NotFound if wanted."""
    try:
        return look()
    except NotFound:
        if absent_is_error:
            raise
        return None


def ask(run: Session, losses: Sequence[Loss], *, yes: bool) -> None:
    """Have somebody at a terminal say that it is meant. Raises Cancelled if it is not, Refused with ``--json``."""
    gone = [loss for loss in losses if loss.for_good]
    if yes or not gone or not at_a_terminal():
        return
    if run.as_json:
        more = f", and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise Refused(
            "nothing was done, for nobody was asked",
            why=f"this loses {gone[0]}{more}; with --json no question is put at a terminal",
            hint="--yes does it without asking, --dry-run shows all that would be lost",
        )
    for loss in gone:
        err().print(f"This loses {loss}.", markup=False)
    if not typer.confirm("Go on?", default=False, err=True):
        raise Cancelled("nothing was done", why="the answer was no", hint="--yes does it without asking")
