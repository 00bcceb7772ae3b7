"""The certificate with which a peer proves, inside TLS, that it is the one that signaling named.

It is self-signed, and written out as DER with its key: two small structures, always of the same shape.

The general library (`cryptography.x509`, with `serialization`) takes as long to import as the whole agent. A peer is
identified by the hash of its certificate, and nobody reads a field of it. Source: RFC 5280
section 4.1, RFC 5480 section 2, RFC 5758 section 3.2, RFC 5915, RFC 5958 section 2.
"""

from __future__ import annotations

import base64
import secrets
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from iceagent.core.checked import check_fields

_INTEGER, _BIT_STRING, _OCTET_STRING, _UTF8, _UTC_TIME = 0x02, 0x03, 0x04, 0x0C, 0x17
_SEQUENCE, _SET, _TAG_0, _TAG_1 = 0x30, 0x31, 0xA0, 0xA1  # X.690; tags 0 and 1 are explicit ones of a structure
_COMMON_NAME = bytes.fromhex("0603550403")  # 2.5.4.3
_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")  # 1.2.840.10045.2.1
_PRIME256V1 = bytes.fromhex("06082a8648ce3d030107")  # 1.2.840.10045.3.1.7
_ECDSA_WITH_SHA256 = bytes.fromhex("06082a8648ce3d040302")  # 1.2.840.10045.4.3.2
_SIZE = 32  # bytes of a number of P-256
_VERSION_3 = 2


def self_signed(
    key: ec.EllipticCurvePrivateKey, name: str, serial: int, not_before: datetime, not_after: datetime
) -> bytes:
    """Return an X.509 certificate in DER that a key has made out for itself.

    Args:
        key: of P-256; nothing else is written here.
        name: subject and issuer, as common name.
        serial: positive, at most 20 bytes long.
        not_before: in UTC and before 2050, as `not_after`.
        not_after: until when it is good.
    """
    algorithm = _der(_SEQUENCE, _ECDSA_WITH_SHA256)
    common_name = _der(_SEQUENCE, _der(_SET, _der(_SEQUENCE, _COMMON_NAME, _der(_UTF8, name.encode()))))
    to_sign = _der(
        _SEQUENCE,
        *(_der(_TAG_0, _integer(_VERSION_3)), _integer(serial), algorithm),
        *(common_name, _der(_SEQUENCE, _time(not_before), _time(not_after)), common_name),
        _der(_SEQUENCE, _der(_SEQUENCE, _EC_PUBLIC_KEY, _PRIME256V1), _bits(_point(key))),
    )
    return _der(_SEQUENCE, to_sign, algorithm, _bits(key.sign(to_sign, ec.ECDSA(hashes.SHA256()))))


def private_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key of P-256 in DER, as PKCS #8 has it; with its public key, as OpenSSL writes it."""
    secret = key.private_numbers().private_value.to_bytes(_SIZE, "big")
    inner = _der(_SEQUENCE, _integer(1), _der(_OCTET_STRING, secret), _der(_TAG_1, _bits(_point(key))))
    algorithm = _der(_SEQUENCE, _EC_PUBLIC_KEY, _PRIME256V1)
    return _der(_SEQUENCE, _integer(0), algorithm, _der(_OCTET_STRING, inner))


def pem(label: str, der: bytes) -> bytes:
    """Return DER as PEM (RFC 7468)."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join((f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", "")).encode()


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    numbers = key.public_key().public_numbers()
    return b"\4" + numbers.x.to_bytes(_SIZE, "big") + numbers.y.to_bytes(_SIZE, "big")


def _der(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def _integer(value: int) -> bytes:
    """Return a number that is not negative: with a zero in front where its first bit would say that it is."""
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _bits(value: bytes) -> bytes:
    return _der(_BIT_STRING, b"\0", value)


def _time(when: datetime) -> bytes:
    return _der(_UTC_TIME, when.strftime("%y%m%d%H%M%SZ").encode())


_LIFETIME = timedelta(days=30)
_CLOCK_SKEW = timedelta(days=2)
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
    now = datetime.now(UTC)
    serial = secrets.randbits(_SERIAL_BITS) + 1
    certificate = self_signed(key, "iceagent", serial, now - _CLOCK_SKEW, now + _LIFETIME)
    return LinkIdentity(
        certificate_pem=pem("CERTIFICATE", certificate),
        private_key_pem=pem("PRIVATE KEY", private_key(key)),
        fingerprint=sha256(certificate).digest(),
    )
