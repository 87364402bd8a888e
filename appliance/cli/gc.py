"""``hatchery gc``: give back the space that nobody needs."""

from collections.abc import Iterator

import typer

from appliance import client, schema
from appliance.cli import losing
from appliance.cli.options import JsonOption, follow, session
from appliance.cli.output import out, print_json, table
from appliance.cli.store import DryRunOption
from appliance.words import size

DEADLINE = 24 * 3600.0
"""Seconds after which a collection counts as hung; one that gives way to guests takes its time."""


def gc(
    context: typer.Context,
    dry_run: DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give back what nobody needs: ended leases, removed clones and templates, orphans. It also runs by itself.

    Orphans are volumes that the catalog does not know. After a restore they may be somebody's clones, so at a terminal
    it asks before it takes them.
    """
    run = session(context, as_json)
    with run.connect() as connection:
        if dry_run:
            report = connection.garbage()
            if run.as_json:
                print_json(report)
            else:
                _print(report)
            return
        # The look is slow, and nobody is asked elsewhere.
        if not yes and losing.at_a_terminal():
            losing.ask(run, list(_orphans(connection)), yes=yes)
        done = follow(connection, connection.collect(), deadline=DEADLINE, show=not run.as_json)
    if run.as_json:
        print_json(done)
    else:
        out().print(done.phase)


def _orphans(connection: client.Client) -> Iterator[losing.Loss]:
    for volume in connection.garbage().volumes:
        if volume.state == "orphaned":
            own = "" if volume.exclusive_bytes is None else f", with {size(volume.exclusive_bytes)} that no other has"
            detail = f"{volume.why}{own}; after a restore it may be a clone"
            yield losing.Loss(f"volume {volume.thin_id} of the {volume.pool} pool", detail)


def _print(report: schema.GarbageReport) -> None:
    shown = [volume for volume in report.volumes if volume.reclaimed or volume.state == "missing"]
    console = out()
    if shown:
        rows = table("VOLUME", "POOL", "STATE", "GIVES", "WHY")
        for volume in shown:
            rows.add_row(str(volume.thin_id), volume.pool, volume.state, size(volume.exclusive_bytes), volume.why)
        console.print(rows)
    counts = [(state, sum(volume.state == state for volume in report.volumes)) for state in ("serving", "held")]
    kept = ", ".join(f"{count} {state}" for state, count in counts)
    console.print(f"{size(report.reclaimable_bytes)} would be given back, and what the volumes share; {kept}")
