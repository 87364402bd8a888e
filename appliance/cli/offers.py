"""``hatchery template offer`` and ``withdraw``: templates that another appliance fetches."""

from typing import Annotated

import typer

from appliance.cli.options import JsonOption, TemplateArgument, session
from appliance.cli.output import out, print_json, print_removals
from appliance.model import TemplateRef


def offer(
    context: typer.Context,
    ref: TemplateArgument,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Who may read it: another appliance.")],
    as_json: JsonOption = False,
) -> None:
    """Let a client read a template over NBD, with its boot set, and print where.

    There, `hatchery template add` fetches it, and with --lazy it is cloned meanwhile. Offered again, the boot set is
    that of now. It is not removed while it is offered.
    """
    run = session(context, as_json)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        view = connection.offer_template(ref, client)
    if run.as_json:
        print_json(view)
    else:
        out().print(view.uri, markup=False, soft_wrap=True)


def withdraw(
    context: typer.Context,
    ref: TemplateArgument,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Who may read it no more.")],
    force: Annotated[bool, typer.Option("--force", help="Even while it is read: that breaks off.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Let a client read a template no more."""
    run = session(context, as_json)
    TemplateRef.parse(ref)
    with run.connect() as connection:
        done = connection.withdraw_template(ref, client, force=force)
    print_removals([done], "offer of template", as_json=run.as_json)
