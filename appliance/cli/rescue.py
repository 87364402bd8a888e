"""``hatchery store backup``, ``restore`` and ``repair``: they run ``hatchery-store`` on the appliance.

The service cannot do it: it is what is backed up, or it cannot start. Here this program needs root; with ``--host`` it
logs in there.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from appliance import remote
from appliance.cli.options import JsonOption, session
from appliance.run import Runner

YesOption = Annotated[bool, typer.Option("--yes", help="Do it, instead of saying what would be done.")]


def backup(
    context: typer.Context,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Into this folder of the appliance, as an archive; - is standard output, here."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Back up the catalog, the durable pool's metadata and the settings, while everything runs."""
    _run(context, ["backup", *(["--to", to] if to else [])], as_json=as_json)


def restore(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="[BACKUP]", help="A backup's folder or archive on the appliance; - is standard input."),
    ] = None,
    without_backup: Annotated[
        bool, typer.Option("--without-backup", help="Begin empty: every volume gets a new name.")
    ] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Put a lost catalog back, from a backup and from what the pools hold. Nothing in the pools is deleted."""
    words = [*([source] if source else []), *(["--without-backup"] if without_backup else [])]
    _run(context, ["restore", *words, *(["--yes"] if yes else [])], as_json=as_json)


def repair(
    context: typer.Context,
    copy_to: Annotated[
        str | None, typer.Option(metavar="DIR", help="Keep copies there, not on the state file system.")
    ] = None,
    from_dump: Annotated[bool, typer.Option("--from-dump", help="Go back to the newest dump.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Repair the durable pool's metadata, step by step; the store must be stopped."""
    words = [*(["--copy-to", copy_to] if copy_to else []), *(["--from-dump"] if from_dump else [])]
    _run(context, ["repair", *words, *(["--yes"] if yes else [])], as_json=as_json)


def _run(context: typer.Context, words: Sequence[str], *, as_json: bool) -> NoReturn:
    """Become the other program: its output and its exit status are this one's."""
    run = session(context, as_json)
    # A terminal there would mix what it says with its results.
    terminal = not run.as_json and sys.stdin.isatty() and sys.stdout.isatty()
    argv = ["hatchery-store", *words, *(["--json"] if run.as_json else [])]
    Runner().become(remote.command_line(run.host, argv, terminal=terminal))
