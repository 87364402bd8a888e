"""Clients' certificates: issued, replaced, revoked.

A client's daemon lets in the certificates that the catalog has for that client and that were not revoked, one by one;
being of the right authority is not enough. So a revocation needs no list of its own, and a certificate of another
client opens nothing.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from appliance import pki
from appliance.catalog import Certificate, Client
from appliance.errors import AlreadyExists, HatcheryError, InvalidInput, NotFound, Refused
from appliance.pki import given
from appliance.schema import CertificateKind, CertificateRequest, RevocationKind
from appliance.service.core import Core
from appliance.service.exports import Exports

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a client needs: its certificate and key, and the certificate of who signed it and the appliance's."""

    authority: str
    issued: pki.Issued


class Certificates:
    """The verbs on certificates."""

    def __init__(self, core: Core, exports: Exports) -> None:
        self._core = core
        self._exports = exports

    def make(self, name: str, request: CertificateRequest) -> Bundle:
        """A certificate as it was asked for. Raises as ``issue`` and ``accept``."""
        if request.signed is not None:
            return self.accept(name, request.kind, request.signed)
        return self.issue(name, request.kind, request.seconds, request.request)

    def issue(self, name: str, kind: CertificateKind, seconds: float, request: str | None = None) -> Bundle:
        """Make a certificate for a client, good for ``seconds``. Its key is in the answer and nowhere else.

        A first one is only made while there is none that is good; after a rotation the older ones go on being good.
        With a ``request`` (PKCS #10, PEM) it is for the key of that, which never was here.
        Raises NotFound, InvalidInput, Refused, AlreadyExists, Unhealthy.
        """
        public = None if request is None else given.request(request)
        with self._core.lock:
            client, now = self._client(name), time.time()
            self._refuse_second(name, kind, now)
            authority = self._exports.credentials.authority()
            made = pki.client(authority, name, now, seconds, public)
            self._core.catalog.add_certificate(Certificate(made.serial, name, made.issued, made.expires))
            try:
                self._exports.admit(client)
            except HatcheryError:
                # Nobody has its key.
                self._core.catalog.revoke_certificates(name, [made.serial], now)
                self._core.catalog.record_cut(name)
                raise
        log.info("client %s: issued the certificate %s", name, made.serial)
        return Bundle(authority.trusted, made)

    def accept(self, name: str, kind: CertificateKind, certificate: str) -> Bundle:
        """Let in a certificate that the operator's own authority signed for a client. Its key never was here.

        Raises NotFound, InvalidInput when it would not work, Refused for a name that is another client's or that was
        revoked, AlreadyExists.
        """
        with self._core.lock:
            client, now = self._client(name), time.time()
            authority, catalog = self._exports.credentials.authority(), self._core.catalog
            if not authority.given:
                raise InvalidInput(
                    "a certificate from outside cannot be used",
                    why="the appliance's own authority signs all of them",
                    hint="give a request to be signed (--csr), or use your authority: hatchery authority use",
                )
            found = given.client(certificate, authority, now)
            self._refuse_second(name, kind, now)
            for other in catalog.certificates_named(found.name):
                if other.client != name or other.revoked is not None:
                    why = f"client {other.client} has it" if other.client != name else "it was revoked with that name"
                    hint = "have one with another name signed: names are what lets in"
                    raise Refused(f"the certificate's name {found.name} cannot be used", why=why, hint=hint)
                if other.serial == found.serial:
                    raise AlreadyExists(
                        f"client {name} has that certificate",
                        why="its serial number is in the list",
                        hint=f"see `hatchery client show {name}`",
                    )
            catalog.add_certificate(Certificate(found.serial, name, now, found.expires, name=found.name))
            self._exports.admit(client)
        log.info("client %s: lets in the certificate %s, %s", name, found.serial, found.name)
        return Bundle(authority.trusted, pki.Issued(found.serial, now, found.expires, found.certificate, ""))

    def _refuse_second(self, name: str, kind: CertificateKind, now: float) -> None:
        """A first certificate is for who has none. Raises AlreadyExists."""
        good = [each for each in self._core.catalog.certificates(name) if is_good(each, now)]
        if kind == "first" and good:
            raise AlreadyExists(
                f"client {name} has a certificate",
                why=f"{good[0].serial} is good, and its key was handed out",
                hint=f"make a further one with `hatchery client rotate {name}`",
            )

    def revoke(self, name: str, which: RevocationKind, serials: Sequence[str] = ()) -> None:
        """Let certificates in no more, and cut off everybody who is connected to the client's daemon: guests whose
        certificate is still good connect anew. Fine when they were revoked before.

        Raises NotFound, Refused; NotReady when the daemon does not come up again: it serves nobody then.
        """
        with self._core.lock:
            client = self._client(name)
            known = self._core.catalog.certificates(name)
            open_ones = [each.serial for each in known if each.revoked is None]
            if which == "named":
                unknown = sorted(set(serials) - {each.serial for each in known})
                if unknown:
                    raise NotFound(
                        f"client {name} has no certificate {', '.join(unknown)}",
                        hint=f"see `hatchery client show {name}`",
                    )
                doomed = [serial for serial in open_ones if serial in serials]
            else:
                doomed = open_ones[1:] if which == "older" else open_ones
            # A name lets in: those that share one go together.
            names = {each.name for each in known if each.serial in doomed and each.name is not None}
            namesakes = {each.serial for each in known if each.name in names}
            doomed = [serial for serial in open_ones if serial in {*doomed, *namesakes}]
            if doomed:
                self._core.catalog.revoke_certificates(name, doomed, time.time())
                log.warning("client %s: revoked %s", name, ", ".join(doomed))
            # What was revoked before may not have come to its end: a crash in between, a daemon that did not restart.
            if self._core.catalog.owes_cut(name):
                self._exports.expel(client)

    def _client(self, name: str) -> Client:
        client = self._core.catalog.client(name)
        if not client.tls:
            raise Refused(
                f"client {name} has no certificates",
                why="it is reached without TLS",
                hint=f"make it a TLS client: `hatchery client add {name} --tcp ADDRESS:PORT`",
            )
        return client


def is_good(certificate: Certificate, now: float) -> bool:
    """Whether a certificate lets anybody in."""
    return certificate.revoked is None and now < certificate.expires
