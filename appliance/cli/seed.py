"""``hatchery clone seed``: what a clone's guest is told by cloud-init when it first boots."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr

from appliance import client, schema
from appliance.cli import losing
from appliance.cli.options import JsonOption, Session, session
from appliance.cli.output import out, print_fields, print_json
from appliance.errors import InvalidInput
from appliance.model import check_name
from appliance.words import size

app = typer.Typer(no_args_is_help=True, help="Seeds: what guests are told by cloud-init at their first boot.")

UserDataOption = Annotated[
    str | None,
    typer.Option(
        "--user-data",
        metavar="FILE",
        help="User data for cloud-init, given as it is: settings (#cloud-config), a script (#!) or MIME; - is stdin.",
    ),
]
HostnameOption = Annotated[
    str | None, typer.Option("--hostname", metavar="NAME", help="The guest's hostname; by default the clone's name.")
]
KeyOption = Annotated[
    list[str] | None,
    typer.Option("--ssh-key", metavar="FILE", help="Public keys that may log in to the guest; may be repeated."),
]
NameArgument = Annotated[str, typer.Argument(help="Name of the clone.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Even while somebody is connected to the seed.")]

LARGEST = 1024 * 1024
"""Bytes of a file that is looked at: far more than the appliance takes, whose words then say what it does."""


def wanted(user_data: str | None, hostname: str | None, keys: list[str] | None) -> schema.SeedSpec | None:
    """The seed that options ask for; None when there are none. Raises InvalidInput for a file that cannot be read."""
    if user_data is None and hostname is None and not keys:
        return None
    lines = [line for key in keys or () for line in _read(key, "keys").splitlines()]
    if keys and not any(line.strip() and not line.lstrip().startswith("#") for line in lines):
        raise InvalidInput("there is no key in what was given", why=", ".join(keys))
    secret = None if user_data is None else SecretStr(_read(user_data, "user data"))
    return schema.SeedSpec(hostname=hostname, ssh_keys=tuple(lines), user_data=secret)


def _read(name: str, what: str) -> str:
    try:
        if name == "-":
            content = sys.stdin.buffer.read(LARGEST)
        else:
            with Path(name).open("rb") as file:
                content = file.read(LARGEST)
        return content.decode("utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{name} cannot be read", why=str(error.strerror), hint=f"give a file with {what}"
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{name} is no text", why=f"{what} are in UTF-8, and not compressed", hint=f"give a file with {what}"
        ) from error


@app.command("show")
def show(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a clone's seed, without the user data: that may be secret, and is not handed out again."""
    run = session(context, as_json)
    check_name(name, "clone name")
    with run.connect() as connection:
        view = connection.seed(name)
    _print(run, view)


@app.command("set")
def set_(
    context: typer.Context,
    name: NameArgument,
    user_data: UserDataOption = None,
    hostname: HostnameOption = None,
    ssh_key: KeyOption = None,
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give a clone a seed, in place of one that it has; without options, one with its hostname alone.

    To cloud-init it is another instance then: at its next boot, the guest does again what it does at its first.
    """
    run = session(context, as_json)
    check_name(name, "clone name")
    seed = wanted(user_data, hostname, ssh_key) or schema.SeedSpec()
    with run.connect() as connection:
        if dry_run:
            connection.clone(name)  # which is there, whether it has a seed or not
            losing.show(run, _losses(connection, name))
            return
        losing.ask(run, _losses(connection, name), yes=yes)
        view = connection.put_seed(name, seed, force=force)
    _print(run, view)


@app.command("remove")
def remove(
    context: typer.Context,
    name: NameArgument,
    force: ForceOption = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a clone's seed away; what its guest made of it stays."""
    run = session(context, as_json)
    check_name(name, "clone name")
    with run.connect() as connection:
        if dry_run:
            connection.clone(name)
            losing.show(run, _losses(connection, name))
            return
        losing.ask(run, _losses(connection, name), yes=yes)
        done = connection.remove_seed(name, force=force)
    if run.as_json:
        print_json(done)
    else:
        out().print(f"the seed of clone {name} removed" if done.removed else f"clone {name} has no seed")


def _losses(connection: client.Client, name: str) -> list[losing.Loss]:
    """What goes with the seed that a clone has. Only user data cannot be read back, and given again."""
    view = losing.known(lambda: connection.seed(name))
    if view is None:
        return []
    data = None if view.user_data_bytes is None else f"{size(view.user_data_bytes)} of user data, which nobody shows"
    detail = f"hostname {view.hostname}, {len(view.ssh_keys)} key(s)" + (f", {data}" if data else "")
    return [losing.Loss(f"the seed of clone {name}", detail, for_good=data is not None)]


def _print(run: Session, view: schema.SeedView) -> None:
    if run.as_json:
        print_json(view)
        return
    print_fields(
        {
            "instance": view.instance,
            "hostname": view.hostname,
            "user data": "none but hostname and keys" if view.user_data_bytes is None else size(view.user_data_bytes),
            "address": view.uri or "-",
            **{f"key {number}": key for number, key in enumerate(view.ssh_keys, 1)},
        }
    )
