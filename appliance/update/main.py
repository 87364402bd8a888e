"""``hatchery-update``: put a bundle's version on trial, go back, and say how the slots stand."""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance import progress, reconcile
from appliance.catalog import form
from appliance.config import Part, Paths
from appliance.errors import HatcheryError, NotFound, NotReady, Unhealthy
from appliance.host import audit, journal
from appliance.host.audit import Tell
from appliance.images import fetch
from appliance.run import Runner
from appliance.update import bundle, offer, plan, secure_boot, slots, trial
from appliance.update.bundle import Bundle, Contents
from appliance.update.offer import Folder, Offer
from appliance.update.plan import Box, Forms, Steps, Wish, explain
from appliance.update.record import Record
from appliance.update.slots import Slots
from appliance.update.spool import Patience, Spool
from appliance.update.trial import Depth
from appliance.update.view import as_json, as_text, own_verdict, verdict

OK, BAD, REFUSED = 0, 1, 2
"""Exit statuses: done; not good; an error that says why, before anything was half done."""

CHANGING = frozenset({"apply", "back", "trial"})
"""Verbs that change something; a trial's answer decides whether the version stays."""

SELF_TEST_PATIENCE = 20.0
"""Seconds that a self-test by hand waits for what is just starting, such as a client's storage daemon."""

SIGNERS = "update-signers"
LOGINS = Path("/root/.ssh/authorized_keys")

SPOOL = "spool"
"""Where, in the record's folder, a bundle lies that is fetched from a URL."""

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="hatchery-update", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("show", "verify who signed a bundle, and say what it is"),
        ("check", "only say what would be done"),
        ("apply", "put a bundle's version on trial"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("bundle", metavar="BUNDLE", help="the bundle's folder, or the https URL of that")
        one.add_argument("--ca", type=Path, metavar="FILE", help="for a URL: the authority of the server's certificate")
        one.add_argument("--plain-http", action="store_true", help="for a URL: accept http, which is not encrypted")
        if verb == "show":
            one.add_argument("--json", action="store_true", help="for programs")
            continue
        one.add_argument("--again", action="store_true", help="try a version again that was given up")
        one.add_argument("--older", action="store_true", help="accept a version that is older than the one that runs")
        one.add_argument("--no-way-back", action="store_true", help="accept a version that changes the catalog's form")
        one.add_argument("--unhealthy", action="store_true", help="although this appliance would not be found good now")
        one.add_argument("--json", action="store_true", help="for programs")
        if verb == "check":
            one.add_argument("--no-contents", action="store_true", help="look at the signed list of files alone")
    back = verbs.add_parser("back", help="let the next start be that of the older version in the other slot")
    back.add_argument("--json", action="store_true", help="for programs")
    status = verbs.add_parser("status", help="how the slots stand, and how the last update went")
    status.add_argument("--json", action="store_true", help="for programs")
    verbs.add_parser("self-test", help="ask this appliance what a new version is asked after its start")
    verbs.add_parser("trial", help="the same, and remember the answer (done by systemd after a start)")
    verbs.add_parser("dismiss", help="it is known that the last update was given up: no problem any more")
    verbs.add_parser("verdict", help="say why a version was given up (done by systemd after a start)")
    return top


def main(argv: Sequence[str] | None = None, tell: Tell = journal.send) -> int:
    """Run the program; returns its exit status. ``tell`` gets the line for the audit log."""
    words = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    runner, paths = Runner(), Paths()
    try:
        if arguments.verb in CHANGING:
            return audit.commanded("hatchery-update", words, lambda: run(arguments, runner, paths), tell)
        return run(arguments, runner, paths)
    except HatcheryError as error:
        if getattr(arguments, "json", False):
            sys.stdout.write(json.dumps({"error": explain(error)}) + "\n")
        sys.stderr.write(f"hatchery-update: {error}\n")
        return REFUSED


def run(arguments: argparse.Namespace, runner: Runner, paths: Paths) -> int:
    """Do what the command line says; returns the exit status. Raises HatcheryError."""
    record = Record()
    if arguments.verb == "self-test":
        return _say_ailments(trial.ailments(runner, paths, Depth.TRY, patience=SELF_TEST_PATIENCE))
    if arguments.verb == "trial":
        return _trial(runner, paths, record)
    if arguments.verb == "show":
        return _show(arguments, runner, paths, record)
    boot = slots.boot_folder(runner)
    if arguments.verb not in ("status", "verdict", "dismiss"):
        return _change(arguments, runner, paths, Box(runner, boot, record))
    seen = slots.observe(boot)
    if arguments.verb == "status":
        found = as_json(seen, record.trial())
        sys.stdout.write(json.dumps(found, indent=2) + "\n" if arguments.json else as_text(found))
    elif arguments.verb == "dismiss":
        _dismiss(seen, runner, paths, record)
    else:
        _verdict(seen, paths, record)
    return OK


def _verdict(seen: Slots, paths: Paths, record: Record) -> None:
    """Log why a version was given up, and leave it where the console and the service find it."""
    known = record.trial()
    if (said := verdict(seen, known)) is not None:
        log.error("%s", said)
    if (said := own_verdict(seen, known)) is None:
        paths.given_up.unlink(missing_ok=True)
        return
    fresh = paths.given_up.with_suffix(".new")
    fresh.write_text(f"{said}\n", encoding="utf-8")
    fresh.rename(paths.given_up)


def _dismiss(seen: Slots, runner: Runner, paths: Paths, record: Record) -> None:
    """Forget why the last update was given up. Raises NotFound, InUse."""
    with record.exclusive():
        if verdict(seen, record.trial()) is None:
            raise NotFound("nothing to dismiss", why="the last update was not given up, or that was dismissed before")
        record.end_trial()
        paths.given_up.unlink(missing_ok=True)
    runner.run(["systemctl", "--no-block", "restart", "hatchery-console.timer"], check=False)


def _show(arguments: argparse.Namespace, runner: Runner, paths: Paths, record: Record) -> int:
    with _offered(arguments, runner, paths, record) as offered:
        made = offered.read()
    values = {
        "version": str(made.version),
        "catalog": made.catalog,
        "usr_size": made.usr_size,
        "verity_size": made.verity_size,
        "uki_size": made.uki_size,
    }
    text = f"version {made.version}, which writes form {made.catalog} of the catalog; its signature counts\n"
    sys.stdout.write(json.dumps(values) + "\n" if arguments.json else text)
    return OK


def _change(arguments: argparse.Namespace, runner: Runner, paths: Paths, box: Box) -> int:
    """The verbs that change the slots, and the one that says what they would do."""
    checking = arguments.verb == "check"
    with contextlib.nullcontext() if checking else box.record.exclusive():
        seen = slots.observe(box.boot)
        forms = _forms(arguments, paths)
        if arguments.verb == "back":
            others = [uki.version for uki in seen.others if uki.good]
            steps = plan.back(seen, forms, box.record.form(others[-1]) if others else None)
            _apply(steps, box)
        else:
            with _offered(arguments, runner, paths, box.record) as offered:
                made = offered.read()
                steps = _steps(arguments, seen, forms, made, runner, paths)
                if steps and checking:
                    offered.check()
                    if made.uki.exists():
                        secure_boot.check(made.uki)
                elif steps:
                    with progress.bar("fetching the bundle", show=not arguments.json) as bar:
                        offered.complete(bar)
                        secure_boot.check(made.uki)
                        _apply(steps, replace(box, bar=bar))
    _say(steps, done=not checking, as_json=arguments.json, waits=seen.next() != seen.running)
    return OK


def _apply(steps: Steps, box: Box) -> None:
    try:
        reconcile.apply(steps, box)
    except OSError as error:
        why, hint = str(error), "what runs is as it was; look at the system disk, then do the same again"
        raise Unhealthy("the slots could not be changed", why=why, hint=hint) from error


def _offered(
    arguments: argparse.Namespace, runner: Runner, paths: Paths, record: Record
) -> AbstractContextManager[Offer]:
    """The bundle that the command line names. Raises HatcheryError."""
    signers = bundle.signers(paths.etc / SIGNERS, LOGINS)
    kept = Spool(record.folder / SPOOL)
    applying = arguments.verb == "apply"
    if not offer.is_url(arguments.bundle):
        if applying:
            kept.clear()
        few = arguments.verb == "show" or getattr(arguments, "no_contents", False)
        contents = Contents.IGNORE if few else Contents.VERIFY
        return contextlib.nullcontext(Folder(Path(arguments.bundle).resolve(), signers, runner, contents))
    opener = fetch.confined(runner, bound_to=None, seconds=Patience().deadline)
    authority = _authority(arguments.ca) if arguments.ca else ""
    where = offer.place(arguments.bundle, opener, authority=authority, plain_http=arguments.plain_http)
    if applying:
        return offer.fetched(where, kept, signers, runner)
    return offer.looked_at(where, kept, signers, runner)


def _authority(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        hint = "--ca takes the file of the server's authority, in PEM"
        raise NotFound(f"{file} cannot be read", why=str(error), hint=hint) from error


def _forms(arguments: argparse.Namespace, paths: Paths) -> Forms:
    deployed = (paths.conf_d / Part.STORE.file_name).exists()
    forms = Forms(form.of(paths.catalog), form.KNOWN)
    if deployed and forms.there is None and not getattr(arguments, "no_way_back", False):
        raise NotReady(
            "whether an older version could open the catalog cannot be told",
            why="the store is down",
            hint="start it (`systemctl start hatchery-store`), or say --no-way-back",
        )
    return forms


def _steps(
    arguments: argparse.Namespace, seen: Slots, forms: Forms, offered: Bundle, runner: Runner, paths: Paths
) -> Steps:
    wish = Wish(arguments.again, arguments.older, arguments.no_way_back, arguments.unhealthy)
    depth = Depth.LOOK if arguments.verb == "check" else Depth.TRY
    ailing = () if wish.unhealthy else trial.ailments(runner, paths, depth, patience=0)
    return plan.update(offered, seen, forms, wish, ailing)


def _trial(runner: Runner, paths: Paths, record: Record) -> int:
    """Ask, and remember why not: on the root file system, which the other slot shares."""
    found = trial.ailments(runner, paths, Depth.TRY)
    known = record.trial()
    mine = known is not None and known.version == str(slots.running())
    if not found and mine:
        record.end_trial()
    if found and known is not None and mine:
        record.set_trial(known.failed("; ".join(found)))
    return _say_ailments(found)


def _say_ailments(found: Sequence[str]) -> int:
    for ailment in found:
        log.error("%s", ailment)
    if not found:
        log.info("this appliance is good")
    return BAD if found else OK


def _say(steps: Steps, *, done: bool, as_json: bool, waits: bool) -> None:
    restart = bool(steps) or waits
    described = [step.describe() for step in steps]
    if as_json:
        words = [{"action": one.action, "target": one.target, "detail": one.detail} for one in described]
        answer: dict[str, Any] = {"changed": bool(steps), "steps": words, "restart": restart}
        sys.stdout.write(json.dumps(answer) + "\n")
        return
    for one in described:
        sys.stdout.write(f"{one}\n")
    if not restart:
        sys.stdout.write("nothing to do\n")
    elif done:
        sys.stdout.write("restart to start it: systemctl reboot\n")


if __name__ == "__main__":
    sys.exit(main())
