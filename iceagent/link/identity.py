"""The certificate with which a peer proves, inside TLS, that it is the one signaling introduced."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_LIFETIME = datetime.timedelta(days=30)
_CLOCK_SKEW = datetime.timedelta(days=2)


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """A self-signed certificate and its key.

    `fingerprint` is the SHA-256 of the certificate in DER (32 bytes); it travels through the sealed signaling.
    """

    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    fingerprint: bytes


def generate_identity() -> LinkIdentity:
    """Return a fresh P-256 key with a self-signed certificate, for one session.

    Names and validity are formalities: the peer checks the fingerprint and nothing else.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "iceagent")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
        .sign(key, hashes.SHA256())
    )
    return LinkIdentity(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM),
        private_key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        fingerprint=certificate.fingerprint(hashes.SHA256()),
    )
