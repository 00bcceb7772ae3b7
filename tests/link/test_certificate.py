"""The certificate that is written here is the one that a library for certificates writes, byte by byte."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from iceagent.link.identity import generate_identity, pem, private_key, self_signed

NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "iceagent")])
SECRETS = st.integers(1, 2**255)  # below the order of the group; small ones need their leading zeros
SERIALS = st.integers(1, 2**158)
TIMES = st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2049, 12, 31))


def by_the_library(
    key: ec.EllipticCurvePrivateKey, serial: int, before: datetime.datetime, after: datetime.datetime
) -> x509.Certificate:
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(key.public_key())
    builder = builder.serial_number(serial).not_valid_before(before).not_valid_after(after)
    return builder.sign(key, hashes.SHA256())


@given(SECRETS, SERIALS, TIMES)
def test_it_is_what_the_library_writes(secret: int, serial: int, begins: datetime.datetime) -> None:
    key = ec.derive_private_key(secret, ec.SECP256R1())
    before = begins.replace(microsecond=0, tzinfo=datetime.UTC)
    after = before + datetime.timedelta(hours=1)
    expected = by_the_library(key, serial, before, after)
    found = x509.load_der_x509_certificate(self_signed(key, "iceagent", serial, before, after))
    assert found.tbs_certificate_bytes == expected.tbs_certificate_bytes
    assert found.signature_algorithm_oid == expected.signature_algorithm_oid
    found.verify_directly_issued_by(found)
    pkcs8 = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert private_key(key) == key.private_bytes(serialization.Encoding.DER, *pkcs8)
    assert pem("PRIVATE KEY", private_key(key)) == key.private_bytes(serialization.Encoding.PEM, *pkcs8)


def test_an_identity_is_one_certificate_and_its_key() -> None:
    identity = generate_identity()
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    key = serialization.load_pem_private_key(identity.private_key_pem, None)
    assert certificate.fingerprint(hashes.SHA256()) == identity.fingerprint
    assert certificate.public_bytes(serialization.Encoding.PEM) == identity.certificate_pem
    assert key.public_key() == certificate.public_key()
    now = datetime.datetime.now(datetime.UTC)
    assert certificate.not_valid_before_utc < now < certificate.not_valid_after_utc


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFF, 0x100, 2**158])
def test_a_serial_is_never_negative(serial: int) -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())
    when = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = x509.load_der_x509_certificate(self_signed(key, "iceagent", serial, when, when))
    assert certificate.serial_number == serial
