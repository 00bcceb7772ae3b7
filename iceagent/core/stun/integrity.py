"""MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT over raw messages. RFC 8489 sections 14.5 to 14.7."""

from __future__ import annotations

import hmac
import struct
import zlib
from enum import Enum
from typing import Final

from iceagent.core.stun.header import HEADER_LENGTH

MESSAGE_INTEGRITY: Final = 0x0008
MESSAGE_INTEGRITY_SHA256: Final = 0x001C
FINGERPRINT: Final = 0x8028

SHA1_LENGTH: Final = 20
SHA256_LENGTH: Final = 32
SHA256_MIN_LENGTH: Final = 16  # RFC 8489 section 14.6, where the usage allows truncation
FINGERPRINT_LENGTH: Final = 4
FINGERPRINT_XOR: Final = 0x5354554E

_HEADER: Final = struct.Struct("!HH")
_UINT16: Final = struct.Struct("!H")
_UINT32: Final = struct.Struct("!I")
_DIGESTS: Final = {MESSAGE_INTEGRITY: "sha1", MESSAGE_INTEGRITY_SHA256: "sha256"}


class Integrity(Enum):
    """Which integrity attributes a message carries."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    BOTH = "both"


def _covered(message: bytes, at: int, attribute_length: int) -> bytes:
    """Return what an attribute at offset `at` covers: all before it, the length as if the message ended with it."""
    length = at + 4 + attribute_length - HEADER_LENGTH
    return message[:2] + _UINT16.pack(length) + message[4:at]


def integrity_attribute(kind: int, message: bytes, key: bytes, length: int) -> bytes:
    """Return the integrity attribute, header included, that belongs at the end of `message`."""
    value = hmac.digest(key, _covered(message, len(message), length), _DIGESTS[kind])
    return _HEADER.pack(kind, length) + value[:length]


def verify_integrity_at(kind: int, message: bytes, at: int, length: int, key: bytes) -> bool:
    """Return, in constant time, whether the attribute of `length` bytes at offset `at` is the one that `key` gives."""
    expected = hmac.digest(key, _covered(message, at, length), _DIGESTS[kind])
    return hmac.compare_digest(expected[:length], message[at + 4 : at + 4 + length])


def fingerprint_attribute(message: bytes) -> bytes:
    """Return the FINGERPRINT attribute, header included, that belongs at the end of `message`."""
    crc = zlib.crc32(_covered(message, len(message), FINGERPRINT_LENGTH)) ^ FINGERPRINT_XOR
    return _HEADER.pack(FINGERPRINT, FINGERPRINT_LENGTH) + _UINT32.pack(crc)


def verify_fingerprint_at(message: bytes, at: int) -> bool:
    """Return whether the FINGERPRINT at offset `at` matches."""
    crc = zlib.crc32(_covered(message, at, FINGERPRINT_LENGTH)) ^ FINGERPRINT_XOR
    return bool(crc == _UINT32.unpack_from(message, at + 4)[0])
