"""``hatchery template learn``: boots to be recorded."""

from typing import Annotated

import typer

from appliance import schema
from appliance.cli.options import JsonOption, follow, session
from appliance.cli.output import out, print_json
from appliance.model import TemplateRef

DEADLINE = 24 * 3600.0
"""Seconds that boots are waited for with ``--wait``."""


def learn(
    context: typer.Context,
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The template whose clones will boot.")],
    runs: Annotated[int, typer.Option(min=1, max=20, help="How many boots.")] = 3,
    wait: Annotated[bool, typer.Option("--wait", help="Return when they are recorded.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Record what a template's clones read in their next boots, and make its boot set of it.

    A template without a boot set is learned by itself; this is for learning anew, after guests boot in another way.
    """
    run = session(context, as_json)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        asked = connection.learn(ref, runs)
        if wait:
            asked = follow(connection, asked, deadline=DEADLINE, show=not run.as_json)
    if run.as_json:
        print_json(asked)
    elif wait:
        out().print(f"{asked.subject}: {runs} boot(s) were recorded")
    else:
        out().print(f"{asked.subject}: {runs} boot(s) of its clones will be recorded: boot some")
        out().print(f"`hatchery operation follow {asked.id}` shows how far it is, `operation cancel` ends it")


def words(view: schema.LearningView) -> str:
    """What is being learned, in a line."""
    if view.cannot:
        return f"not possible: {view.cannot}"
    booting = f", recording {', '.join(view.recording)}" if view.recording else ""
    return f"{view.missing} more boot(s) wanted, listening to {view.listening} clone(s){booting}"
