"""A message as bytes: its header, where its attributes lie, what secures it. RFC 8489 sections 5 and 14.5 to 14.7."""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import Final

from iceagent.core.stun.errors import StunError, StunErrorReason

MAGIC_COOKIE: Final = 0x2112A442
COOKIE_BYTES: Final = MAGIC_COOKIE.to_bytes(4, "big")
HEADER_LENGTH: Final = 20
TRANSACTION_ID_LENGTH: Final = 12
MAX_METHOD: Final = 0xFFF

MESSAGE_INTEGRITY: Final = 0x0008
MESSAGE_INTEGRITY_SHA256: Final = 0x001C
FINGERPRINT: Final = 0x8028

SHA1_LENGTH: Final = 20
SHA256_LENGTH: Final = 32
SHA256_MIN_LENGTH: Final = 16  # RFC 8489 section 14.6, where the usage allows truncation
FINGERPRINT_LENGTH: Final = 4
FINGERPRINT_XOR: Final = 0x5354554E

_START: Final = struct.Struct("!HHI")
_ATTRIBUTE: Final = struct.Struct("!HH")
_UINT16: Final = struct.Struct("!H")
_UINT32: Final = struct.Struct("!I")
_DIGESTS: Final = {MESSAGE_INTEGRITY: "sha1", MESSAGE_INTEGRITY_SHA256: "sha256"}


class MessageClass(IntEnum):
    """The two class bits. RFC 8489 section 5."""

    REQUEST = 0
    INDICATION = 1
    SUCCESS = 2
    ERROR = 3


class Method(IntEnum):
    """The methods of the IANA registry that iceagent speaks."""

    BINDING = 0x001  # RFC 8489
    ALLOCATE = 0x003  # RFC 8656
    REFRESH = 0x004
    SEND = 0x006
    DATA = 0x007
    CREATE_PERMISSION = 0x008
    CHANNEL_BIND = 0x009
    CONNECT = 0x00A  # RFC 6062
    CONNECTION_BIND = 0x00B
    CONNECTION_ATTEMPT = 0x00C


def message_type(message_class: MessageClass, method: int) -> int:
    """Return the 14-bit type field: the method's bits with the two class bits between them."""
    spread = (method & 0xF80) << 2 | (method & 0x070) << 1 | method & 0x00F
    return spread | (message_class & 2) << 7 | (message_class & 1) << 4


def split_message_type(value: int) -> tuple[MessageClass, int]:
    """Return class and method of a type field; the method is a `Method` where it is a known one."""
    known = _KNOWN_TYPES.get(value)
    if known is not None:
        return known
    method = (value & 0x3E00) >> 2 | (value & 0x00E0) >> 1 | value & 0x000F
    return MessageClass((value & 0x100) >> 7 | (value & 0x010) >> 4), method


_KNOWN_TYPES: Final[dict[int, tuple[MessageClass, int]]] = {
    message_type(message_class, method): (message_class, method) for message_class in MessageClass for method in Method
}


def looks_like_stun(data: bytes) -> bool:
    """Return whether `data` has a STUN header that fits its length; decoding may fail all the same.

    Source: RFC 8489 sections 5 and 6.3, RFC 7983.
    """
    if len(data) < HEADER_LENGTH:
        return False
    kind, length, cookie = _START.unpack_from(data)
    return bool(kind < 0x4000 and cookie == MAGIC_COOKIE and length & 3 == 0 and length + HEADER_LENGTH == len(data))


def attributes_of(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Give of each attribute of a message its type, where it begins and the length of its value.

    Values begin four bytes later, and are not looked at.

    Raises:
        StunError: the attributes do not fill the message to its end.
    """
    at, end = HEADER_LENGTH, len(data)
    while at + 4 <= end:
        kind, size = _ATTRIBUTE.unpack_from(data, at)
        following = at + 4 + size + (-size & 3)
        if following > end:
            break
        yield kind, at, size
        at = following
    if at < end:
        raise StunError(StunErrorReason.TRUNCATED_ATTRIBUTE, f"the attribute at {at} reaches past the message's end")


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
    return _ATTRIBUTE.pack(kind, length) + value[:length]


def verify_integrity_at(kind: int, message: bytes, at: int, length: int, key: bytes) -> bool:
    """Return, in constant time, whether the attribute of `length` bytes at offset `at` is the one that `key` gives."""
    expected = hmac.digest(key, _covered(message, at, length), _DIGESTS[kind])
    return hmac.compare_digest(expected[:length], message[at + 4 : at + 4 + length])


def fingerprint_attribute(message: bytes) -> bytes:
    """Return the FINGERPRINT attribute, header included, that belongs at the end of `message`."""
    crc = zlib.crc32(_covered(message, len(message), FINGERPRINT_LENGTH)) ^ FINGERPRINT_XOR
    return _ATTRIBUTE.pack(FINGERPRINT, FINGERPRINT_LENGTH) + _UINT32.pack(crc)


def verify_fingerprint_at(message: bytes, at: int) -> bool:
    """Return whether the FINGERPRINT at offset `at` matches."""
    crc = zlib.crc32(_covered(message, at, FINGERPRINT_LENGTH)) ^ FINGERPRINT_XOR
    return bool(crc == _UINT32.unpack_from(message, at + 4)[0])
