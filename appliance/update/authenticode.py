"""Signatures of programs that UEFI starts: by whom one was signed.

Sources: Microsoft's "PE Format" and "Windows Authenticode Portable Executable Signature Format"; RFC 2315 (PKCS #7),
6 to 9; the UEFI specification, 32.2. What is read is what tools for Secure Boot make today: SHA-256 and RSA.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import Certificate, load_der_x509_certificate

_PE32_PLUS = 0x20B
_CHECKSUM, _TABLE = 64, 112 + 4 * 8
"""Where, in a 64-bit optional header, the checksum and the place of the signatures are: neither is signed."""

_PKCS7 = 2
"""wCertificateType of a signature that is one of PKCS #7."""

_SEQUENCE, _SET, _OCTETS, _IDENTIFIER, _FIRST = 0x30, 0x31, 0x04, 0x06, 0xA0
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_INDIRECT_DATA = bytes.fromhex("2b060104018237020104")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_SHA256 = bytes.fromhex("608648016503040201")


@dataclass(frozen=True, slots=True)
class Value:
    """A value in DER: its tag, its content, and all of it as it stands."""

    tag: int
    content: bytes
    whole: bytes

    def parts(self) -> list["Value"]:
        """The values that it consists of. Raises ValueError."""
        return list(_values(self.content))


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature of a program: what it says that the program's digest is, and what proves who says so.

    ``stated`` is what was signed: ``attributes``, of which one is the digest of the statement.
    """

    digest: bytes
    statement: bytes
    attributes: Value
    proof: bytes
    certificates: tuple[bytes, ...]


def digest(image: bytes) -> bytes:
    """The SHA-256 of a program without its signatures. Raises ValueError when it is no program for x86-64."""
    header, begin, _ = _layout(image)
    return _digest(image, header, begin)


def signer(image: bytes, trusted: Iterable[Certificate]) -> Certificate | None:
    """The certificate with whose key a program was signed: one that is trusted, or that one of those vouches for.

    Whether certificates have ended does not matter: firmware has no clock to rely on. Raises ValueError.
    """
    known = tuple(trusted)
    header, begin, size = _layout(image)
    own = _digest(image, header, begin)
    for signature in _signatures(image[begin : begin + size]):
        if signature.digest != own or not _states(signature):
            continue
        for certificate in _vouched(known, signature.certificates):
            if _proves(signature, certificate):
                return certificate
    return None


def _layout(image: bytes) -> tuple[int, int, int]:
    """Where the optional header begins; where the signatures begin, and their size in bytes."""
    try:
        (place,) = struct.unpack_from("<I", image, 0x3C)
        header = place + 24
        (magic,) = struct.unpack_from("<H", image, header)
        begin, size = struct.unpack_from("<II", image, header + _TABLE)
    except struct.error as error:
        raise ValueError("it is no program for UEFI: it is too short") from error
    if image[place : place + 4] != b"PE\0\0" or magic != _PE32_PLUS:
        raise ValueError("it is no program for UEFI")
    if size == 0:
        return header, len(image), 0
    if begin < header + _TABLE + 8 or begin + size != len(image):
        raise ValueError("its signatures are not at its end")
    return header, begin, size


def _digest(image: bytes, header: int, begin: int) -> bytes:
    checksum, table = header + _CHECKSUM, header + _TABLE
    total = hashlib.sha256(image[:checksum])
    total.update(image[checksum + 4 : table])
    total.update(image[table + 8 : begin])
    return total.digest()


def _signatures(table: bytes) -> Iterator[Signature]:
    place = 0
    while place + 8 <= len(table):
        length, _, kind = struct.unpack_from("<IHH", table, place)
        if length < 8 or place + length > len(table):
            raise ValueError("the table of its signatures is damaged")
        if kind == _PKCS7:
            yield from _parsed(table[place + 8 : place + length])
        place += length + -length % 8


def _parsed(data: bytes) -> Iterator[Signature]:
    """The signatures of a PKCS #7 structure that state the digest of a program."""
    outer = _value(data, 0)[0].parts()  # zeros may follow it
    if [one.content for one in outer[:1]] != [_SIGNED_DATA]:
        return
    (signed,) = outer[1].parts()
    fields = signed.parts()
    kind, *content = fields[2].parts()
    if kind.content != _INDIRECT_DATA:
        return
    (statement,) = content[0].parts()
    algorithm, stated = statement.parts()[1].parts()
    if algorithm.parts()[0].content != _SHA256:
        return
    certificates = tuple(one.whole for field in fields[3:] if field.tag == _FIRST for one in field.parts())
    for signer_info in fields[-1].parts():
        parts = signer_info.parts()
        if len(parts) >= 6 and parts[3].tag == _FIRST:
            yield Signature(stated.content, statement.content, parts[3], parts[5].content, certificates)


def _states(signature: Signature) -> bool:
    """Whether what was signed is the statement."""
    for attribute in signature.attributes.parts():
        kind, values = attribute.parts()
        if kind.content == _MESSAGE_DIGEST:
            (value,) = values.parts()
            return value.content == hashlib.sha256(signature.statement).digest()
    return False


def _proves(signature: Signature, certificate: Certificate) -> bool:
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    # They are signed as the set that they are, not under the tag that they have here (RFC 2315, 9.3).
    signed = bytes([_SET]) + signature.attributes.whole[1:]
    try:
        key.verify(signature.proof, signed, padding.PKCS1v15(), SHA256())
    except InvalidSignature:
        return False
    return True


def _vouched(trusted: tuple[Certificate, ...], others: Iterable[bytes]) -> Iterator[Certificate]:
    """Those that are trusted, then those of the others that one of them issued, and so on."""
    believed, left = list(trusted), [load_der_x509_certificate(one) for one in others]
    for issuer in believed:
        yield issuer
        for other in tuple(left):
            try:
                other.verify_directly_issued_by(issuer)
            except (InvalidSignature, ValueError, TypeError):
                continue
            left.remove(other)
            believed.append(other)


def _values(data: bytes) -> Iterator[Value]:
    """The values that follow each other in DER. Raises ValueError."""
    place = 0
    while place < len(data):
        value, place = _value(data, place)
        yield value


def _value(data: bytes, place: int) -> tuple[Value, int]:
    """The value at a place, and where the next one begins (X.690, 8.1 and 10.1). Raises ValueError."""
    begin = place + 2
    if begin > len(data):
        raise ValueError("it ends early")
    tag, length = data[place], data[place + 1]
    if length & 0x80:
        more = length & 0x7F
        length = int.from_bytes(data[begin : begin + more], "big")
        begin += more
    end = begin + length
    if tag & 0x1F == 0x1F or end > len(data):
        raise ValueError("it is damaged")
    return Value(tag, data[begin:end], data[place:end]), end
