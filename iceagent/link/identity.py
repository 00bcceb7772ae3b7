"""The certificate with which a peer proves, inside TLS, that it is the one that signaling named."""

from __future__ import annotations

import datetime
import secrets
from dataclasses import dataclass, field
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec

from iceagent.core.checked import check_fields
from iceagent.link.certificate import pem, private_key, self_signed

_LIFETIME = datetime.timedelta(days=30)
_CLOCK_SKEW = datetime.timedelta(days=2)
_SERIAL_BITS = 158  # RFC 5280 section 4.1.2.2: positive, at most 20 bytes


@dataclass(frozen=True, slots=True)
class LinkIdentity:
    """A self-signed certificate and its key.

    `fingerprint` is the SHA-256 of the certificate in DER (32 bytes); it travels through the sealed signaling.
    """

    certificate_pem: bytes
    private_key_pem: bytes = field(repr=False)
    fingerprint: bytes

    def __post_init__(self) -> None:
        """Raise `WrongType` where a field is of another type."""
        check_fields(self)


def generate_identity() -> LinkIdentity:
    """Return a fresh P-256 key with a self-signed certificate, for one session.

    Names and validity are formalities: the peer checks the fingerprint and nothing else.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    serial = secrets.randbits(_SERIAL_BITS) + 1
    certificate = self_signed(key, "iceagent", serial, now - _CLOCK_SKEW, now + _LIFETIME)
    return LinkIdentity(
        certificate_pem=pem("CERTIFICATE", certificate),
        private_key_pem=pem("PRIVATE KEY", private_key(key)),
        fingerprint=sha256(certificate).digest(),
    )
