"""``hatchery clone look``: which partitions a clone has and what they hold, told by ``hatchery-attach`` of a still."""

import json
import os
import sys
from typing import Annotated

import typer
from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.text import Text

from appliance.cli import image_export
from appliance.cli.options import JsonOption, session
from appliance.cli.output import out, print_json, table
from appliance.client import error_named
from appliance.errors import CannotTell
from appliance.model import check_name
from appliance.run import Runner
from appliance.words import size

DEADLINE = 600.0
"""Seconds after which a look counts as hung: each of some hundred partitions may take a while on slow disks."""


class Part(BaseModel):
    """A disk (``number`` 0) or a partition of it, as ``hatchery-attach --look`` tells of it; in bytes."""

    number: int
    start: int
    size: int
    name: str
    holds: str
    label: str
    uuid: str


_PARTS = TypeAdapter(tuple[Part, ...])


def look(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the clone.")],
    as_json: JsonOption = False,
) -> None:
    """Say which partitions a clone has at this moment, and what each holds: its type, label and UUID.

    Nothing looks into a clone unless it is asked to. A snapshot is taken for it, so that its guest may go on, and goes
    afterwards; nothing is mounted or written. It takes root on this machine, and its module nbd (`modprobe nbd`).
    """
    run = session(context, as_json)
    check_name(name, "clone name")
    with (
        run.connect() as connection,
        image_export.offered(connection, lambda each: each.still_of_clone(name)) as still,
        image_export.reachable(run, still) as uri,
    ):
        # It is found where this program's own modules are.
        parts = looked(uri, Runner({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}))
    if run.as_json:
        print_json(parts)
        return
    shown = table("partition", ">start", ">size", "holds", "label", "uuid", "name")
    for part in parts:
        words = (part.holds or "-", part.label, part.uuid, part.name)
        # As plain text: a guest's label is no markup.
        shown.add_row(str(part.number or "disk"), size(part.start), size(part.size), *map(Text, words))
    out().print(shown)


def looked(uri: str, runner: Runner) -> tuple[Part, ...]:
    """What ``hatchery-attach`` tells of an export. Raises what that failed with, CannotTell."""
    argv = [sys.executable, "-P", "-m", "appliance.attach.main", "--json", "--look", uri]
    done = runner.run(argv, timeout=DEADLINE, check=False)
    try:
        if done.returncode == 0:
            return _PARTS.validate_json(done.stdout)
        error = json.loads(done.stdout)["error"]
        failed = error_named(error["code"], error["what"], error["why"], error["hint"])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        why = done.stderr.strip() or str(error)
        raise CannotTell("hatchery-attach does not say what it saw", why=why) from error
    raise failed
