"""``hatchery events``: what changes, a line an event."""

import sys
from typing import Annotated

import typer

from appliance import schema
from appliance.cli.options import JsonOption, session
from appliance.cli.output import out, when
from appliance.errors import NotReady


def events(
    context: typer.Context,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    after: Annotated[
        str | None, typer.Option("--after", metavar="ID", help="Begin after this event, whose id --json shows.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed, as far as it is remembered: operations, clones, templates, problems. One line an event.

    With --json, a document in each line. A line `reset` says that events are missing there.
    """
    run = session(context, as_json)
    try:
        with run.connect() as connection:
            for event in connection.events(after, follow=follow):
                if run.as_json:
                    sys.stdout.write(event.model_dump_json() + "\n")
                    sys.stdout.flush()
                else:
                    out().print(line(event), markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        if not follow:
            raise
        return
    if follow:
        raise NotReady("the events ended", why="the service ended, or this reader was too slow", hint="begin again")


def line(event: schema.Event) -> str:
    """An event in a line."""
    words = f"  {event.words}" if event.words else ""
    return f"{when(event.time)}  {event.kind:<9}  {event.subject}  {event.state}{words}"
