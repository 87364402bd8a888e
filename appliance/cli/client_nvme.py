"""Clients over NVMe/TCP: where they are reached, and their hosts' keys."""

import os
from pathlib import Path
from typing import Annotated

import typer

from appliance import schema
from appliance.cli import client_loss, losing
from appliance.cli.options import JsonOption, Session, session
from appliance.cli.output import out, print_fields, print_json, print_removals, when
from appliance.errors import AlreadyExists, InvalidInput, Refused
from appliance.model import check_name

KEY = "nvme-dhchap-key"
"""The file of a host's key, beside those of its certificate."""


def parse_listen(text: str, example: str) -> tuple[str, int]:
    """An address and a port to listen on. Raises InvalidInput."""
    address, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise InvalidInput(
            f"{text!r} is not an address to listen on",
            why="it does not end in a colon and a port from 1 to 65535",
            hint=f"give ADDRESS:PORT, e.g. {example}",
        )
    return address.strip("[]"), int(port)


def nvme(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the client.")],
    listen: Annotated[
        str | None, typer.Option("--listen", metavar="ADDRESS:PORT", help="Listen here; a port of this client alone.")
    ] = None,
    host_nqn: Annotated[
        str | None,
        typer.Option("--host-nqn", metavar="NQN", help="The one host that is let in: its /etc/nvme/hostnqn has it."),
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Reach it over NVMe/TCP no more.")] = False,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Reach a client over NVMe/TCP, besides NBD: its host alone is let in, by its key. Nothing is encrypted there."""
    run = session(context, as_json)
    check_name(name, "client name")
    if none:
        if listen is not None or host_nqn is not None:
            raise InvalidInput(
                "what is wanted is not clear",
                why="--none takes the way away that the others describe",
                hint="give either --none, or --listen and --host-nqn",
            )
        with run.connect() as connection:
            if dry_run:
                losing.show(run, list(client_loss.of_door(connection.client(name))))
                return
            view = losing.known(lambda: connection.client(name))
            losing.ask(run, [] if view is None else list(client_loss.of_door(view)), yes=yes)
            done = connection.remove_nvme(name)
        print_removals([done], "way over NVMe/TCP of client", as_json=run.as_json)
        return
    if listen is None or host_nqn is None:
        raise InvalidInput(
            "something is not said",
            why="the address to listen on, or the host that is let in there, is missing",
            hint="give --listen ADDRESS:PORT and --host-nqn NQN",
        )
    address, port = parse_listen(listen, "192.0.2.1:4420")
    if port < 1024:
        raise InvalidInput(f"the target cannot listen on port {port}", why="it is root's", hint="for example 4420")
    with run.connect() as connection:
        before = losing.known(lambda: connection.client(name), absent_is_error=dry_run)
        # Another host has another key.
        other = before is not None and before.nvme is not None and before.nvme.host_nqn != host_nqn
        losses = list(client_loss.of_door(before)) if before is not None and other else []
        if dry_run:
            losing.show(run, losses)
            return
        losing.ask(run, losses, yes=yes)
        view = connection.put_nvme(name, schema.NvmeSpec(address=address, port=port, host_nqn=host_nqn))
    if run.as_json:
        print_json(view)
        return
    print_fields({"client": view.name, "nvme": door_words(view.nvme)})
    if view.nvme is not None and view.nvme.key_made is None:
        out().print(f"\nNext: hatchery client certificate {view.name} DIRECTORY --nvme")


def door_words(view: schema.NvmeDoorView | None) -> str:
    """How a client is reached over NVMe/TCP, in words."""
    if view is None:
        return "-"
    host = f"[{view.address}]" if ":" in view.address else view.address
    key = "without a key yet" if view.key_made is None else f"by its key of {when(view.key_made)}"
    return f"{host}:{view.port} for host {view.host_nqn}, {key}; not encrypted"


def issue_key(run: Session, name: str, directory: str, kind: schema.CertificateKind) -> None:
    """Have a key made, and write it to a file for its owner alone. Raises AlreadyExists, InvalidInput, Refused."""
    if directory == "-":
        raise InvalidInput(
            "a key is written to a file", why="on the standard output others may see it", hint="name a directory"
        )
    target = Path(directory) / KEY
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.exists() and kind == "first":
            raise AlreadyExists(f"{target} is there already", hint="name another folder, or move it away")
        fresh = target.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        # Before there is a key: it is handed out once.
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(
            f"{target} cannot be written", why=error.strerror or str(error), hint="name a folder that you may write to"
        ) from error
    try:
        with run.connect() as connection:
            made = connection.issue_nvme_key(name, schema.NvmeKeyRequest(kind=kind))
        os.write(handle, f"{made.key.get_secret_value()}\n".encode("ascii"))
        os.fsync(handle)
        fresh.replace(target)
    finally:
        os.close(handle)
        fresh.unlink(missing_ok=True)
    if run.as_json:
        print_json({"client": name, "host_nqn": made.host_nqn, "made": made.made})
    else:
        print_fields({"key": str(target), "host": made.host_nqn, "made": when(made.made)})
