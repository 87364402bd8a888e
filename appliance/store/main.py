"""``hatchery-store``: bring the store up and down, set it up, and say how it is."""

# What a verb alone needs is imported by it: guests wait for ``up``, which has no use for the rest.

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from appliance import config
from appliance.config import Part
from appliance.errors import HatcheryError, InvalidInput
from appliance.host import audit, journal
from appliance.host.audit import Tell
from appliance.store import start
from appliance.store.machine import Machine

if TYPE_CHECKING:
    from appliance.store.setup import Result

OK, FAILED, REFUSED = 0, 1, 2
"""Exit statuses: done; a part did not start or stop; an error that says why, before anything was half done."""

LOOKING = frozenset({"status", "backup"})
"""Verbs that change nothing."""

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def parser(add: Callable[[Verbs], None] | None = None) -> argparse.ArgumentParser:
    """The command line. ``add`` gives it further verbs, each with a default ``run``: from its arguments to a status."""
    top = argparse.ArgumentParser(prog="hatchery-store", description=__doc__)
    top.add_argument("--verbose", "-v", action="store_true", help="log every command")
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="bring the store up; may be repeated")
    verbs.add_parser("down", help="take the store down")
    verbs.add_parser("scrub", help="read and compare all that the arrays hold, below the guests' I/O")
    status = verbs.add_parser("status", help="how the store is")
    status.add_argument("--json", action="store_true", help="for programs")
    anew = verbs.add_parser("recreate-fast", help="make the fast pool anew: all ephemeral clones are lost")
    anew.add_argument("--lose-ephemeral-clones", action="store_true", required=True, help="yes, that is what I want")
    gone = verbs.add_parser("remove", help="take the store off its drives: all templates and clones are lost")
    gone.add_argument("--serial", action="append", default=[], metavar="NUMBER", help="of a drive; once for each drive")
    gone.add_argument("--lose-attached-clones", action="store_true", help="also while clones are attached")
    gone.add_argument("--check", action="store_true", help="only say what would be done")
    gone.add_argument("--json", action="store_true", help="for programs")
    make = verbs.add_parser("setup", help="make a part of the store; may be repeated")
    make.add_argument("part", choices=list(Part), type=Part)
    make.add_argument("--spec", required=True, metavar="FILE", help="JSON object with the part's settings; - is stdin")
    make.add_argument("--check", action="store_true", help="only say what would be done")
    make.add_argument("--json", action="store_true", help="for programs")
    if add is not None:
        add(verbs)
    return top


def main(
    argv: Sequence[str] | None = None, add: Callable[[Verbs], None] | None = None, tell: Tell = journal.send
) -> int:
    """Run the program; returns its exit status. ``add`` as for ``parser``; ``tell`` gets the line for the audit log."""
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(add).parse_args(words)
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    as_json = bool(getattr(arguments, "json", False))
    try:
        if _changes(arguments):
            return audit.commanded("hatchery-store", words, lambda: _run(arguments), tell)
        return _run(arguments)
    except HatcheryError as error:
        _say_error(error, as_json)
        return REFUSED


def _changes(arguments: argparse.Namespace) -> bool:
    """Whether this is to change something: neither a question nor a plan that is only shown."""
    only_shown = getattr(arguments, "check", False) or not getattr(arguments, "yes", True)
    # A repair that was cut off goes on without being told.
    return arguments.verb not in LOOKING and (not only_shown or arguments.verb == "repair")


def _run(arguments: argparse.Namespace) -> int:
    if hasattr(arguments, "run"):
        return int(arguments.run(arguments))
    machine = Machine(config.load())
    if arguments.verb == "up":
        with machine.exclusive():
            start.up(machine)
        return OK
    if arguments.verb == "down":
        with machine.exclusive():
            return FAILED if start.down(machine) else OK
    if arguments.verb == "recreate-fast":
        start.recreate_fast(machine)
        return OK
    if arguments.verb == "scrub":
        from appliance.store import scrub

        return OK if scrub.run(machine) else FAILED
    if arguments.verb == "status":
        return _status(machine, bool(arguments.json))
    return _remove(machine, arguments) if arguments.verb == "remove" else _setup(machine, arguments)


def _remove(machine: Machine, arguments: argparse.Namespace) -> int:
    from appliance.store import remove
    from appliance.store.setup import Doing

    wish = remove.Wish(tuple(arguments.serial), bool(arguments.lose_attached_clones))
    _say_result(remove.run(machine, wish, Doing.CHECK if arguments.check else Doing.APPLY), bool(arguments.json))
    return OK


def _setup(machine: Machine, arguments: argparse.Namespace) -> int:
    from appliance.store import setup

    part: Part = arguments.part
    spec = setup.parse_spec(part, _read(arguments.spec))
    doing = setup.Doing.CHECK if arguments.check else setup.Doing.APPLY
    with machine.exclusive() if doing is setup.Doing.APPLY else contextlib.nullcontext():
        result = setup.run(machine, part, spec, doing)
    _say_result(result, bool(arguments.json))
    return OK


def _read(name: str) -> Any:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidInput("the specification cannot be read", why=str(error)) from error


def _status(machine: Machine, as_json: bool) -> int:
    from appliance.store.health import Store
    from appliance.store.health_text import as_text

    health = Store(machine).health()
    sys.stdout.write((json.dumps(health.as_json(), indent=2) if as_json else as_text(health)) + "\n")
    return OK


def _say_result(result: "Result", as_json: bool) -> None:
    if as_json:
        steps = [{"action": step.action, "target": step.target, "detail": step.detail} for step in result.steps]
        answer = {
            "changed": result.changed,
            "steps": steps,
            "config_diff": {"before": result.before, "after": result.after},
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    for step in result.steps:
        sys.stdout.write(f"{step}\n")
    sys.stdout.write("changed\n" if result.changed else "nothing to do\n")


def _say_error(error: HatcheryError, as_json: bool) -> None:
    if as_json:
        words = {"code": error.code, "what": error.what, "why": error.why, "hint": error.hint}
        sys.stdout.write(json.dumps({"error": words}) + "\n")
    sys.stderr.write(f"hatchery-store: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
