"""What goes with clients, their certificates and keys, and with who signs those."""

import time
from collections.abc import Collection, Iterator, Sequence

from appliance import client, schema
from appliance.cli import losing


def of_client(connection: client.Client, name: str, *, absent_is_error: bool = False) -> Iterator[losing.Loss]:
    """What goes with a client. One that has clones is not removed, so nothing of it is asked about."""
    view = losing.known(lambda: connection.client(name), absent_is_error=absent_is_error)
    if view is None:
        return
    held = f"; it has {len(view.clones)} clone(s) attached, and is not removed before they are detached"
    detail = f"it is reached no more at {view.uri}{held if view.clones else ''}"
    yield losing.Loss(f"client {name}", detail, for_good=False)
    for loss in (*_certificates(view, _good(view)), *of_door(view)):
        yield losing.Loss(loss.what, loss.detail, loss.for_good and not view.clones)


def of_revocation(
    connection: client.Client, name: str, wanted: schema.Revocation, *, absent_is_error: bool = False
) -> Iterator[losing.Loss]:
    """What a revocation ends."""
    view = losing.known(lambda: connection.client(name), absent_is_error=absent_is_error)
    if view is None:
        return
    good = _good(view)
    if wanted.which == "older":
        # Newest first; that one stays, also when it has ended.
        kept = next((each.serial for each in view.certificates if each.revoked is None), None)
        good = [each for each in good if each.serial != kept]
    elif wanted.which == "named":
        # A name lets in: those that share one go together.
        named = {each.name for each in view.certificates if each.serial in wanted.serials} - {None}
        good = [each for each in good if each.serial in wanted.serials or each.name in named]
    yield from _certificates(view, good)
    if good and view.connections != ():
        yield losing.Loss(f"the connections of client {name}", f"{_many(view.connections)}; who may, comes back")


def of_door(view: schema.ClientView) -> Iterator[losing.Loss]:
    """What goes with a client's way over NVMe/TCP."""
    if view.nvme is not None:
        keyed = view.nvme.key_made is not None
        key = "; the key of that host opens nothing any more" if keyed else ""
        detail = f"at {view.nvme.address} port {view.nvme.port} for host {view.nvme.host_nqn}{key}"
        yield losing.Loss(f"the way over NVMe/TCP of client {view.name}", detail, for_good=keyed)


def of_authority(connection: client.Client, certificate: str | None = None) -> Iterator[losing.Loss]:
    """What goes with the authority; with its own ``certificate``, in place of the same one, nothing does."""
    view = connection.authority()
    if certificate is not None and certificate.strip() == view.certificate.strip():
        return
    clients = [each for each in connection.clients() if _good(each)]
    detail = f"{'yours' if view.given else 'the own one of the appliance'}; what it signed is good no more"
    yield losing.Loss(f"the authority {view.subject}", detail, for_good=bool(clients))
    for each in clients:
        yield from _certificates(each, _good(each))
        if each.connections != ():
            yield losing.Loss(f"the connections of client {each.name}", _many(each.connections))


def _good(view: schema.ClientView) -> list[schema.CertificateView]:
    now = time.time()
    return [each for each in view.certificates if each.revoked is None and now < each.expires]


def _certificates(view: schema.ClientView, lost: Collection[schema.CertificateView]) -> Iterator[losing.Loss]:
    for each in lost:
        yield losing.Loss(f"certificate {each.serial} of client {view.name}", "it lets nobody in any more")


def _many(connections: Sequence[schema.ConnectionView] | None) -> str:
    return "whoever is connected is cut off" if connections is None else f"{len(connections)} guest(s) are cut off"
