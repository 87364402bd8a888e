"""How the commands speak: tables for people, JSON for programs, errors as what, why and what to do."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.errors import HatcheryError, NotFound
from appliance.model import Health
from appliance.schema import Removal
from appliance.words import size

STYLES = {"ok": "green", "ready": "green", "degraded": "yellow", "unknown": "yellow", "failed": "bold red"}
"""Colours of states; others are plain."""


PIPE_COLUMNS = 1000
"""How wide a table may be that no terminal shows: its reader wants a row on a line, and a word whole, also where a
shell exports COLUMNS for its own terminal."""


def out() -> Console:
    """The console for results; made when used, so that it is the stream of now."""
    return _console(terminal=sys.stdout.isatty())


def err() -> Console:
    """The console for progress and errors."""
    return _console(terminal=sys.stderr.isatty(), stderr=True)


def _console(*, terminal: bool, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, soft_wrap=not terminal, width=None if terminal else PIPE_COLUMNS)


def print_json(value: BaseModel | Sequence[BaseModel] | dict[str, object]) -> None:
    """One JSON document on standard output."""
    if isinstance(value, BaseModel):
        data: object = value.model_dump(mode="json")
    elif isinstance(value, dict):
        data = value
    else:
        data = [item.model_dump(mode="json") for item in value]
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def print_error(error: HatcheryError, *, as_json: bool) -> None:
    """What failed, why, and what to do: on standard error, or as JSON on standard output."""
    if as_json:
        body = {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}
        sys.stdout.write(json.dumps({"error": body}, indent=2) + "\n")
        return
    console = err()
    console.print(Text.assemble(("Error: ", "bold red"), error.what))
    if error.why:
        console.print(Text.assemble(("  why: ", "bold"), indent(error.why)))
    if error.hint:
        console.print(Text.assemble(("  do:  ", "bold"), indent(error.hint)))


def indent(text: str) -> str:
    """Further lines of ``text`` moved under the first."""
    return text.replace("\n", "\n       ")


def table(*columns: str, title: str | None = None) -> Table:
    """An empty table in the house style; columns that begin with ``>`` are right-aligned."""
    made = Table(box=None, title=title, title_justify="left", pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return made


def print_fields(fields: Mapping[str, str | Text]) -> None:
    """Names and values, one a line."""
    width = max(len(name) for name in fields) + 2
    console = out()
    for name, value in fields.items():
        console.print(Text.assemble((f"{name}:".ljust(width), "bold"), value))


def print_removals(removals: Sequence[Removal], kind: str, *, as_json: bool) -> None:
    """What became of removals. For a person, nothing removed is an error: a name was mistyped. Raises NotFound."""
    if as_json:
        print_json(removals if len(removals) > 1 else removals[0])
        return
    for removal in removals:
        if removal.removed:
            out().print(f"{kind} {removal.name} removed")
    missing = [removal.name for removal in removals if not removal.removed]
    if missing:
        raise NotFound(f"there is no {kind} {', '.join(missing)}", hint=f"see `hatchery {kind} list`")


def state(word: str) -> Text:
    """A state in its colour."""
    return Text(word, style=STYLES.get(word, ""))


def health(value: Health) -> Text:
    """A health in its colour."""
    return state(value.value)


def share(part: int, whole: int) -> str:
    """A part of a whole for people: ``1.2 of 8.0 GiB (15 %)``."""
    percent = f"{100 * part / whole:.0f} %" if whole else "-"
    return f"{size(part)} of {size(whole)} ({percent})"


def when(epoch: float) -> str:
    """A time for people, in local time."""
    return datetime.fromtimestamp(epoch, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
