"""The appliance's own certificate authority: X.509 certificates by ``cryptography``, as QEMU and GnuTLS want them.

One authority signs the servers' certificates and the clients'. QEMU demands that an endpoint's own certificate is of
the authority that it believes, so there cannot be one for each side. Pure but for random numbers.

All keys are ECDSA P-256. A certificate says what it is good for: a client's cannot play the server, also because its
name can never be a host's.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.errors import Refused, Unhealthy

AUTHORITY_SECONDS = 20 * 365 * 86400.0
"""How long the authority and the servers' certificates are good for. Who has a server's key has the appliance itself,
so a short life of it would protect nothing, and its renewal would disturb guests."""

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Public = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

CLOCK_SECONDS = 86400.0
"""How far another machine's clock may be behind."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, as PEM. ``key`` is secret.

    An operator's own (``given``) may have a ``chain`` of certificates above it, and no key here: then it signs nothing.
    """

    certificate: str
    key: str = field(repr=False)
    chain: str = ""
    given: bool = False

    @property
    def trusted(self) -> str:
        """What both sides believe: this authority and those above it."""
        return self.certificate + self.chain


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM. ``key`` is secret. ``serial`` is hexadecimal.

    Times are seconds since the epoch; ``expires`` is the first moment at which it is no longer good.
    """

    serial: str
    issued: float
    expires: float
    certificate: str
    key: str = field(repr=False)


def distinguished_name(client: str, serial: str) -> str:
    """The name that GnuTLS gives for a client's certificate, which QEMU compares. It is of that certificate alone."""
    return f"O={client},CN=certificate {serial}"


def new_authority(now: float) -> Authority:
    """Make an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    number = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Hatchery authority {number:x}"[:64])])
    usage = _usage(sign=False)
    certificate = (
        _builder(name, name, key.public_key(), number, now, now + AUTHORITY_SECONDS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(_pem(certificate), _key_pem(key))


def server(authority: Authority, host_name: str, addresses: Iterable[str], now: float) -> Issued:
    """A certificate for the appliance: its clients accept it under this host name and these IP addresses.

    Raises Unhealthy when the authority cannot be read.
    """
    names = {f"ip:{address}" for address in addresses} | {f"dns:{host_name}"}
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Hatchery appliance")])
    alternatives = x509.SubjectAlternativeName([_general(name) for name in sorted(names)])
    purpose = ExtendedKeyUsageOID.SERVER_AUTH
    return _issue(authority, subject, purpose, now, _end(authority), x509.random_serial_number(), alternatives)


def client(authority: Authority, name: str, now: float, seconds: float, public: Public | None = None) -> Issued:
    """A certificate for a client, good for ``seconds`` from now, and no longer than the authority.

    With a ``public`` key it is for who has the other half, and there is none in the answer. Raises Unhealthy when the
    authority cannot be read, Refused when its key is not here.
    """
    number = x509.random_serial_number()
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, name),
            x509.NameAttribute(NameOID.COMMON_NAME, f"certificate {serial_text(number)}"),
        ]
    )
    # A name of its own kind, so that nobody falls back to the common name when looking for a host's.
    alternatives = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:hatchery:client:{name}")])
    expires = min(now + seconds, _end(authority))
    return _issue(authority, subject, ExtendedKeyUsageOID.CLIENT_AUTH, now, expires, number, alternatives, public)


def serves(certificate: str, authority: Authority, host_name: str | None, addresses: Iterable[str], now: float) -> bool:
    """Whether a server's certificate is of this authority, still good, and covers all that it is reached by."""
    try:
        found = x509.load_pem_x509_certificate(certificate.encode())
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.encode()))
        covered = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        # Damaged, of another authority, or not one that was made here.
        return False
    wanted = [_general(f"ip:{address}") for address in addresses]
    if host_name is not None:
        wanted.append(_general(f"dns:{host_name}"))
    return found.not_valid_after_utc.timestamp() > now and all(name in list(covered) for name in wanted)


def serial_text(number: int) -> str:
    """A serial number as it is shown and kept: 40 hexadecimal digits."""
    return f"{number:040x}"


def _general(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    return x509.DNSName(value) if kind == "dns" else x509.IPAddress(ipaddress.ip_address(value))


def _issue(
    authority: Authority,
    subject: x509.Name,
    purpose: x509.ObjectIdentifier,
    now: float,
    expires: float,
    number: int,
    alternatives: x509.SubjectAlternativeName,
    public: Public | None = None,
) -> Issued:
    signer, signer_key = _load(authority)
    key, own = ec.generate_private_key(ec.SECP256R1()), public is None
    public = public or key.public_key()
    certificate = (
        _builder(subject, signer.subject, public, number, now, expires)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        # Not critical: QEMU up to 10.1 would demand key encipherment, which is RSA's.
        .add_extension(_usage(sign=True), critical=False)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(signer_key, hashes.SHA256())
    )
    return Issued(
        serial=serial_text(number),
        issued=now,
        expires=certificate.not_valid_after_utc.timestamp(),
        certificate=_pem(certificate),
        key=_key_pem(key) if own else "",
    )


def _load(authority: Authority) -> tuple[x509.Certificate, Key]:
    if not authority.key:
        raise Refused(
            "no certificate can be signed here",
            why="the authority is your own, and its key is not on the appliance",
            hint="have it signed, and give it: hatchery client certificate CLIENT --signed FILE",
        )
    try:
        certificate = x509.load_pem_x509_certificate(authority.certificate.encode())
        key = load_pem_private_key(authority.key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise Unhealthy("the certificate authority cannot be read", why=str(error)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Unhealthy("the certificate authority cannot be read", why="its key is of another kind")
    return certificate, key


def _end(authority: Authority) -> float:
    return _load(authority)[0].not_valid_after_utc.timestamp()


def expires(certificate: str) -> float:
    """When a certificate ends, seconds since the epoch. Raises Unhealthy when it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc.timestamp()
    except (ValueError, TypeError) as error:
        raise Unhealthy("a certificate cannot be read", why=str(error)) from error


def described(certificate: str) -> str:
    """Whose a certificate is, in words. Raises Unhealthy when it cannot be read."""
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).subject.rfc4514_string()
    except (ValueError, TypeError) as error:
        raise Unhealthy("a certificate cannot be read", why=str(error)) from error


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Public, number: int, now: float, expires: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(number)
        .not_valid_before(datetime.fromtimestamp(now, UTC) - timedelta(seconds=CLOCK_SECONDS))
        .not_valid_after(datetime.fromtimestamp(expires, UTC))
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    """What a key may do: sign in handshakes, or sign certificates."""
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")
