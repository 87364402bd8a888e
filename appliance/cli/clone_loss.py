"""``hatchery clone remove`` and ``reset``: what was written to a clone is gone afterwards."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from appliance.cli import losing
from appliance.cli.options import JsonOption, session
from appliance.cli.output import print_removals
from appliance.client import Client
from appliance.errors import NotFound
from appliance.model import check_name
from appliance.words import size

NamesArgument = Annotated[list[str], typer.Argument(metavar="NAME...", help="The clones to remove.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Even while somebody is connected to it.")]


def remove(
    context: typer.Context,
    names: NamesArgument,
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove clones and what was written to them."""
    run = session(context, as_json)
    for name in names:
        check_name(name, "clone name")
    with run.connect() as connection:
        if dry_run:
            losing.show(run, list(losses(connection, names, absent_is_error=True)))
            return
        losing.ask(run, list(losses(connection, names)), yes=yes)
        done = [connection.remove_clone(name, force=force) for name in names]
    print_removals(done, "clone", as_json=run.as_json)


def losses(connection: Client, names: Sequence[str], *, absent_is_error: bool = False) -> Iterator[losing.Loss]:
    """What goes with clones. Those that are not there lose nothing, or raise NotFound."""
    for name in names:
        try:
            view = connection.clone(name)
        except NotFound:
            if absent_is_error:
                raise
            continue
        user = f"exported to {view.client}" if view.client else "exported to nobody"
        written = "" if view.mapped_bytes is None else f", {size(view.mapped_bytes)} with what it shares"
        detail = f"what was written to it since it was made of {view.template}; {user}{written}"
        yield losing.Loss(f"clone {name}", detail)
