"""What the firmware would start: signatures of programs, and its database of those whose signatures count.

tests/data/secure_boot holds a program of a few bytes (unsigned.efi), the same as systemd-sbsign 257 signed it with the
key of owner.pem, which authority.pem issued, and a certificate of somebody else.
"""

import struct
import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, load_pem_x509_certificate

from appliance.errors import CannotTell, Refused
from appliance.update import authenticode, secure_boot
from appliance.update.bundle import Bundle
from appliance.update.version import parse

DATA = Path(__file__).parents[1] / "data/secure_boot"
SIGNED, UNSIGNED = ((DATA / name).read_bytes() for name in ("signed.efi", "unsigned.efi"))
ON = b"\6\0\0\0\1"
X509, SHA256 = (
    uuid.UUID(text) for text in ("a5c059a1-94e4-4aa7-87b5-ab155c2bf072", "c1c41626-504c-4092-aca9-41f936934328")
)
UNKNOWN = uuid.UUID(int=7)


def certificate(name: str) -> Certificate:
    return load_pem_x509_certificate((DATA / f"{name}.pem").read_bytes())


OWNER, AUTHORITY, STRANGER = (certificate(name) for name in ("owner", "authority", "stranger"))


def entries(kind: uuid.UUID, *values: bytes, header: bytes = b"") -> bytes:
    """A list of the signature database (UEFI, 32.4.1, EFI_SIGNATURE_LIST)."""
    each = 16 + len(values[0])
    body = b"".join(bytes(16) + value for value in values)
    return struct.pack("<16sIII", kind.bytes_le, 28 + len(header) + len(body), len(header), each) + header + body


def der(found: Certificate) -> bytes:
    return found.public_bytes(Encoding.DER)


# --- signatures


@pytest.mark.parametrize("trusted", [[OWNER], [STRANGER, OWNER], [AUTHORITY]])
def test_a_program_is_of_its_signer_and_of_who_vouches_for_him(trusted: list[Certificate]) -> None:
    assert authenticode.signer(SIGNED, trusted) == OWNER


@pytest.mark.parametrize("trusted", [[], [STRANGER]])
def test_a_signature_counts_for_nobody_else(trusted: list[Certificate]) -> None:
    assert authenticode.signer(SIGNED, trusted) is None
    assert authenticode.signer(UNSIGNED, [OWNER]) is None


def test_signing_leaves_the_digest_as_it_is() -> None:
    assert authenticode.digest(SIGNED) == authenticode.digest(UNSIGNED)


def test_a_program_that_was_changed_is_not_signed_any_more() -> None:
    """Each byte counts but those of the checksum, of the place of the signatures, and of their own padding."""
    header = struct.unpack_from("<I", SIGNED, 0x3C)[0] + 24
    begin, _ = struct.unpack_from("<II", SIGNED, header + 144)
    free = {*range(header + 64, header + 68), *range(header + 144, header + 152)}
    for place in sorted({*range(0, begin, 7), *range(begin - 3, begin)} - free):
        changed = bytearray(SIGNED)
        changed[place] ^= 1
        try:
            assert authenticode.signer(bytes(changed), [OWNER]) is None, place
        except ValueError:
            assert place < header + 2


def test_a_signature_that_was_changed_proves_nothing() -> None:
    stated, proof = SIGNED.index(authenticode.digest(SIGNED)), len(SIGNED.rstrip(b"\0")) - 1
    signing_time = SIGNED.rindex(b"\x17\x0d") + 2
    for place in (stated, signing_time, proof):
        changed = bytearray(SIGNED)
        changed[place] ^= 1
        assert authenticode.signer(bytes(changed), [OWNER]) is None


@pytest.mark.parametrize("wrong", [b"", b"nothing", SIGNED[:200], SIGNED + b"more", b"MZ" + bytes(600)])
def test_what_is_no_program_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"it is no program|not at its end"):
        authenticode.signer(wrong, [OWNER])


# --- the firmware's database


def test_the_database_holds_certificates_and_digests() -> None:
    value = (
        entries(UNKNOWN, b"four", header=b"xx")
        + entries(X509, der(OWNER))
        + entries(X509, b"no certificate")
        + entries(SHA256, b"a" * 32, b"b" * 32)
    )
    found = secure_boot.parse(value)
    assert found.certificates == (OWNER,)
    assert found.digests == {b"a" * 32, b"b" * 32}
    assert secure_boot.parse(b"") == secure_boot.Database((), frozenset())


@pytest.mark.parametrize("size", [1, 27, 40, -1])
def test_a_damaged_database_is_not_taken_for_an_empty_one(size: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        secure_boot.parse(entries(X509, der(OWNER))[:size])


# --- what is refused


@pytest.fixture
def variables(tmp_path: Path) -> Path:
    """A machine with Secure Boot on, which knows the owner."""
    (tmp_path / secure_boot.STATE).write_bytes(ON)
    (tmp_path / secure_boot.DATABASE).write_bytes(bytes(4) + entries(X509, der(OWNER)))
    return tmp_path


def test_what_the_owner_signed_is_taken(variables: Path) -> None:
    secure_boot.check(DATA / "signed.efi", variables)


def test_what_the_firmware_knows_by_its_digest_is_taken(variables: Path) -> None:
    known = entries(SHA256, authenticode.digest(UNSIGNED))
    (variables / secure_boot.DATABASE).write_bytes(bytes(4) + known)
    secure_boot.check(DATA / "unsigned.efi", variables)


def test_what_nobody_signed_is_refused_and_says_why(variables: Path) -> None:
    with pytest.raises(Refused, match="would not start") as refusal:
        secure_boot.check(DATA / "unsigned.efi", variables)
    assert "Secure Boot is on, and it was not signed with a key" in refusal.value.why
    assert "docs/security.md" in refusal.value.hint


def test_what_a_stranger_signed_is_refused(variables: Path) -> None:
    (variables / secure_boot.DATABASE).write_bytes(bytes(4) + entries(X509, der(STRANGER)))
    with pytest.raises(Refused, match="would not start"):
        secure_boot.check(DATA / "signed.efi", variables)


def test_what_is_no_program_is_refused_too(variables: Path) -> None:
    with pytest.raises(Refused, match="would not start") as refusal:
        secure_boot.check(DATA / "owner.pem", variables)
    assert "cannot be read: it is no program" in refusal.value.why


@pytest.mark.parametrize("state", [b"\6\0\0\0\0", None])
def test_with_secure_boot_off_anything_is_taken(variables: Path, state: bytes | None) -> None:
    (variables / secure_boot.STATE).unlink()
    if state is not None:
        (variables / secure_boot.STATE).write_bytes(state)
    secure_boot.check(DATA / "unsigned.efi", variables)


def test_without_a_database_nothing_can_be_told(variables: Path) -> None:
    (variables / secure_boot.DATABASE).unlink()
    with pytest.raises(CannotTell, match="cannot be told"):
        secure_boot.check(DATA / "signed.efi", variables)


def test_a_bundles_kernel_is_the_file_that_systemd_looks_for(tmp_path: Path) -> None:
    made = Bundle(tmp_path, parse("0.2.0"), catalog=3, usr_size=1, verity_size=1, uki_size=1)
    assert made.uki == tmp_path / "hatchery_0.2.0.efi"
