"""``hatchery``: the operator's command line. It speaks with the API only, here or on another machine through SSH."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.logging import RichHandler

from appliance import __version__
from appliance.cli import (
    authority,
    client,
    clone,
    doctor,
    events,
    gc,
    measure,
    operation,
    status,
    store,
    support,
    template,
    top,
)
from appliance.cli.options import Session
from appliance.cli.output import err, print_error
from appliance.errors import HatcheryError, NotReady

EXIT_STATUS = {
    "error": 1,
    "wrong-command-line": 2,
    "invalid-input": 3,
    "bad-image": 3,
    "not-found": 4,
    "already-exists": 5,
    "in-use": 6,
    "refused": 7,
    "no-space": 8,
    "not-ready": 9,
    "unhealthy": 10,
    "cannot-tell": 11,
    "deadline": 12,
    "command-failed": 13,
    "cancelled": 14,
}
"""Exit status of each error code."""

INTERRUPTED = 130
READER_GONE = 141
"""The statuses that a shell shows for a program that SIGINT, or SIGPIPE, ended."""

app = typer.Typer(
    name="hatchery",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hatch VM disk clones from templates.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("top")(top.top)
app.command("events")(events.events)
app.command("support-bundle")(support.support_bundle)
app.add_typer(template.app, name="template")
app.add_typer(clone.app, name="clone")
app.add_typer(client.app, name="client")
app.add_typer(authority.app, name="authority")
app.add_typer(store.app, name="store")
app.command("gc")(gc.gc)
app.add_typer(operation.app, name="operation")
app.add_typer(status.cache_app, name="cache")
app.add_typer(measure.app, name="measure")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hatchery {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            "-H",
            envvar="HATCHERY_HOST",
            metavar="USER@HOST",
            help="The appliance to speak with, through SSH; without it, this machine. "
            "HATCHERY_SSH_OPTIONS holds further options for ssh.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Results and errors as JSON.")] = False,
    socket: Annotated[
        Path | None, typer.Option(envvar="HATCHERY_SOCKET", help="The API's unix socket on the appliance.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every command that is run.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hatch VM disk clones from templates."""
    del version
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=err(), show_path=False)],
    )
    context.obj = Session(host=host, as_json=as_json, socket=socket)


class WrongCommandLine(HatcheryError):
    """What was typed is no command line of this program. click finds that, and its words say what is wrong."""

    code = "wrong-command-line"
    next_step = "`hatchery --help` shows the commands, and `--help` after one what it takes"


def _wrong(error: Any) -> WrongCommandLine:
    """One of click's errors as ours."""
    where = error.ctx.command_path if error.ctx is not None else "hatchery"
    why = error.format_message()
    return WrongCommandLine("the command line is wrong", why=why, hint=f"`{where} --help` shows what it takes")


_USAGE: Any = typer.BadParameter.__bases__[0]
"""What click raises for all wrong command lines; newer versions of typer carry a click of their own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status."""
    if argv is None:
        # Told to end, it ends as by Ctrl-C: a measurement removes its clones and its guests.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    words = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in words
    command = typer.main.get_command(app)
    try:
        # For people, click says itself what is wrong with a command line, in colours.
        result = command.main(words, prog_name="hatchery", standalone_mode=not as_json)
    except HatcheryError as error:
        print_error(error, as_json=as_json)
        return EXIT_STATUS.get(error.code, 1)
    except _USAGE as error:
        # A group alone was answered by its help.
        if type(error).__name__ != "NoArgsIsHelpError":
            print_error(_wrong(error), as_json=True)
        return EXIT_STATUS[WrongCommandLine.code]
    except typer.Abort:
        return EXIT_STATUS[HatcheryError.code]
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        err().print("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away (`hatchery clone list | head`); Python must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError:
        # typer 0.15 lets through that it did not find the shell among this program's parents.
        if not {"--show-completion", "--install-completion"} & set(words):
            raise
        hint = "start it from bash, zsh or fish, in which the completion is wanted"
        print_error(NotReady("the shell cannot be told", why="none started this program", hint=hint), as_json=False)
        return EXIT_STATUS[NotReady.code]
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
