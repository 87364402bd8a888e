"""``hatchery template``: golden images."""

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.text import Text

from appliance import client, progress, schema
from appliance.cli import boot_set, image_export, image_file, learn, losing, nbd_source, offers
from appliance.cli.options import JsonOption, Session, TemplateArgument, follow, session
from appliance.cli.output import out, print_fields, print_json, print_removals, state, table, when
from appliance.errors import InvalidInput
from appliance.model import ImageFormat, TemplateRef, check_name
from appliance.words import size

app = typer.Typer(no_args_is_help=True, help="Templates: immutable golden images.")
app.add_typer(boot_set.app, name="boot-set")
app.command("learn")(learn.learn)
app.command("offer")(offers.offer)
app.command("withdraw")(offers.withdraw)

IMPORT_DEADLINE = 4 * 3600.0
"""Seconds after which an import counts as hung: a terabyte on slow disks takes hours."""


@app.command("add")
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the template.")],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|URL",
            help="A disk image here, also packed with gzip, xz or zstd; an http(s) URL of one; nbd(s)://HOST[:PORT]/EXPORT;"
            " - is the standard input.",
        ),
    ] = None,
    kind: Annotated[
        ImageFormat | None,
        typer.Option("--format", help="Format of the image; by default what its name ends in (.raw, .img, .qcow2)."),
    ] = None,
    packed: Annotated[
        image_file.Packed,
        typer.Option("--compression", help="What it is packed with; by default what it begins with says that."),
    ] = image_file.Packed.AUTO,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 that FILE must have, as it is.")] = None,
    on_appliance: Annotated[bool, typer.Option("--path", help="FILE is on the appliance, not here.")] = False,
    given: Annotated[
        str | None, typer.Option("--boot-set", metavar="FILE", help="A boot set, fetched into the cache at once.")
    ] = None,
    lazy: Annotated[
        bool,
        typer.Option("--lazy", help="With nbd(s)://: clone it at once, while its rest is fetched in the background."),
    ] = False,
    from_clone: Annotated[
        str | None, typer.Option("--from-clone", metavar="CLONE", help="Of a clone, as `hatchery clone promote` does.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Import a disk image as a template: a name that is there gets a new version.

    What another appliance offers comes with its boot set. Of nbds:// the certificate's folder is here:
    nbds://HOST/EXPORT?tls-certificates=FOLDER.
    """
    run = session(context, as_json)
    check_name(name, "template name")
    if source is None or from_clone is not None:
        if source is not None or from_clone is None or (kind, sha256, given) != (None, None, None) or lazy:
            hint = "give FILE, or URL, or --from-clone CLONE without anything else"
            raise InvalidInput("it is not clear what to import", why="an image is named, or a clone alone", hint=hint)
        _promote(run, from_clone, name)
        return
    remote = nbd_source.is_one(source)
    if lazy and not remote:
        raise InvalidInput(
            "--lazy is for nbd:// and nbds:// alone",
            why="the rest of an image elsewhere is not to be had while clones use it",
            hint="elsewhere, all of an image is fetched first",
        )
    web = source.startswith(("http://", "https://"))
    named = urlsplit(source).path if web else source
    raw = ImageFormat.RAW if remote else None
    chosen = kind or raw or image_file.stated_format(image_file.inner_name(named))
    more = _More(sha256, None if given is None else boot_set.read(given))
    with run.connect() as connection:
        if remote:
            operation = connection.import_template(_create(name, chosen, nbd_source.read(source, lazy=lazy), more))
        elif web:
            wanted = _create(name, chosen, schema.UrlSource(url=source, compression=packed.for_appliance()), more)
            operation = connection.import_template(wanted)
        elif on_appliance:
            wanted = _create(name, chosen, schema.PathSource(path=source, compression=packed.for_appliance()), more)
            operation = connection.import_template(wanted)
        else:
            operation = _send(run, connection, _create(name, chosen, schema.UploadSource(), more), source, packed)
        follow(connection, operation, deadline=IMPORT_DEADLINE, show=not run.as_json)
        view = connection.template(operation.subject)
    _print(run, view)


@app.command("list")
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the templates."""
    run = session(context, as_json)
    with run.connect() as connection:
        views = connection.templates()
    if run.as_json:
        print_json(views)
        return
    rows = table("TEMPLATE", "STATE", ">SIZE", ">USED", ">CLONES", "CREATED")
    for view in views:
        rows.add_row(
            view.ref,
            shown_state(view),
            size(view.size),
            size(view.mapped_bytes),
            str(view.clones),
            when(view.created),
        )
    out().print(rows)


@app.command("show")
def show(
    context: typer.Context,
    ref: TemplateArgument,
    with_boot_set: Annotated[bool, typer.Option("--boot-set", help="And where its boot set lies on the disk.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a template."""
    run = session(context, as_json)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        view = connection.template(ref)
        found = connection.boot_set(view.ref) if with_boot_set else None
    if found is not None and run.as_json:
        print_json(found)
        return
    _print(run, view)
    if found is not None:
        out().print(f"\nthe boot set on the disk, its beginning at the upper left:\n{found.picture}", markup=False)


@app.command("export")
def export(
    context: typer.Context,
    ref: TemplateArgument,
    target: image_export.TargetArgument,
    kind: image_export.FormatOption = None,
    force: image_export.ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a template's disk to an image file here, with holes where it has zeros.

    All of the disk is read through the cache, so an image that is larger than the cache pushes out what is there. It is
    not removed meanwhile. This machine needs qemu-img.
    """
    run = session(context, as_json)
    TemplateRef.parse(ref)
    wanted = image_export.wanted(target, kind, force=force, as_json=run.as_json)
    image_export.export(run, wanted, lambda connection: connection.still_of_template(ref))


@app.command("remove")
def remove(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The template; refused while it has clones.")],
    when_unused: Annotated[
        bool, typer.Option("--when-unused", help="If it has clones: clone it no more, and remove it with the last.")
    ] = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a template version; a name with several of them needs @VERSION."""
    run = session(context, as_json)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        if dry_run:
            losing.show(run, [_loss(connection.template(ref))])
            return
        # What is not there, or is in use, is said without a question before.
        there = [view for view in connection.templates() if ref in (view.name, view.ref)]
        losing.ask(run, [_loss(view) for view in there], yes=yes)
        done = connection.remove_template(ref, when_unused=when_unused)
    if done.retired and not run.as_json:
        out().print(f"template {done.name} goes with the last of its clones")
    else:
        print_removals([done], "template", as_json=run.as_json)


@app.command("warm")
def warm(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The template to read into the cache.")],
    as_json: JsonOption = False,
) -> None:
    """Fetch a template's boot set into the cache, so that its clones are fast from the first boot.

    All of a template that has none.
    """
    run = session(context, as_json)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        done = follow(connection, connection.warm(ref), deadline=IMPORT_DEADLINE, show=not run.as_json)
    if run.as_json:
        print_json(done)
    else:
        out().print(f"{done.subject}: {size(done.done_bytes)} read through the cache")


def _loss(view: schema.TemplateView) -> losing.Loss:
    clones = f"{view.clones} clone(s) depend on it" if view.clones else "no clone depends on it"
    return losing.Loss(f"template {view.ref}", f"its disk of {size(view.size)}, from {view.source}; {clones}")


def _promote(run: Session, clone: str, name: str) -> None:
    """Make a version of a clone, and show it."""
    with run.connect() as connection:
        operation = connection.promote_clone(clone, name)
        done = follow(connection, operation, deadline=IMPORT_DEADLINE, show=not run.as_json)
        view = connection.template(done.subject)
    _print(run, view)


def shown_state(view: schema.TemplateView) -> Text:
    """A version's state in its colour; a retired one says so."""
    return Text("retired") if view.retired else state(view.state)


def _send(
    run: Session, connection: client.Client, wanted: schema.TemplateCreate, source: str, packed: image_file.Packed
) -> schema.Operation:
    """Begin an import and send its image. Raises as ``image_file.opened`` and ``Client.upload``."""
    showing = progress.bar(f"opening {source}", show=not run.as_json)
    with showing as display, image_file.opened(source, wanted.sha256, display, packed) as image:
        # What was compared here is the compressed file's; the appliance gets the image itself.
        sha256 = None if image.checked else wanted.sha256
        operation = connection.import_template(wanted.model_copy(update={"size": image.length, "sha256": sha256}))
        display.begin(f"sending {image.title}", image.length)
        connection.upload(wanted.name, image.length, image.blocks(display.add), operation)
    return operation


@dataclass(frozen=True)
class _More:
    """What may come with an image."""

    sha256: str | None
    boot_set: str | None


def _create(name: str, kind: ImageFormat, source: schema.Source, more: _More) -> schema.TemplateCreate:
    digest = more.sha256.lower() if more.sha256 else None
    if digest is not None and not re.fullmatch("[0-9a-f]{64}", digest):
        raise InvalidInput(f"{more.sha256!r} is not a SHA-256", why="it has 64 hexadecimal digits")
    return schema.TemplateCreate(name=name, format=kind, source=source, sha256=digest, boot_set=more.boot_set)


def _print(run: Session, view: schema.TemplateView) -> None:
    if run.as_json:
        print_json(view)
        return
    print_fields(
        {
            "template": view.ref,
            "state": shown_state(view),
            "size": size(view.size),
            "used": size(view.mapped_bytes),
            "clones": str(view.clones),
            "format": view.format.value,
            "source": view.source,
            "sha256": view.sha256 or "-",
            "created": when(view.created),
            "boot set": "-" if view.boot_set is None else boot_set.words(view.boot_set),
            "prefetch": "-" if view.prefetch is None else boot_set.prefetch_words(view.prefetch),
            **({} if view.fetch is None else {"fetched": nbd_source.words(view)}),
            **({"offered to": ", ".join(view.offered_to)} if view.offered_to else {}),
            "learning": "-" if view.learning is None else learn.words(view.learning),
        }
    )
