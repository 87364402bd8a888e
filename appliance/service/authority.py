"""Who signs certificates: the appliance itself, or an authority of the operator's.

A change of it ends all certificates that the one before signed, and with them all connections over TLS: what a client
believes and what it shows are of one authority. So it is refused while certificates are good, unless it is forced.
"""

import logging
import time

from appliance import pki
from appliance.catalog import AuthorityRow, Client
from appliance.errors import HatcheryError, InUse, InvalidInput
from appliance.pki import given
from appliance.schema import AuthoritySpec, AuthorityView
from appliance.service.certificates import is_good
from appliance.service.core import Core
from appliance.service.exports import Exports

log = logging.getLogger(__name__)


class Authorities:
    """The verbs on the authority."""

    def __init__(self, core: Core, exports: Exports) -> None:
        self._core = core
        self._exports = exports

    def show(self) -> AuthorityView:
        """Who signs now; the appliance's own is made when there is nobody yet. Raises Unhealthy."""
        with self._core.lock:
            return _view(self._exports.credentials.row())

    def use(self, spec: AuthoritySpec, *, force: bool) -> AuthorityView:
        """Have an operator's authority from now on; fine when it is that already.

        Raises InvalidInput for what would not work, InUse while certificates of the one before are good, unless forced.
        """
        key = None if spec.key is None else spec.key.get_secret_value()
        server_key = None if spec.server_key is None else spec.server_key.get_secret_value()
        now = time.time()
        made = given.authority(spec.certificate, key, spec.chain, now)
        if key is None and (spec.server_certificate is None or server_key is None):
            raise InvalidInput(
                "without the authority's key, a certificate for the appliance and its key are needed",
                why="the storage daemons show it, and it cannot be signed here",
                hint="give both, or the key of an authority that may sign",
            )
        if key is not None and spec.server_certificate is not None:
            raise InvalidInput(
                "a certificate for the appliance is not needed", why="with the authority's key each daemon gets its own"
            )
        row = AuthorityRow(made.certificate, made.key, True, made.chain, spec.server_certificate, server_key)
        if spec.server_certificate is not None and server_key is not None:
            given.check_server(spec.server_certificate, server_key, made, now)
            for client in self._tls_clients():
                self._exports.credentials.check_covered(client, row)
        return self._change(row, force=force)

    def renew(self, *, force: bool) -> AuthorityView:
        """Have an authority of the appliance's own, a new one. Raises InUse as ``use``."""
        made = pki.new_authority(time.time())
        return self._change(AuthorityRow(made.certificate, made.key), force=force)

    def _change(self, row: AuthorityRow, *, force: bool) -> AuthorityView:
        with self._core.lock:
            catalog, now = self._core.catalog, time.time()
            before = catalog.authority()
            if before == row:
                return _view(row)
            # A certificate for the appliance that was renewed ends nobody else's.
            same = before is not None and before.certificate == row.certificate
            clients = self._tls_clients()
            if same:
                catalog.renew_authority(row)
            else:
                good = [c.name for c in clients if any(is_good(each, now) for each in catalog.certificates(c.name))]
                if good and not force:
                    raise InUse(
                        f"{len(good)} client(s) have certificates that are good: {', '.join(good[:5])}",
                        why="another authority ends them all, and every guest that came in by one is cut off",
                        hint="force it, and give all of them new ones at once",
                    )
                catalog.set_authority(row, now)
            log.warning("certificates are signed by %s from now on", pki.described(row.certificate))
            for client in clients:
                self._begin_anew(client)
            return _view(row)

    def _begin_anew(self, client: Client) -> None:
        """Have a client's daemon show the new certificate, and nobody be connected by an old one."""
        try:
            self._exports.restart(client)
            self._core.catalog.record_cut(client.name)
        except HatcheryError:
            log.exception("client %s is not served until the next start", client.name)

    def _tls_clients(self) -> tuple[Client, ...]:
        return tuple(client for client in self._core.catalog.clients() if client.tls)


def _view(row: AuthorityRow) -> AuthorityView:
    shown = row.server_certificate
    return AuthorityView(
        subject=pki.described(row.certificate),
        expires=pki.expires(row.certificate),
        given=row.given,
        signs=bool(row.key),
        certificate=row.certificate,
        chain=row.chain,
        server_expires=None if shown is None else pki.expires(shown),
    )
