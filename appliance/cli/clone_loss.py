"""``hatchery clone remove``, and what it, ``reset``, ``detach`` and ``move`` lose."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from appliance import progress
from appliance.cli import losing
from appliance.cli.options import JsonOption, session
from appliance.cli.output import print_removals
from appliance.client import Client
from appliance.errors import NotFound
from appliance.model import Protocol, check_name
from appliance.schema import ClientView, CloneView
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
        done = []
        with progress.bar("removing", len(names), "clones", show=len(names) > 1 and not run.as_json) as display:
            for name in names:
                done.append(connection.remove_clone(name, force=force))
                display.add()
    print_removals(done, "clone", as_json=run.as_json)


def exports(
    connection: Client, names: Sequence[str], *, force: bool, of: str | None = None, to: str | None = None
) -> list[losing.Loss]:
    """What goes when clones are taken from their clients, or from that ``of`` two, or given ``to`` one: not their data.

    Unforced, they are taken from nobody who is connected. Raises NotFound.
    """
    found: list[losing.Loss] = []
    clients: dict[str, ClientView] = {}
    for view in map(connection.clone, names):
        holder = of or _holder(view, to)
        if holder is None:
            continue
        if holder not in clients:
            clients[holder] = connection.client(holder)
        has = clients[holder]
        by_nvme = None if has.nvme is None else has.nvme.connections
        connected = has.connections if view.protocol is Protocol.NBD else by_nvme
        cut_off = force and connected != ()
        many = "whoever is connected" if connected is None else f"{len(connected)} connection(s)"
        more = f"; its guest is cut off, if it runs there ({many})" if cut_off else ""
        detail = f"to client {holder}{more}; its data stays"
        found.append(losing.Loss(f"the export of clone {view.name}", detail, for_good=cut_off))
    return found


def _holder(view: CloneView, to: str | None) -> str | None:
    """The client that a clone is taken from so that one has it; of two that share it, the other one."""
    if view.client != to:
        return view.client
    return None if view.shared is None else view.shared.client


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
