"""Whether this machine's firmware would start a version: with Secure Boot on, only when it knows who signed it.

Source: the UEFI specification, 3.3 (variables) and 32.4 (signature database).
"""

import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.x509 import Certificate, load_der_x509_certificate

from appliance.errors import CannotTell, Refused
from appliance.update import authenticode

VARIABLES = Path("/sys/firmware/efi/efivars")
STATE = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
DATABASE = "db-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
_ATTRIBUTES = 4
"""Bytes before a variable's value, as Linux shows it (Documentation/filesystems/efivarfs.rst)."""

_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")
_LIST = struct.Struct("<16sIII")
_OWNER = 16


@dataclass(frozen=True, slots=True)
class Database:
    """What firmware starts: what was signed by one of these, and programs with one of these digests."""

    certificates: tuple[Certificate, ...]
    digests: frozenset[bytes]


def is_on(variables: Path = VARIABLES) -> bool:
    """Whether the firmware refuses what it does not know the signer of."""
    try:
        return (variables / STATE).read_bytes()[_ATTRIBUTES:] == b"\1"
    except OSError:
        return False


def parse(value: bytes) -> Database:
    """The signature database. Kinds of entries that are not known here are passed over. Raises ValueError."""
    certificates: list[Certificate] = []
    digests: set[bytes] = set()
    for kind, entry in _entries(value):
        if kind == _SHA256:
            digests.add(entry)
        elif kind == _X509:
            try:
                certificates.append(load_der_x509_certificate(entry))
            except ValueError:
                continue
    return Database(tuple(certificates), frozenset(digests))


def _entries(value: bytes) -> Iterator[tuple[uuid.UUID, bytes]]:
    while value:
        try:
            kind, whole, header, each = _LIST.unpack_from(value)
        except struct.error as error:
            raise ValueError("the signature database is damaged") from error
        if each <= _OWNER or not _LIST.size + header <= whole <= len(value):
            raise ValueError("the signature database is damaged")
        for place in range(_LIST.size + header, whole - each + 1, each):
            yield uuid.UUID(bytes_le=kind), value[place + _OWNER : place + each]
        value = value[whole:]


def check(uki: Path, variables: Path = VARIABLES) -> None:
    """Check that the firmware would start this file. Raises Refused, CannotTell.

    With Secure Boot off it would start any. What it has been told to refuse in any case (dbx) is not looked at: the
    trial shows it.
    """
    if not is_on(variables):
        return
    try:
        known = parse((variables / DATABASE).read_bytes()[_ATTRIBUTES:])
        image = uki.read_bytes()
    except (OSError, ValueError) as error:
        raise CannotTell("whether the firmware would start the new version cannot be told", why=str(error)) from error
    try:
        if authenticode.digest(image) in known.digests or authenticode.signer(image, known.certificates):
            return
        why = "Secure Boot is on, and it was not signed with a key that this machine's firmware knows"
    except (ValueError, IndexError) as error:
        why = f"Secure Boot is on, and the signature of {uki.name} cannot be read: {error}"
    raise Refused(
        "the firmware would not start this version",
        why=why,
        hint="make the bundle where the keys are that the appliance's image was signed with: docs/security.md",
    )
