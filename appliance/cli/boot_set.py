"""``hatchery template boot-set``: what a template's clones read while they boot, as a file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance import client, schema
from appliance.cli import losing
from appliance.cli.options import JsonOption, TemplateArgument, session
from appliance.cli.output import out, print_json, print_removals
from appliance.errors import AlreadyExists, InvalidInput
from appliance.model import TemplateRef
from appliance.words import size

app = typer.Typer(no_args_is_help=True, help="Boot sets: what is fetched into the cache before clones boot.")

Target = Annotated[str, typer.Argument(metavar="FILE", help="A new file; - is the standard output.")]


@app.command("export")
def export(
    context: typer.Context,
    ref: TemplateArgument,
    target: Target = "-",
) -> None:
    """Write a template's boot set to a file, for another appliance."""
    run = session(context, as_json=False)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        text = connection.export_boot_set(ref)
    _write(text, target)


@app.command("trace")
def trace(
    context: typer.Context,
    ref: TemplateArgument,
    target: Target = "-",
    boot: Annotated[
        int, typer.Option("--boot", min=1, metavar="N", help="The last but N-1 of those that are kept.")
    ] = 1,
) -> None:
    """Write what a recorded boot of a template read, as a trace for `hatchery measure replay`."""
    run = session(context, as_json=False)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        text = connection.boot_trace(ref, boot)
    _write(text, target)


def _write(text: str, target: str) -> None:
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        with Path(target).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise AlreadyExists(f"{target} exists", hint="name another file, or remove it") from error
    except OSError as error:
        raise InvalidInput(
            f"{target} cannot be written",
            why=error.strerror or str(error),
            hint="name a file in a folder that you may write to",
        ) from error


@app.command("import")
def import_(
    context: typer.Context,
    ref: TemplateArgument,
    source: Annotated[str, typer.Argument(metavar="FILE", help="What `export` wrote; - is the standard input.")],
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give a template a boot set, in place of one that it has; it is fetched into the cache at once."""
    run = session(context, as_json)
    TemplateRef.parse(ref)
    content = read(source)
    with run.connect() as connection:
        if dry_run:
            losing.show(run, _losses(connection, ref, absent_is_error=True))
            return
        losing.ask(run, _losses(connection, ref), yes=yes)
        view = connection.import_boot_set(ref, content)
    if run.as_json:
        print_json(view)
    else:
        out().print(f"{view.template}: {words(view)}")


@app.command("remove")
def remove(
    context: typer.Context,
    ref: TemplateArgument,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Forget a template's boot set and the boots that it was learned from; it is learned again."""
    run = session(context, as_json)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        if dry_run:
            losing.show(run, _losses(connection, ref, absent_is_error=True))
            return
        losing.ask(run, _losses(connection, ref), yes=yes)
        done = connection.remove_boot_set(ref)
    print_removals([done], "boot set", as_json=run.as_json)


def _losses(connection: client.Client, ref: str, *, absent_is_error: bool = False) -> list[losing.Loss]:
    """What goes with the boot set that a template has."""
    view = losing.known(lambda: connection.template(ref), absent_is_error=absent_is_error)
    if view is None or view.boot_set is None:
        return []
    return [losing.Loss(f"the boot set of template {view.ref}", f"{words(view.boot_set)}, and the recordings of these")]


def read(source: str) -> str:
    """The text of a file, or of the standard input. Raises InvalidInput."""
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{source} cannot be read", why=str(error), hint="is its path right, and may you read it?"
        ) from error


def words(view: schema.BootSetSummary) -> str:
    """A boot set in a line."""
    origin = "guessed, " if view.guessed else ""
    told = f"{size(view.total_bytes)} in {view.extents} extents, {origin}from {view.runs} boot(s)"
    if view.wasted_bytes is not None:
        boots = f"{view.judged} boot(s) since" if view.judged else "these"
        told += f"; {size(view.total_bytes - view.wasted_bytes)} of it read by {boots}, {size(view.wasted_bytes)} not"
    return told


def prefetch_words(view: schema.PrefetchView) -> str:
    """How a prefetch went, in a line."""
    if view.state in ("waiting", "running"):
        done = f"{size(view.done_bytes)} of {size(view.total_bytes)}, pass {view.passes}, {size(view.rate)}/s"
        return f"{view.state}, {done} ({view.why})"
    rate = f", {size(round(view.backend_bytes / view.seconds))}/s" if view.seconds and view.backend_bytes else ""
    read = f"{size(view.backend_bytes)} from the backend in {view.seconds:.1f} s{rate}"
    left = f", {size(view.left_bytes)} not in the cache" if view.state == "incomplete" else ""
    return f"{view.state}, {read}{left} ({view.why})"
