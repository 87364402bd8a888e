"""What the appliance shows its clients over TLS: an authority that it makes once, and a certificate for each daemon.

The authority's key is in the catalog. A daemon's key is on a file system in memory, in a folder of root's; the daemon's
unit hands it to the daemon alone (LoadCredential=), and after a reboot there is another one.
"""

import contextlib
import ipaddress
import logging
import shutil
import socket
import time

from appliance import pki
from appliance.catalog import Catalog, Client
from appliance.config import Paths
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
        found = self._catalog.authority()
        if found is None:
            made = pki.new_authority(time.time())
            self._catalog.set_authority(made.certificate, made.key)
            log.info("made the certificate authority")
            return made
        return pki.Authority(*found)

    def prepare(self, client: Client) -> None:
        """See that the client's daemon finds a certificate for what it is reached by. Raises CannotTell, Unhealthy.

        One that still is right stays. A daemon that runs takes a new one when it starts again.
        """
        authority, now = self.authority(), time.time()
        names = _names(client)
        folder = self._paths.tls(client.name)
        ca_file, certificate_file, key_file = (folder / name for name in CREDENTIALS)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            same = ca_file.read_text(encoding="ascii") == authority.certificate and key_file.exists()
            if same and pki.serves(certificate_file.read_text(encoding="ascii"), authority, *names, now):
                return
        made = pki.server(authority, *names, now)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        # The certificate last: without it, what is there is not believed.
        certificate_file.unlink(missing_ok=True)
        replace(ca_file, authority.certificate, 0o600)
        replace(key_file, made.key, 0o600)
        replace(certificate_file, made.certificate, 0o600)

    def remove(self, client: str) -> None:
        """Forget a daemon's key."""
        shutil.rmtree(self._paths.tls(client), ignore_errors=True)


def _names(client: Client) -> tuple[str, tuple[str, ...]]:
    """The host name and the addresses that a client's daemon is reached by."""
    if client.address is None or ipaddress.ip_address(client.address).is_unspecified:
        return socket.gethostname(), tuple(sorted(netlink.addresses()))
    return socket.gethostname(), (client.address,)
