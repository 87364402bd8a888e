"""``hatchery store``: the store as a whole."""

from typing import Annotated

import typer
from rich.text import Text

from appliance import schema
from appliance.cli import losing, rescue
from appliance.cli.options import JsonOption, session
from appliance.cli.output import health, out, print_json
from appliance.words import size

app = typer.Typer(no_args_is_help=True, help="The store as a whole.")
for command in (rescue.backup, rescue.restore, rescue.repair):
    app.command(command.__name__)(command)

DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]


@app.command("reconcile")
def reconcile(context: typer.Context, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Make the kernel's volumes match the catalog, as every start does; what neither explains is only reported."""
    run = session(context, as_json)
    with run.connect() as connection:
        found = connection.plan() if dry_run else connection.reconcile()
    if run.as_json:
        print_json(found)
        return
    _print(found)


reserve_app = typer.Typer(no_args_is_help=True, help="Space that is held back from the pool.")
app.add_typer(reserve_app, name="reserve")


@reserve_app.command("release")
def release(
    context: typer.Context,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give the pool the space that is held back from it: guests that it paused go on. It cannot be taken back."""
    run = session(context, as_json)
    with run.connect() as connection:
        pool = connection.status().store.pool
        held = 0 if pool is None else pool.reserve_bytes
        losses = [losing.Loss("the reserve", f"{size(held)} that are held back for when the pool is full")]
        if dry_run:
            losing.show(run, losses)
            return
        if held:
            losing.ask(run, losses, yes=yes)
        found = connection.release_reserve()
    if run.as_json:
        print_json(found)
    elif found.gained_bytes:
        out().print(f"the pool has {size(found.gained_bytes)} more, {size(found.data_total)} in all")
    else:
        out().print(f"nothing is held back: the pool has all of its {size(found.data_total)}")


def _print(found: schema.Reconciliation) -> None:
    console = out()
    for step in found.steps:
        console.print(f"{step.action} {step.target}" + (f": {step.detail}" if step.detail else ""))
    for problem in found.problems:
        console.print(Text.assemble(health(problem.severity), ": ", problem.what))
        if problem.hint:
            console.print(f"    do: {problem.hint}")
    if not found.steps and not found.problems:
        console.print("catalog and kernel agree")
