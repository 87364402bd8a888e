import time
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from appliance import pki
from appliance.errors import Unhealthy

NOW = time.time()
AUTHORITY = pki.new_authority(NOW)
DAY = 86400.0


def load(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


def test_a_server_is_accepted_by_its_names_alone() -> None:
    made = pki.server(AUTHORITY, "box", ["192.0.2.10", "2001:db8::1"], NOW)
    policy = PolicyBuilder().store(Store([load(AUTHORITY.certificate)])).time(datetime.fromtimestamp(NOW, UTC))
    names = load(made.certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(found) for found in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.10", "2001:db8::1"]
    policy.build_server_verifier(x509.DNSName("box")).verify(load(made.certificate), [])
    with pytest.raises(VerificationError):
        policy.build_server_verifier(x509.DNSName("other")).verify(load(made.certificate), [])


def test_a_client_cannot_play_a_server() -> None:
    made = load(pki.client(AUTHORITY, "192.0.2.10", NOW, DAY).certificate)
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert not names.get_values_for_type(x509.IPAddress)
    assert not names.get_values_for_type(x509.DNSName)
    # A space is in no host's name, so that the common name is none either.
    (common,) = made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert " " in str(common.value)


def test_a_certificate_ends_when_it_was_said_and_never_after_its_authority() -> None:
    made = pki.client(AUTHORITY, "hv1", NOW, DAY)
    assert abs(made.expires - NOW - DAY) < 2
    assert load(made.certificate).not_valid_before_utc.timestamp() < NOW
    end = load(AUTHORITY.certificate).not_valid_after_utc.timestamp()
    assert pki.client(AUTHORITY, "hv1", NOW, 100 * pki.AUTHORITY_SECONDS).expires == end


def test_each_certificate_has_a_name_of_its_own() -> None:
    first, second = (pki.client(AUTHORITY, "a" * 63, NOW, DAY) for _ in range(2))
    assert first.serial != second.serial
    found = load(first.certificate)
    assert pki.serial_text(found.serial_number) == first.serial
    # GnuTLS gives the parts in the certificate's order.
    parts = [part.rfc4514_string() for part in found.subject.rdns]
    assert ",".join(parts) == pki.distinguished_name("a" * 63, first.serial)


def test_keys_are_p_256_and_are_in_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    made = pki.client(AUTHORITY, "hv1", NOW, DAY)
    key = load_pem_private_key(made.key.encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    print(made, AUTHORITY)
    assert "PRIVATE" not in capsys.readouterr().out


def test_a_servers_certificate_stays_as_long_as_it_serves() -> None:
    made = pki.server(AUTHORITY, "box", ["192.0.2.10"], NOW).certificate

    def good(authority: pki.Authority = AUTHORITY, host: str = "box", address: str = "192.0.2.10") -> bool:
        return pki.serves(made, authority, host, [address], NOW)

    assert good()
    assert not good(authority=pki.new_authority(NOW))
    assert not good(host="another")
    assert not good(address="192.0.2.11")
    assert not pki.serves(made, AUTHORITY, "box", ["192.0.2.10"], NOW + pki.AUTHORITY_SECONDS + 1)
    assert not pki.serves("none", AUTHORITY, "box", [], NOW)


def test_a_damaged_authority_is_said() -> None:
    with pytest.raises(Unhealthy, match="authority cannot be read"):
        pki.client(pki.Authority(AUTHORITY.certificate, "none"), "hv1", NOW, DAY)
