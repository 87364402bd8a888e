"""``hatchery client``: who may attach clones."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from appliance import schema
from appliance.cli import authority, certificate_files, client_loss, client_nvme, losing
from appliance.cli.options import JsonOption, Session, session
from appliance.cli.output import health, out, print_fields, print_json, print_removals, table, when
from appliance.errors import InvalidInput
from appliance.model import MAX_CONNECTIONS, check_name
from appliance.words import size

app = typer.Typer(no_args_is_help=True, help="Clients: hypervisor hosts, or this machine, that may attach clones.")

DAYS = int(schema.CERTIFICATE_SECONDS) // 86400

NameArgument = Annotated[str, typer.Argument(help="Name of the client.")]
DirectoryArgument = Annotated[
    str, typer.Argument(metavar="DIRECTORY", help="Where its three files go; '-': a tar archive on standard output.")
]
CsrOption = Annotated[
    Path | None, typer.Option("--csr", metavar="FILE", help="Sign this request (PEM): the key stays where it is.")
]
SignedOption = Annotated[
    Path | None, typer.Option("--signed", metavar="FILE", help="Let this in (PEM), which your authority signed.")
]
NvmeOption = Annotated[
    bool, typer.Option("--nvme", help="Its host's key for NVMe/TCP instead of a certificate, in a file there.")
]
DaysOption = Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is good for.")]


@app.command("add")
def add(
    context: typer.Context,
    name: NameArgument,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="An address of the appliance to listen on for NBD over TCP with TLS, at the next port that is free;"
            " without it, on a unix socket.",
        ),
    ] = None,
    tcp: Annotated[str | None, typer.Option(metavar="ADDRESS:PORT", help="The same, at this port.")] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="TCP without TLS: whoever reaches the port has the disks.")
    ] = False,
    max_connections: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=schema.MOST_CONNECTIONS, help="Open at a time, to all its clones together."
        ),
    ] = MAX_CONNECTIONS,
    as_json: JsonOption = False,
) -> None:
    """Make a client, or change how it reaches its clones: those who are connected are cut off then, and come back."""
    run = session(context, as_json)
    check_name(name, "client name")
    spec = _spec(address, tcp, plain).model_copy(update={"max_connections": max_connections})
    with run.connect() as connection:
        view = connection.put_client(name, spec)
    if run.as_json:
        print_json(view)
    else:
        print_fields({"client": view.name, "address": view.uri, "state": health(view.state), "detail": view.detail})
        if view.transport == "tcp" and not view.plain and not view.certificates:
            out().print(f"\nNext: hatchery client certificate {view.name} DIRECTORY")


def _spec(address: str | None, tcp: str | None, plain: bool) -> schema.ClientSpec:
    if address is not None and tcp is not None:
        raise InvalidInput(
            "where it listens is said twice",
            why="--address is by itself, and part of --tcp",
            hint="give either --address or --tcp",
        )
    if address is not None:
        return schema.ClientSpec(transport="tcp", address=address.strip("[]"), plain=plain)
    if tcp is not None:
        address, port = client_nvme.parse_listen(tcp, "192.0.2.1:10809")
        return schema.ClientSpec(transport="tcp", address=address, port=port, plain=plain)
    if plain:
        raise InvalidInput(
            "a unix socket is always plain",
            why="without an address the client is on this machine",
            hint="give --address, or leave out --plain",
        )
    return schema.ClientSpec(transport="unix")


app.command("nvme")(client_nvme.nvme)


@app.command("list")
def list_(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the clients, with who is connected."""
    run = session(context, as_json)
    with run.connect() as connection:
        views = connection.clients()
    if run.as_json:
        print_json(views)
    else:
        out().print(clients_table(views))


@app.command("show")
def show(context: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show a client, with its certificates, its clones and who is connected."""
    run = session(context, as_json)
    check_name(name, "client name")
    with run.connect() as connection:
        view = connection.client(name)
    _print(run, view)


@app.command("certificate")
def certificate(
    context: typer.Context,
    name: NameArgument,
    directory: DirectoryArgument,
    days: DaysOption = DAYS,
    csr: CsrOption = None,
    signed: SignedOption = None,
    nvme: NvmeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a client's first certificate. Its key is handed out this once and kept nowhere on the appliance.

    With --csr the key stays where it is, and with --signed the certificate is one that your own authority signed
    (`hatchery authority use`). Then there is no key among the files.
    """
    if nvme:
        _issue_key(session(context, as_json), name, directory, "first", csr, signed)
        return
    _issue(session(context, as_json), name, directory, "first", days, csr, signed)


@app.command("rotate")
def rotate(
    context: typer.Context,
    name: NameArgument,
    directory: DirectoryArgument,
    days: DaysOption = DAYS,
    csr: CsrOption = None,
    signed: SignedOption = None,
    nvme: NvmeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a further certificate. Those before go on being good until they end or are revoked; nobody is cut off.

    Of a key for NVMe/TCP (--nvme) there is one: the new one is asked for from the host's next connection on.
    """
    if nvme:
        _issue_key(session(context, as_json), name, directory, "rotation", csr, signed)
        return
    _issue(session(context, as_json), name, directory, "rotation", days, csr, signed)


def _issue_key(
    run: Session, name: str, directory: str, kind: schema.CertificateKind, csr: Path | None, signed: Path | None
) -> None:
    check_name(name, "client name")
    if csr is not None or signed is not None:
        raise InvalidInput(
            "a key for NVMe/TCP is no certificate",
            why="the appliance makes it, and nobody signs it",
            hint="leave out --csr and --signed",
        )
    client_nvme.issue_key(run, name, directory, kind)


def _issue(
    run: Session,
    name: str,
    directory: str,
    kind: schema.CertificateKind,
    days: int,
    csr: Path | None,
    signed: Path | None,
) -> None:
    check_name(name, "client name")
    if csr is not None and signed is not None:
        raise InvalidInput(
            "a certificate is signed here or elsewhere",
            why="both --csr and --signed were given",
            hint="give either --csr or --signed",
        )
    wanted = schema.CertificateRequest(
        kind=kind,
        seconds=days * 86400.0,
        request=None if csr is None else authority.read(csr),
        signed=None if signed is None else authority.read(signed),
    )
    folder = None if directory == "-" else Path(directory)
    if folder is not None:
        certificate_files.check_folder(folder, replace=kind == "rotation" or csr is not None or signed is not None)
    elif run.as_json:
        raise InvalidInput(
            "an archive is not JSON", why="both would go to the standard output", hint="name a directory"
        )
    with run.connect() as connection:
        made = connection.issue_certificate(name, wanted)
    if folder is None:
        certificate_files.write_tar(made, sys.stdout.buffer)
        return
    certificate_files.write_folder(made, folder)
    if run.as_json:
        print_json({"client": name, "serial": made.serial, "issued": made.issued, "expires": made.expires})
    else:
        print_fields({"certificate": made.serial, "good until": when(made.expires), "directory": str(folder)})


@app.command("revoke")
def revoke(
    context: typer.Context,
    name: NameArgument,
    older: Annotated[bool, typer.Option("--older", help="All but the newest; without it, all.")] = False,
    serials: Annotated[
        list[str] | None, typer.Option("--serial", metavar="SERIAL", help="This one alone; may be repeated.")
    ] = None,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let certificates in no more, at once: all connections are cut, and who is still let in connects anew."""
    run = session(context, as_json)
    check_name(name, "client name")
    if older and serials:
        raise InvalidInput(
            "which certificates is said twice",
            why="both --older and --serial were given",
            hint="give either --older or --serial",
        )
    which: schema.RevocationKind = "older" if older else "named" if serials else "all"
    wanted = schema.Revocation(which=which, serials=tuple(serials or ()))
    with run.connect() as connection:
        if dry_run:
            losing.show(run, list(client_loss.of_revocation(connection, name, wanted, absent_is_error=True)))
            return
        losing.ask(run, list(client_loss.of_revocation(connection, name, wanted)), yes=yes)
        view = connection.revoke(name, wanted)
    _print(run, view)


@app.command("remove")
def remove(
    context: typer.Context,
    name: NameArgument,
    dry_run: losing.DryRunOption = False,
    yes: losing.YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a client that has no clones attached."""
    run = session(context, as_json)
    check_name(name, "client name")
    with run.connect() as connection:
        if dry_run:
            losing.show(run, list(client_loss.of_client(connection, name, absent_is_error=True)))
            return
        losing.ask(run, list(client_loss.of_client(connection, name)), yes=yes)
        done = connection.remove_client(name)
    print_removals([done], "client", as_json=run.as_json)


def _print(run: Session, view: schema.ClientView) -> None:
    if run.as_json:
        print_json(view)
        return
    print_fields(
        {
            "client": view.name,
            "state": health(view.state),
            "detail": view.detail,
            "address": view.uri,
            "security": _security(view),
            "nvme": client_nvme.door_words(view.nvme),
            "clones": ", ".join(view.clones) or "-",
            "connected": connected_in_words(view),
            "at most": f"{view.max_connections} connections",
        }
    )
    for peer in view.connections or ():
        out().print(f"connected from {peer.peer} since {when(peer.since)}{_moved(peer)}")
    for peer in () if view.nvme is None else view.nvme.connections or ():
        out().print(f"connected over NVMe/TCP from {peer.peer} since {when(peer.since)}{_moved(peer)}")
    for each in view.certificates:
        # A line each: in a table, the long numbers would be folded.
        named = "" if each.name is None else f" ({each.name})"
        out().print(f"certificate {each.serial}{named}: issued {when(each.issued)}, {_certificate_state(each)}")


def connected_in_words(view: schema.ClientView) -> str:
    """How many connections are open; with those over NVMe/TCP for themselves."""
    nbd = "cannot tell" if view.connections is None else f"{len(view.connections)}"
    if view.nvme is None:
        return nbd
    nvme = "cannot tell" if view.nvme.connections is None else f"{len(view.nvme.connections)}"
    return f"{nbd} by NBD, {nvme} by NVMe/TCP"


def _moved(view: schema.ConnectionView) -> str:
    if view.received_bytes is None or view.sent_bytes is None:
        return ""
    return f": {size(view.received_bytes)} from it, {size(view.sent_bytes)} to it"


def _security(view: schema.ClientView) -> str:
    if view.transport == "unix":
        return "a unix socket of this machine"
    return "none: neither encrypted nor authenticated" if view.plain else "TLS 1.3, by certificate"


def _certificate_state(view: schema.CertificateView) -> str:
    if view.revoked is not None:
        return f"revoked {when(view.revoked)}"
    return f"{'good until' if time.time() < view.expires else 'ended'} {when(view.expires)}"


def _peers(view: schema.ClientView) -> str:
    """Everybody who is connected, by NBD and by NVMe/TCP."""
    said = _peers_of(view.connections, "")
    if view.nvme is not None:
        said += _peers_of(view.nvme.connections, " by NVMe/TCP")
    return ", ".join(said) or "-"


def _peers_of(found: tuple[schema.ConnectionView, ...] | None, how: str) -> list[str]:
    if found is None:
        return [f"cannot tell{how}"]
    return [f"{each.peer}{how} since {when(each.since)}{_moved(each)}" for each in found]


def clients_table(views: tuple[schema.ClientView, ...]) -> Table:
    """The clients as a table."""
    rows = table("CLIENT", "STATE", ">CLONES", "CONNECTED", "ADDRESS", "DETAIL")
    for view in views:
        rows.add_row(view.name, health(view.state), str(len(view.clones)), _peers(view), view.uri, view.detail)
    return rows
