"""``hatchery clone``: writable disks made from templates."""

import shlex
from collections.abc import Sequence
from typing import Annotated

import typer

from appliance import schema
from appliance.cli.options import JsonOption, Session, session
from appliance.cli.output import out, print_fields, print_json, print_removals, size, state, table, when
from appliance.model import TemplateRef, check_name

app = typer.Typer(no_args_is_help=True, help="Clones: writable disks made from templates.")

NameArgument = Annotated[str, typer.Argument(help="Name of the clone.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Even while somebody is connected to it.")]


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the clone; with --count N: NAME-1 to NAME-N.")],
    template: Annotated[
        str, typer.Option("--template", "-t", metavar="NAME[@VERSION]", help="The template; a bare name: its newest.")
    ],
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, max=1000, help="How many.")] = None,
    client: Annotated[
        str, typer.Option("--client", help="The client that may attach it; '' for nobody yet.")
    ] = schema.LOCAL_CLIENT,
    as_json: JsonOption = False,
) -> None:
    """Make one clone, or many: all of them or none."""
    run = session(context, as_json)
    check_name(name, "clone name")
    TemplateRef.parse(template)
    wanted = schema.CloneCreate(name=name, template=template, count=count, client=client or None)
    with run.connect() as connection:
        views = connection.create_clones(wanted)
    if count is None and not run.as_json:
        _print(run, views[0])
    else:
        _print_list(run, views)


@app.command("list")
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the clones."""
    run = session(context, as_json)
    with run.connect() as connection:
        views = connection.clones()
    _print_list(run, views)


@app.command("show")
def show(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a clone, with its NBD address and a ready QEMU command line."""
    run = session(context, as_json)
    check_name(name, "clone name")
    with run.connect() as connection:
        view = connection.clone(name)
    _print(run, view)


@app.command("remove")
def remove(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The clones to remove.")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove clones and what was written to them."""
    run = session(context, as_json)
    for name in names:
        check_name(name, "clone name")
    with run.connect() as connection:
        done = [connection.remove_clone(name, force=force) for name in names]
    print_removals(done, "clone", as_json=run.as_json)


@app.command("attach")
def attach(
    context: typer.Context,
    name: NameArgument,
    client: Annotated[str, typer.Argument(help="The client that may attach it from now on.")],
    as_json: JsonOption = False,
) -> None:
    """Export a clone to a client."""
    run = session(context, as_json)
    check_name(name, "clone name")
    check_name(client, "client name")
    with run.connect() as connection:
        view = connection.attach(name, client)
    _print(run, view)


@app.command("detach")
def detach(context: typer.Context, name: NameArgument, force: ForceOption = False, as_json: JsonOption = False) -> None:
    """Stop exporting a clone; its data stays."""
    run = session(context, as_json)
    check_name(name, "clone name")
    with run.connect() as connection:
        view = connection.detach(name, force=force)
    _print(run, view)


def _print_list(run: Session, views: Sequence[schema.CloneView]) -> None:
    if run.as_json:
        print_json(views)
        return
    rows = table("CLONE", "TEMPLATE", "STATE", ">SIZE", ">WRITTEN", "CLIENT", "ADDRESS", "CREATED")
    for view in views:
        rows.add_row(
            view.name,
            view.template,
            state(view.state),
            size(view.size),
            size(view.written_bytes),
            view.client or "-",
            view.uri or "-",
            when(view.created),
        )
    out().print(rows)


def _print(run: Session, view: schema.CloneView) -> None:
    if run.as_json:
        print_json(view)
        return
    print_fields(
        {
            "clone": view.name,
            "template": view.template,
            "kind": view.kind.value,
            "state": state(view.state),
            "size": size(view.size),
            "used": f"{size(view.mapped_bytes)}, blocks shared with the template included",
            "written": f"{size(view.written_bytes)} since it was attached",
            "client": view.client or "nobody",
            "address": view.uri or "-",
            "device": view.device,
            "created": when(view.created),
        }
    )
    if view.qemu:
        out().print(f"\nBoot it with QEMU:\n{command_line(view.qemu)}", soft_wrap=True)


def command_line(disk: Sequence[str]) -> str:
    """A ready command line around the words for the disk, an option a line."""
    words = ["-machine", "q35", "-m", "2G", "-nographic", "-bios", "/usr/share/ovmf/OVMF.fd", *disk]
    lines = ["qemu-system-x86_64"]
    for word in words:
        if word.startswith("-"):
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n".join(lines)
