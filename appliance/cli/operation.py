"""``hatchery operation``: long jobs, whoever began them."""

from typing import Annotated

import typer
from rich.text import Text

from appliance import schema
from appliance.cli.options import CANCEL_PATIENCE, AtCtrlC, JsonOption, follow, session
from appliance.cli.output import out, print_fields, print_json, share, state, table, when
from appliance.errors import Cancelled
from appliance.words import size

app = typer.Typer(no_args_is_help=True, help="Operations: long jobs, as they run and as they ended.")

FOLLOW_DEADLINE = 24 * 3600.0
"""Seconds after which one that is followed counts as hung."""

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The operation: see `hatchery operation list`.")]


@app.command("list")
def list_(
    context: typer.Context,
    running: Annotated[bool, typer.Option("--running", help="Only those that have not ended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the operations since hatcheryd started, newest first: the last 200 that ended, and those that run."""
    run = session(context, as_json)
    with run.connect() as connection:
        found = connection.operations()
    if running:
        found = tuple(each for each in found if each.state == "running")
    if run.as_json:
        print_json(found)
        return
    rows = table("ID", "KIND", "SUBJECT", "STATE", "DONE", "STARTED", "PHASE")
    for each in found:
        rows.add_row(
            each.id, each.kind, each.subject, state(each.state), _done(each), when(each.started),
            each.error.what if each.error is not None else each.phase,
        )  # fmt: skip
    out().print(rows)


@app.command("show")
def show(context: typer.Context, operation: IdArgument, as_json: JsonOption = False) -> None:
    """Show an operation: how far it is, or how it ended."""
    run = session(context, as_json)
    with run.connect() as connection:
        found = connection.operation(operation)
    if run.as_json:
        print_json(found)
        return
    fields: dict[str, str | Text] = {
        "operation": found.id,
        "kind": found.kind,
        "subject": found.subject,
        "state": state(found.state),
        "phase": found.phase,
        "done": _done(found),
        "started": when(found.started),
        "finished": "-" if found.finished is None else when(found.finished),
        "can be cancelled": "yes" if found.cancellable else "no",
    }
    if found.error is not None:
        fields |= {"error": found.error.what, "why": found.error.why or "-", "do": found.error.hint or "-"}
    print_fields(fields)


@app.command("follow")
def follow_(context: typer.Context, operation: IdArgument, as_json: JsonOption = False) -> None:
    """Follow an operation to its end; Ctrl-C ends the looking on, and not the operation."""
    run = session(context, as_json)
    with run.connect() as connection:
        begun = connection.operation(operation)
        done = follow(connection, begun, deadline=FOLLOW_DEADLINE, show=not run.as_json, at_ctrl_c=AtCtrlC.LEAVE)
    if run.as_json:
        print_json(done)
    else:
        out().print(f"{done.kind} of {done.subject}: {done.phase}")


@app.command("cancel")
def cancel(context: typer.Context, operation: IdArgument, as_json: JsonOption = False) -> None:
    """Have an operation break off, and wait until what it did is taken back.

    Imports, promotions, warming, learning, collections and the making of many clones can be cancelled; the emptying of
    the cache cannot. One that has ended stays as it is.
    """
    run = session(context, as_json)
    with run.connect() as connection:
        found = connection.cancel(operation)
        if found.state == "running":
            try:
                found = connection.finish(found, deadline=CANCEL_PATIENCE)
            except Cancelled:
                found = connection.operation(operation)
    if run.as_json:
        print_json(found)
    else:
        out().print(f"{found.kind} of {found.subject}: {found.state}")


def _done(operation: schema.Operation) -> str:
    if operation.counts:
        of = "" if operation.total_count is None else f" of {operation.total_count}"
        return f"{operation.done_count}{of} {operation.counts}"
    if operation.total_bytes:
        return share(operation.done_bytes, operation.total_bytes)
    return size(operation.done_bytes) if operation.done_bytes else "-"
