"""What an operator gives: an authority of his own, certificates that it signed, and requests for others.

Two ways. With the authority's key (a subordinate authority made for this is best) everything goes on as with the
appliance's own. Without it the appliance signs nothing: its own certificate and the clients' come from outside.

Everything is checked when it is given, because a certificate that QEMU does not take shows up as guests without disks.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import InvalidInput
from appliance.pki import Authority, Key, serial_text

LEAST_RSA = 2048
"""Bits of an RSA key."""

MOST_CHAIN = 8
"""Certificates above the one that signs. QEMU reads 16 at most."""

_SHORT = {
    NameOID.COMMON_NAME: "CN",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.COUNTRY_NAME: "C",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
}
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .-_@:/()'")


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client's certificate from outside. ``name`` is what lets it in; times are seconds since the epoch."""

    serial: str
    name: str
    issued: float
    expires: float
    certificate: str


def authority(certificate: str, key: str | None, chain: str, now: float) -> Authority:
    """An operator's authority, with its key or without. ``chain`` are the certificates above it, in PEM.

    Raises InvalidInput.
    """
    found = _certificate(certificate, "the authority's certificate")
    _lives(found, now, "the authority's certificate")
    if not _may_sign(found):
        raise InvalidInput(
            "the certificate is no authority's",
            why="its basic constraints or its key usage do not let it sign certificates",
            hint="give a certificate with CA:TRUE and keyCertSign",
        )
    above = _chain(chain)
    if key is not None:
        public = _key(key, "the authority's key").public_key()
        if _spki(public) != _spki(found.public_key()):
            raise InvalidInput(
                "key and certificate of the authority do not belong together",
                why="the certificate is for another key",
                hint="give the two that were made together",
            )
    _strong(found.public_key(), "the authority's key")
    text = "".join(each.public_bytes(Encoding.PEM).decode("ascii") for each in above)
    return Authority(found.public_bytes(Encoding.PEM).decode("ascii"), key or "", text, given=True)


def check_server(certificate: str, key: str, signer: Authority, now: float) -> None:
    """Refuse a certificate that the storage daemons could not show. Raises InvalidInput."""
    what = "the appliance's certificate"
    found = _certificate(certificate, what)
    _signed(found, signer, what)
    _lives(found, now, what)
    _good_for(found, ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth", what)
    _usable(found, what)
    try:
        found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        raise InvalidInput(
            f"{what} names no host", why="it has no subjectAltName", hint="it needs every address of the clients"
        ) from error
    if _spki(_key(key, "the appliance's key").public_key()) != _spki(found.public_key()):
        raise InvalidInput(
            "key and certificate of the appliance do not belong together",
            why="the certificate is for another key",
            hint="give the two that were made together",
        )


def client(certificate: str, signer: Authority, now: float) -> ClientCertificate:
    """A client's certificate that the operator's authority signed. Raises InvalidInput."""
    what = "the client's certificate"
    found = _certificate(certificate, what)
    _signed(found, signer, what)
    _lives(found, now, what)
    _good_for(found, ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth", what)
    _usable(found, what)
    return ClientCertificate(
        serial_text(found.serial_number),
        name_of(found.subject),
        now,
        found.not_valid_after_utc.timestamp(),
        found.public_bytes(Encoding.PEM).decode("ascii"),
    )


def request(text: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """The key that a certificate request asks for; what else it asks for does not count. Raises InvalidInput."""
    try:
        found = x509.load_pem_x509_csr(text.encode())
        genuine = found.is_signature_valid
        key = found.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput("the certificate request cannot be read", why=str(error), hint="give it in PEM") from error
    if not genuine:
        raise InvalidInput(
            "the certificate request is not signed by its own key",
            why="its signature does not fit the key that is in it",
            hint="make it anew",
        )
    return _strong(key, "the key of the certificate request")


def name_of(subject: x509.Name) -> str:
    """A name as GnuTLS writes it, which QEMU compares (gnutls_x509_crt_get_dn). Raises InvalidInput for others."""
    parts = []
    for part in subject.rdns:
        (one, *more) = part
        value, short = str(one.value), _SHORT.get(one.oid)
        if more or short is None or not value or value != value.strip() or not set(value) <= _PLAIN:
            raise InvalidInput(
                f"the certificate's name cannot be used: {subject.rfc4514_string()}",
                why="it is compared letter by letter, and may hold CN, O, OU, L, ST, C, DC and UID with plain letters",
                hint="have it signed with a name like O=hv1,CN=certificate 7",
            )
        parts.append(f"{short}={value}")
    if not parts:
        raise InvalidInput("the certificate has no name", why="its name is what lets it in")
    return ",".join(parts)


def _certificate(text: str, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{what} cannot be read", why=str(error), hint="give it in PEM") from error


def _chain(text: str) -> list[x509.Certificate]:
    if not text.strip():
        return []
    try:
        found = x509.load_pem_x509_certificates(text.encode())
    except (ValueError, TypeError) as error:
        raise InvalidInput("the chain cannot be read", why=str(error), hint="give certificates in PEM") from error
    if len(found) > MOST_CHAIN or not all(_may_sign(each) for each in found):
        raise InvalidInput("the chain is none", why=f"it is at most {MOST_CHAIN} certificates, each an authority's")
    return found


def _key(text: str, what: str) -> Key:
    try:
        found = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidInput(
            f"{what} cannot be read", why=str(error), hint="give it in PEM, without a password"
        ) from error
    _strong(found.public_key(), what)
    if not isinstance(found, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise InvalidInput(
            f"{what} is of a kind that is not taken", why=f"it is a {type(found).__name__}", hint="take ECDSA or RSA"
        )
    return found


def _strong(key: object, what: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= LEAST_RSA:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256:
        return key
    raise InvalidInput(
        f"{what} cannot be used", why=f"it is neither ECDSA of 256 bits nor RSA of {LEAST_RSA} bits, nor more"
    )


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        return b""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _may_sign(found: x509.Certificate) -> bool:
    try:
        if not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return found.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as error:
        return error.oid == x509.KeyUsage.oid


def _lives(found: x509.Certificate, now: float, what: str) -> None:
    if not found.not_valid_before_utc.timestamp() <= now < found.not_valid_after_utc.timestamp():
        raise InvalidInput(
            f"{what} is not good now",
            why=f"it is from {found.not_valid_before_utc:%Y-%m-%d} to {found.not_valid_after_utc:%Y-%m-%d}",
        )


def _signed(found: x509.Certificate, signer: Authority, what: str) -> None:
    try:
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(signer.certificate.encode()))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InvalidInput(
            f"{what} is of another authority",
            why="the one that is in use did not sign it itself",
            hint="see `hatchery authority show`",
        ) from error


def _good_for(found: x509.Certificate, purpose: x509.ObjectIdentifier, word: str, what: str) -> None:
    try:
        purposes = list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        purposes = []
    # One that is good for everything would let whoever has it be both sides.
    if purposes != [purpose]:
        raise InvalidInput(f"{what} has another purpose", why=f"its extended key usage is not {word} alone")


def _usable(found: x509.Certificate, what: str) -> None:
    """What QEMU up to 10.1 refuses (crypto/tlscredsx509.c), or both sides would."""
    _strong(found.public_key(), "the key of the certificate")
    if _may_sign(found):
        raise InvalidInput(
            f"{what} is an authority's",
            why="it may sign others, and storage daemons refuse such a one",
            hint="give one with CA:FALSE",
        )
    try:
        usage = found.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        return
    if not usage.value.digital_signature or (usage.critical and not usage.value.key_encipherment):
        raise InvalidInput(
            f"{what} cannot be used",
            why="QEMU wants digitalSignature among its key usages, and keyEncipherment if these are critical",
            hint="have it signed with a key usage that is not critical",
        )
