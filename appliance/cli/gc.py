"""``hatchery gc``: give back the space that nobody needs."""

import typer

from appliance import schema
from appliance.cli.options import JsonOption, follow, session
from appliance.cli.output import out, print_json, table
from appliance.cli.store import DryRunOption
from appliance.words import size

DEADLINE = 24 * 3600.0
"""Seconds after which a collection counts as hung; one that gives way to guests takes its time."""


def gc(context: typer.Context, dry_run: DryRunOption = False, as_json: JsonOption = False) -> None:
    """Give back what nobody needs: ended leases, removed clones and templates, orphans. It also runs by itself."""
    run = session(context, as_json)
    with run.connect() as connection:
        if dry_run:
            report = connection.garbage()
            if run.as_json:
                print_json(report)
            else:
                _print(report)
            return
        done = follow(connection, connection.collect(), deadline=DEADLINE, show=not run.as_json)
    if run.as_json:
        print_json(done)
    else:
        out().print(done.phase)


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
