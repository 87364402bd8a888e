"""``hatchery authority``: who signs the certificates of clients and storage daemons."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from appliance import schema
from appliance.cli import client_loss, losing
from appliance.cli.options import JsonOption, Session, session
from appliance.cli.output import out, print_fields, print_json, when
from appliance.errors import InvalidInput

app = typer.Typer(no_args_is_help=True, help="The authority that signs certificates: the appliance's own, or yours.")

ForceOption = Annotated[
    bool, typer.Option("--force", help="Even if that ends certificates which are good, and cuts their guests off.")
]


@app.command("show")
def show(context: typer.Context, as_json: JsonOption = False) -> None:
    """Show who signs certificates."""
    run = session(context, as_json)
    with run.connect() as connection:
        view = connection.authority()
    _print(run, view)


@app.command("use")
def use(
    context: typer.Context,
    certificate: Annotated[Path, typer.Option(metavar="FILE", help="Its certificate, in PEM.")],
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its key, if it is to sign on the appliance; no password.")
    ] = None,
    chain: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificates above it.")] = None,
    server_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Without its key: what the storage daemons show.")
    ] = None,
    server_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of that.")] = None,
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have an authority of your own.

    With its key, certificates are made as before; make a subordinate authority for this, and keep the other one's key
    at home. Without it, sign a certificate for the appliance and those of the clients yourself, and give them.
    """
    run = session(context, as_json)
    wanted = schema.AuthoritySpec(
        certificate=read(certificate),
        key=None if key is None else SecretStr(read(key)),
        chain="" if chain is None else read(chain),
        server_certificate=None if server_certificate is None else read(server_certificate),
        server_key=None if server_key is None else SecretStr(read(server_key)),
    )
    with run.connect() as connection:
        if dry_run:
            losing.show(run, list(client_loss.of_authority(connection, wanted.certificate)))
            return
        # Unforced, it is refused where anything is lost for good.
        if force:
            losing.ask(run, list(client_loss.of_authority(connection, wanted.certificate)), yes=yes)
        view = connection.use_authority(wanted, force=force)
    _print(run, view)


@app.command("renew")
def renew(
    context: typer.Context,
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have a new authority of the appliance's own, in place of one that was stolen, say, or of yours."""
    run = session(context, as_json)
    with run.connect() as connection:
        if dry_run:
            losing.show(run, list(client_loss.of_authority(connection)))
            return
        if force:
            losing.ask(run, list(client_loss.of_authority(connection)), yes=yes)
        view = connection.renew_authority(force=force)
    _print(run, view)


def read(path: Path) -> str:
    """A file in PEM. Raises InvalidInput."""
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(schema.PEM_MOST + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read", why=str(error), hint="give a file in PEM") from error
    if len(text) > schema.PEM_MOST:
        raise InvalidInput(f"{path} is too large", why=f"more than {schema.PEM_MOST} characters", hint="is it PEM?")
    return text


def _print(run: Session, view: schema.AuthorityView) -> None:
    if run.as_json:
        print_json(view)
        return
    print_fields(
        {
            "authority": view.subject,
            "whose": "yours" if view.given else "the appliance's own",
            "signs": "on the appliance" if view.signs else "elsewhere: give what it signed",
            "good until": when(view.expires),
            "shown until": "-" if view.server_expires is None else when(view.server_expires),
        }
    )
    out().print(f"\n{view.certificate}{view.chain}", soft_wrap=True)
