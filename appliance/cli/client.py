"""``hatchery client``: who may attach clones."""

from typing import Annotated

import typer
from rich.table import Table

from appliance import schema
from appliance.cli.options import JsonOption, session
from appliance.cli.output import health, out, print_fields, print_json, print_removals, table
from appliance.errors import InvalidInput
from appliance.model import check_name

app = typer.Typer(no_args_is_help=True, help="Clients: hypervisor hosts, or this machine, that may attach clones.")

NameArgument = Annotated[str, typer.Argument(help="Name of the client.")]


@app.command("add")
def add(
    context: typer.Context,
    name: NameArgument,
    tcp: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS:PORT", help="Listen here for NBD over TCP; without it, on a unix socket."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Accept that TCP is not encrypted: whoever reaches the port has the disks.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a client, or change how it reaches its clones."""
    run = session(context, as_json)
    check_name(name, "client name")
    spec = _spec(tcp, plain)
    with run.connect() as connection:
        view = connection.put_client(name, spec)
    if run.as_json:
        print_json(view)
    else:
        print_fields({"client": view.name, "address": view.uri, "state": health(view.state), "detail": view.detail})


def _spec(tcp: str | None, plain: bool) -> schema.ClientSpec:
    if tcp is None:
        return schema.ClientSpec(transport="unix")
    address, colon, port = tcp.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InvalidInput(f"{tcp!r} is not an address to listen on", hint="give ADDRESS:PORT, e.g. 192.0.2.1:10809")
    return schema.ClientSpec(transport="tcp", address=address.strip("[]"), port=int(port), plain=plain)


@app.command("list")
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the clients, with who is connected."""
    run = session(context, as_json)
    with run.connect() as connection:
        views = connection.clients()
    if run.as_json:
        print_json(views)
    else:
        out().print(clients_table(views))


@app.command("remove")
def remove(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Remove a client that has no clones attached."""
    run = session(context, as_json)
    check_name(name, "client name")
    with run.connect() as connection:
        done = connection.remove_client(name)
    print_removals([done], "client", as_json=run.as_json)


def clients_table(views: tuple[schema.ClientView, ...]) -> Table:
    """The clients as a table."""
    rows = table("CLIENT", "STATE", ">CLONES", "CONNECTED", "ADDRESS", "DETAIL")
    for view in views:
        peers = "cannot tell" if view.connections is None else ", ".join(c.peer for c in view.connections) or "-"
        rows.add_row(view.name, health(view.state), str(len(view.clones)), peers, view.uri, view.detail)
    return rows
