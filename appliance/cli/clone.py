"""``hatchery clone``: writable disks made from templates."""

from typing import Annotated

import typer

from appliance import schema
from appliance.cli import clone_look, clone_loss, clone_output, image_export, losing, seed
from appliance.cli.clone_loss import ForceOption, losses
from appliance.cli.options import JsonOption, duration, follow, parse_size, session
from appliance.cli.output import out, print_json
from appliance.client.client import AT_ONCE, CREATE_DEADLINE
from appliance.errors import InvalidInput
from appliance.model import CloneKind, Protocol, TemplateRef, check_name
from appliance.words import size

app = typer.Typer(no_args_is_help=True, help="Clones: writable disks made from templates.")
app.add_typer(seed.app, name="seed")

PROMOTE_DEADLINE = 4 * 3600.0
"""Seconds after which a promotion counts as hung: an ephemeral clone is copied to slow disks."""

IopsOption = Annotated[
    int | None,
    typer.Option(
        "--iops",
        metavar="N",
        min=schema.LEAST_IOPS,
        max=schema.MOST_IOPS,
        help="At most so many reads and writes a second.",
    ),
]
BandwidthOption = Annotated[
    str | None, typer.Option("--bandwidth", metavar="SIZE", help="At most so much a second, for example 100M.")
]
NameArgument = Annotated[str, typer.Argument(help="Name of the clone.")]


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
    ephemeral: Annotated[
        bool, typer.Option("--ephemeral", help="Keep what is written on NVMe alone: fast, and gone with the drive.")
    ] = False,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="Remove it after that time, for example 90m, 8h, 7d."),
    ] = None,
    iops: IopsOption = None,
    bandwidth: BandwidthOption = None,
    user_data: seed.UserDataOption = None,
    hostname: seed.HostnameOption = None,
    ssh_key: seed.KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make one clone, or many: all of them or none. Limits are for each of them.

    With --user-data, --hostname or --ssh-key, each gets a seed: a small disk that tells cloud-init who the guest is.
    Hostnames are numbered as the clones are.
    """
    run = session(context, as_json)
    check_name(name, "clone name")
    TemplateRef.parse(template)
    wanted = schema.CloneCreate(
        name=name,
        template=template,
        count=count,
        client=client or None,
        kind=CloneKind.EPHEMERAL if ephemeral else CloneKind.DURABLE,
        expires_in=None if expires is None else duration(expires),
        limits=schema.CloneLimits(iops=iops, bandwidth=_bandwidth(bandwidth)),
        seed=seed.wanted(user_data, hostname, ssh_key),
    )
    with run.connect() as connection:
        if count is None or count <= AT_ONCE:
            views = connection.create_clones(wanted)
        else:
            follow(connection, connection.begin_clones(wanted), deadline=CREATE_DEADLINE, show=not run.as_json)
            views = connection.made_clones(wanted)
    if count is None and not run.as_json:
        clone_output.print_one(run, views[0])
    else:
        clone_output.print_list(run, views)


@app.command("list")
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the clones."""
    run = session(context, as_json)
    with run.connect() as connection:
        views = connection.clones()
    clone_output.print_list(run, views)


@app.command("show")
def show(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a clone, with its NBD address, a ready QEMU command line and its disk for libvirt."""
    run = session(context, as_json)
    check_name(name, "clone name")
    with run.connect() as connection:
        view = connection.clone(name)
    clone_output.print_one(run, view)


app.command("remove")(clone_loss.remove)
app.command("look")(clone_look.look)


@app.command("attach")
def attach(
    context: typer.Context,
    name: NameArgument,
    client: Annotated[str | None, typer.Argument(help="The client that may attach it from now on.")] = None,
    client_option: Annotated[str | None, typer.Option("--client", metavar="CLIENT", help="The same.")] = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Besides the client that has it, while its guest migrates: both may write.")
    ] = False,
    protocol: Annotated[
        Protocol, typer.Option("--protocol", help="How: by NBD, or by the kernel's NVMe target to the client's host.")
    ] = Protocol.NBD,
    time: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long it is shared at most, for example 30m: 1h.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a clone to a client.

    With --shared, a second client may write to it too, for a live migration: QEMU opens the disk on both sides and sees
    to it that one writes at a time. Give it to the new client alone afterwards, with `hatchery clone move`. When the
    time is over, a client that is not connected loses it.
    """
    run = session(context, as_json)
    check_name(name, "clone name")
    if (client is None) == (client_option is None):
        raise InvalidInput(
            "the client is not said, or twice",
            why="it is CLIENT or --client CLIENT, one of them",
            hint=f"hatchery clone attach {name} --client CLIENT",
        )
    wanted = check_name(client or client_option or "", "client name")
    if shared and protocol is not Protocol.NBD:
        raise InvalidInput(
            "a clone cannot be shared over NVMe/TCP",
            why="a clone is there for one host at a time",
            hint="attach it by NBD for a migration",
        )
    if time is not None and not shared:
        raise InvalidInput("--for goes with --shared", why="without it the clone stays attached until it is detached")
    seconds = schema.SHARED_SECONDS if time is None else duration(time)
    if seconds > schema.MOST_SHARED_SECONDS:
        raise InvalidInput(f"{time} is too long", why="two may write for a day at most", hint="for example --for 1h")
    with run.connect() as connection:
        view = connection.share(name, wanted, seconds) if shared else connection.attach(name, wanted, protocol)
    clone_output.print_one(run, view)


@app.command("detach")
def detach(
    context: typer.Context,
    name: NameArgument,
    client: Annotated[
        str | None, typer.Option("--client", help="Of two clients that share it, the one that lets go of it.")
    ] = None,
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop exporting a clone; its data stays."""
    run = session(context, as_json)
    check_name(name, "clone name")
    if client is not None:
        check_name(client, "client name")
    with run.connect() as connection:
        # Unforced, nobody is cut off.
        found = clone_loss.exports(connection, [name], force=force, of=client) if dry_run or force else []
        if dry_run:
            losing.show(run, found)
            return
        losing.ask(run, found, yes=yes)
        view = connection.detach(name, client=client, force=force)
    clone_output.print_one(run, view)


@app.command("move")
def move(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The clones to move.")],
    client: Annotated[str, typer.Option("--client", help="The client that may attach them from now on.")],
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give clones to another client in one step: all of them or none. What was written to them stays."""
    run = session(context, as_json)
    for name in names:
        check_name(name, "clone name")
    check_name(client, "client name")
    with run.connect() as connection:
        found = clone_loss.exports(connection, names, force=force, to=client) if dry_run or force else []
        if dry_run:
            losing.show(run, found)
            return
        losing.ask(run, found, yes=yes)
        views = connection.move_clones(names, client, force=force)
    if len(views) == 1 and not run.as_json:
        clone_output.print_one(run, views[0])
    else:
        clone_output.print_list(run, views)


@app.command("reset")
def reset(
    context: typer.Context,
    name: NameArgument,
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give a clone its template's content again; what was written to it is gone."""
    run = session(context, as_json)
    check_name(name, "clone name")
    with run.connect() as connection:
        found = list(losses(connection, [name], absent_is_error=True))
        if dry_run:
            losing.show(run, found)
            return
        losing.ask(run, found, yes=yes)
        view = connection.reset_clone(name, force=force)
    clone_output.print_one(run, view)


@app.command("resize")
def resize(
    context: typer.Context,
    name: NameArgument,
    new_size: Annotated[str, typer.Argument(metavar="SIZE", help="The size to grow to, for example 40G or 512M.")],
    as_json: JsonOption = False,
) -> None:
    """Make a clone larger; its guest sees it at its next boot."""
    run = session(context, as_json)
    check_name(name, "clone name")
    wanted = parse_size(new_size)
    with run.connect() as connection:
        view = connection.resize_clone(name, wanted)
    clone_output.print_one(run, view)


@app.command("renew")
def renew(
    context: typer.Context,
    name: NameArgument,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="TIME", help="Remove it after that time from now, for example 8h."),
    ] = None,
    never: Annotated[bool, typer.Option("--never", help="Keep it until it is removed by command.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say anew how long a clone stays."""
    run = session(context, as_json)
    check_name(name, "clone name")
    if never == (expires is not None):
        raise InvalidInput(
            "how long the clone stays is not said",
            why="it is --expires or --never, one of them",
            hint="give either --expires TIME or --never",
        )
    with run.connect() as connection:
        view = connection.renew_clone(name, None if expires is None else duration(expires))
    clone_output.print_one(run, view)


@app.command("limit")
def limit(
    context: typer.Context,
    name: NameArgument,
    iops: IopsOption = None,
    bandwidth: BandwidthOption = None,
    none: Annotated[bool, typer.Option("--none", help="Lift the limits that are not named.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a clone may do in a second. It holds at once, also for a guest that runs."""
    run = session(context, as_json)
    check_name(name, "clone name")
    if iops is None and bandwidth is None and not none:
        raise InvalidInput(
            "no limit is said", why="nothing would change", hint="give --iops N, --bandwidth SIZE or --none"
        )
    most = _bandwidth(bandwidth)
    with run.connect() as connection:
        now = schema.CloneLimits() if none else connection.clone(name).limits
        wanted = schema.CloneLimits(iops=iops or now.iops, bandwidth=most or now.bandwidth)
        view = connection.limit_clone(name, wanted)
    clone_output.print_one(run, view)


def _bandwidth(text: str | None) -> int | None:
    """Bytes in a second. Raises InvalidInput."""
    value = None if text is None else parse_size(text)
    if value is not None and not schema.LEAST_BANDWIDTH <= value <= schema.MOST_BANDWIDTH:
        raise InvalidInput(
            f"{text!r} a second cannot be a clone's limit",
            why=f"it is from {size(schema.LEAST_BANDWIDTH)} to {size(schema.MOST_BANDWIDTH)}",
            hint="for example 100M",
        )
    return value


@app.command("promote")
def promote(
    context: typer.Context,
    name: NameArgument,
    template: Annotated[
        str | None,
        typer.Option("--template", "-t", metavar="NAME", help="The template's name; by default the clone's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a clone's content the next version of a template. Its guest must be shut down."""
    run = session(context, as_json)
    check_name(name, "clone name")
    if template is not None:
        check_name(template, "template name")
    with run.connect() as connection:
        operation = connection.promote_clone(name, template)
        follow(connection, operation, deadline=PROMOTE_DEADLINE, show=not run.as_json)
        view = connection.template(operation.subject)
    if run.as_json:
        print_json(view)
    else:
        out().print(f"clone {name} is template {view.ref} now; the clone itself stays")


@app.command("export")
def export(
    context: typer.Context,
    name: NameArgument,
    target: image_export.TargetArgument,
    kind: image_export.FormatOption = None,
    force: image_export.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a clone's disk, as it is at this moment, to an image file here, with holes where it has zeros.

    Its guest may go on: what is written is as after a power cut, without what the guest had not flushed. For a clean
    file system shut it down, or freeze its file systems (fsfreeze), until the export has begun. All of the disk is read
    through the cache, so an image that is larger than the cache pushes out what is there. This machine needs qemu-img.
    """
    run = session(context, as_json)
    check_name(name, "clone name")
    wanted = image_export.wanted(target, kind, force=force, as_json=run.as_json)
    image_export.export(run, wanted, lambda connection: connection.still_of_clone(name))
