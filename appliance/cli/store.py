"""``hatchery store``: the store as a whole."""

from typing import Annotated

import typer
from rich.text import Text

from appliance import schema
from appliance.cli.options import JsonOption, session
from appliance.cli.output import health, out, print_json

app = typer.Typer(no_args_is_help=True, help="The store as a whole.")

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
