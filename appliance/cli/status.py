"""``hatchery status`` and ``hatchery cache``: the appliance in one look, and a cold start by command."""

import typer
from rich.table import Table
from rich.text import Text

from appliance import client, schema
from appliance.cli import losing
from appliance.cli.client import clients_table
from appliance.cli.options import JsonOption, follow, session
from appliance.cli.output import health, out, print_json, share, table
from appliance.model import Histogram
from appliance.words import micros, size

cache_app = typer.Typer(no_args_is_help=True, help="The cache.")

COLD_DEADLINE = 900.0
"""Seconds after which emptying the cache counts as hung."""


def status(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show the appliance's health: pools, cache, arrays and clients."""
    run = session(context, as_json)
    with run.connect() as connection:
        view = connection.status()
    if run.as_json:
        print_json(view)
        return
    console = out()
    console.print(
        Text.assemble(
            ("hatchery ", "bold"),
            f"{view.version}, kernel {view.kernel}: ",
            health(view.health),
            f"; {view.templates} templates, {view.clones} clones",
        )
    )
    for problem in view.problems:
        console.print(Text.assemble("  ", health(problem.severity), ": ", problem.what))
        if problem.hint:
            console.print(f"    do: {problem.hint}")
    console.print()
    rows = table("STORE", "HEALTH", "STATE")
    store = view.store
    rows.add_row("backend", *_array(store.backend))
    rows.add_row("meta", *_array(store.meta))
    rows.add_row("cache", *_cache(store.cache))
    rows.add_row("pool", *_pool(store.pool))
    if store.fast is not None:
        rows.add_row("fast pool", *_pool(store.fast))
    console.print(rows)
    console.print()
    if view.disks:
        console.print(_disks(view.disks))
        console.print()
    console.print(clients_table(view.clients))


def _disks(views: tuple[schema.DiskHistogram, ...]) -> Table:
    rows = table("DISK", "FOR", ">REQUESTS", ">HALF WITHIN", ">99 % WITHIN")
    for view in views:
        found = Histogram(view.histogram.counts)
        rows.add_row(view.disk, view.role, str(found.total), micros(found.bound(0.5)), micros(found.bound(0.99)))
    return rows


def _array(view: schema.ArrayView | None) -> tuple[Text, str]:
    if view is None:
        return _unknown()
    sync = "" if view.sync_percent is None else f", {view.sync_action} {view.sync_percent:.1f} %"
    good = sum(1 for member in view.members if "in-sync" in member.state)
    members = f"{good} of {len(view.members)} members in sync"
    return health(view.health), f"{view.level}, {view.state}{sync}, {size(view.size)}, {members}"


def _cache(view: schema.CacheView | None) -> tuple[Text, str]:
    if view is None:
        return _unknown()
    if not view.attached:
        return health(view.health), "not attached: everything comes from the backend"
    settings = "settings verified" if view.settings_ok else "settings are not as they must be"
    return health(view.health), f"{view.mode}, {size(view.size)}, {settings}, {size(view.bypassed_bytes)} bypassed"


def _pool(view: schema.PoolView | None) -> tuple[Text, str]:
    if view is None:
        return _unknown()
    data = share(view.data_used, view.data_total)
    metadata = share(view.metadata_used, view.metadata_total)
    return health(view.health), f"{view.mode}, data {data}, metadata {metadata}"


def _unknown() -> tuple[Text, str]:
    return Text("-"), "cannot tell"


@cache_app.command("cold")
def cold(context: typer.Context, dry_run: losing.DryRunOption = False, as_json: JsonOption = False) -> None:
    """Empty the cache and the appliance's page caches, for a measurement that starts cold."""
    run = session(context, as_json)
    with run.connect() as connection:
        if dry_run:
            losing.show(run, [_cached(connection)])
            return
        done = follow(connection, connection.cold(), deadline=COLD_DEADLINE, show=not run.as_json)
    if run.as_json:
        print_json(done)
    else:
        out().print("the cache is empty")


def _cached(connection: client.Client) -> losing.Loss:
    cache = connection.status().store.cache
    most = "" if cache is None else f" of {size(cache.size)}"
    detail = f"what boots and warming read into a cache{most}; it fills again, slowly, or by `hatchery template warm`"
    return losing.Loss("all that is cached", detail, for_good=False)
