"""The 20-byte header: classes, methods and the magic cookie. RFC 8489 section 5."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from iceagent.core.stun.errors import StunError, StunErrorReason

MAGIC_COOKIE: Final = 0x2112A442
COOKIE_BYTES: Final = MAGIC_COOKIE.to_bytes(4, "big")
HEADER_LENGTH: Final = 20
TRANSACTION_ID_LENGTH: Final = 12
MAX_METHOD: Final = 0xFFF

_START: Final = struct.Struct("!HHI")
_ATTRIBUTE: Final = struct.Struct("!HH")


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
