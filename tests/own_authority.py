"""An operator's own authority, for tests: a root, one below it, and what they sign."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_PURPOSES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Made:
    """A certificate and its key."""

    found: x509.Certificate
    own: Key

    @property
    def certificate(self) -> str:
        return self.found.public_bytes(Encoding.PEM).decode("ascii")

    @property
    def key(self) -> str:
        return self.own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def name(words: str) -> x509.Name:
    """``O=hv1,CN=one`` as a name."""
    kinds = {"O": NameOID.ORGANIZATION_NAME, "CN": NameOID.COMMON_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME}
    pairs = (word.partition("=") for word in words.split(","))
    return x509.Name([x509.NameAttribute(kinds[short], value) for short, _, value in pairs])


def authority(words: str, above: Made | None = None, *, strong: bool = True) -> Made:
    """An authority, below another one or by itself."""
    key: Key = rsa.generate_private_key(65537, 2048 if strong else 1024) if above is None else _fresh()
    extensions = (
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (_usage(signs=True), True),
    )
    # A Made without a certificate stands for one that signs itself.
    return Made(_sign(words, key, above or Made(None, key), extensions, words if above is None else ""), key)  # type: ignore[arg-type]


def leaf(words: str, above: Made, purpose: str, addresses: Sequence[str] = (), *, days: int = 30) -> Made:
    """A certificate of a ``server``, with its addresses, or of a ``client``."""
    key = _fresh()
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs=False), False),
        (x509.ExtendedKeyUsage([_PURPOSES[purpose]]), False),
    ]
    if addresses:
        names = [x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]
        extensions.append((x509.SubjectAlternativeName(names), False))
    # A Made without a certificate stands for one that signs itself.
    return Made(_sign(words, key, above, extensions, "", days), key)


def request(words: str) -> tuple[str, str]:
    """A certificate request and its key."""
    key = _fresh()
    made = x509.CertificateSigningRequestBuilder().subject_name(name(words)).sign(key, hashes.SHA256())
    # Only for its words: there is no certificate yet.
    return made.public_bytes(Encoding.PEM).decode("ascii"), Made(None, key).key  # type: ignore[arg-type]


def _fresh() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _sign(
    words: str,
    key: Key,
    above: Made,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    issuer: str,
    days: int = 30,
) -> x509.Certificate:
    now = datetime.now(UTC)
    begin, end = now - timedelta(days=abs(days) + 1), now + timedelta(days=days)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(words))
        .issuer_name(name(issuer) if issuer else above.found.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(above.own, hashes.SHA256())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
