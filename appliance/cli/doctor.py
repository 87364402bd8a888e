"""``hatchery doctor``: the appliance held against the rules of its data path."""

import typer
from rich.text import Text

from appliance import schema
from appliance.cli.options import JsonOption, session
from appliance.cli.output import health, out, print_json, state, table


def doctor(context: typer.Context, as_json: JsonOption = False) -> None:
    """Look at all of the appliance, and say what is wrong and what to do. Exit status 10 unless all is well."""
    run = session(context, as_json)
    with run.connect() as connection:
        found = connection.examine()
    bad = [check for check in found.checks if check.state != "ok"]
    if run.as_json:
        print_json(found)
    else:
        _print(found, bad)
    if bad:
        raise typer.Exit(EXIT_STATUS)


EXIT_STATUS = 10
"""As for an error with the code ``unhealthy``; what was found is the answer, and no error."""


def _print(found: schema.Examination, bad: list[schema.CheckView]) -> None:
    console = out()
    rows = table(">RULE", "STATE", "WHAT MUST HOLD")
    for check in found.checks:
        rows.add_row("-" if check.rule is None else str(check.rule), state(check.state), check.what)
    console.print(rows)
    for check in bad:
        console.print()
        title = "" if check.rule is None else f"rule {check.rule}: "
        console.print(Text.assemble((f"{title}{check.what}", "bold")))
        for problem in check.problems:
            console.print(Text.assemble("  ", health(problem.severity), ": ", problem.what))
            if problem.hint:
                console.print(f"    do: {problem.hint}")
        if not check.problems:
            console.print("  it could not be looked at: see `hatchery status`, and `journalctl -u hatcheryd` there")
    hidden = [check for check in found.checks if check.unseen]
    if hidden:
        console.print()
        console.print("What a box that runs cannot show, and the tests that prove it:", style="dim")
        for check in hidden:
            console.print(f"  rule {check.rule}: {check.unseen}", style="dim", highlight=False)
    console.print()
    console.print("all is well" if not bad else f"{len(bad)} of {len(found.checks)} checks need you")
