"""What the appliance shows its clients over TLS: an authority, and a certificate for each daemon.

The authority is the appliance's own or an operator's, and stands in the catalog, with its key if that is here.
A daemon's key is on a file system in memory, in a folder of root's; the daemon's unit hands it to the daemon alone
(LoadCredential=), and after a reboot there is another one.
"""

import contextlib
import ipaddress
import logging
import shutil
import socket
import time

from appliance import pki
from appliance.catalog import AuthorityRow, Catalog, Client
from appliance.config import Paths
from appliance.errors import InvalidInput
from appliance.host import netlink
from appliance.host.files import replace
from appliance.host.storage_daemon import CREDENTIALS

log = logging.getLogger(__name__)


class Credentials:
    """The caller holds the service's lock."""

    def __init__(self, catalog: Catalog, paths: Paths) -> None:
        self._catalog = catalog
        self._paths = paths

    def authority(self) -> pki.Authority:
        """Who signs certificates; made the first time."""
        row = self.row()
        return pki.Authority(row.certificate, row.key, row.chain, row.given)

    def row(self) -> AuthorityRow:
        """As ``authority``, with what the daemons show when it signs nothing here."""
        found = self._catalog.authority()
        if found is None:
            made, now = pki.new_authority(time.time()), time.time()
            found = AuthorityRow(made.certificate, made.key)
            self._catalog.set_authority(found, now)
            log.info("made the certificate authority")
        return found

    def check_covered(self, client: Client, row: AuthorityRow | None = None) -> None:
        """Refuse a client whose daemon would show a certificate that does not name its address. Raises InvalidInput."""
        row = row or self._catalog.authority()
        if row is None or row.server_certificate is None:
            return
        signer = pki.Authority(row.certificate, row.key, row.chain, row.given)
        # Of 0.0.0.0 nobody knows by which address it will be reached.
        addresses = () if ipaddress.ip_address(str(client.address)).is_unspecified else (str(client.address),)
        if not pki.serves(row.server_certificate, signer, None, addresses, time.time()):
            raise InvalidInput(
                f"the appliance's certificate is not good for client {client.name}",
                why=f"it ended, or its subjectAltName does not have {client.address}",
                hint="have one signed that has every address of the clients, and give it: hatchery authority use",
            )

    def prepare(self, client: Client) -> None:
        """See that the client's daemon finds a certificate for what it is reached by. Raises CannotTell, Unhealthy.

        One that still is right stays. A daemon that runs takes a new one when it starts again.
        """
        row, now = self.row(), time.time()
        authority = pki.Authority(row.certificate, row.key, row.chain, row.given)
        names = _names(client)
        folder = self._paths.tls(client.name)
        ca_file, certificate_file, key_file = (folder / name for name in CREDENTIALS)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            same = ca_file.read_text(encoding="ascii") == authority.trusted and key_file.exists()
            shown = certificate_file.read_text(encoding="ascii")
            if same and shown == row.server_certificate:
                return
            if same and row.server_certificate is None and pki.serves(shown, authority, *names, now):
                return
        if row.server_certificate is not None and row.server_key is not None:
            certificate, key = row.server_certificate, row.server_key
        else:
            made = pki.server(authority, *names, now)
            certificate, key = made.certificate, made.key
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        # The certificate last: without it, what is there is not believed.
        certificate_file.unlink(missing_ok=True)
        replace(ca_file, authority.trusted, 0o600)
        replace(key_file, key, 0o600)
        replace(certificate_file, certificate, 0o600)

    def remove(self, client: str) -> None:
        """Forget a daemon's key."""
        shutil.rmtree(self._paths.tls(client), ignore_errors=True)


def _names(client: Client) -> tuple[str, tuple[str, ...]]:
    """The host name and the addresses that a client's daemon is reached by."""
    if client.address is None or ipaddress.ip_address(client.address).is_unspecified:
        return socket.gethostname(), tuple(sorted(netlink.addresses()))
    return socket.gethostname(), (client.address,)
