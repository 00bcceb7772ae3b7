"""What a server says went wrong. RFC 8489 sections 14.8 and 14.13."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final, Self

from iceagent.core.stun.attributes import Attribute, decode_text, encode_text
from iceagent.core.stun.errors import bad_attribute

MAX_REASON_CHARACTERS: Final = 127  # RFC 8489 section 14.8: fewer than 128 characters
MAX_REASON_BYTES: Final = 509
MAX_REASON_BYTES_READ: Final = 763


class Code(IntEnum):
    """The error codes of the IANA registry that iceagent sends or understands."""

    TRY_ALTERNATE = 300  # RFC 8489 section 14.8
    BAD_REQUEST = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403  # RFC 8656 section 19
    MOBILITY_FORBIDDEN = 405  # RFC 8016
    UNKNOWN_ATTRIBUTE = 420
    ALLOCATION_MISMATCH = 437  # RFC 8656
    STALE_NONCE = 438
    ADDRESS_FAMILY_NOT_SUPPORTED = 440  # RFC 8656
    WRONG_CREDENTIALS = 441
    UNSUPPORTED_TRANSPORT_PROTOCOL = 442
    PEER_ADDRESS_FAMILY_MISMATCH = 443
    CONNECTION_ALREADY_EXISTS = 446  # RFC 6062
    CONNECTION_TIMEOUT_OR_FAILURE = 447
    ALLOCATION_QUOTA_REACHED = 486  # RFC 8656
    ROLE_CONFLICT = 487  # RFC 8445
    SERVER_ERROR = 500
    INSUFFICIENT_CAPACITY = 508  # RFC 8656


REASONS: Final[dict[int, str]] = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthenticated",
    403: "Forbidden",
    405: "Mobility Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    446: "Connection Already Exists",
    447: "Connection Timeout or Failure",
    486: "Allocation Quota Reached",
    487: "Role Conflict",
    500: "Server Error",
    508: "Insufficient Capacity",
}
"""The reason phrases the RFCs recommend."""


def encode_code(code: int) -> bytes:
    """Return the two bytes of class and number.

    Raises:
        ValueError: the code is not within 300 to 699.
    """
    if not 300 <= code <= 699:
        raise ValueError(f"error code {code} is not within 300 to 699")
    return bytes(divmod(code, 100))


def decode_code(class_byte: int, number: int) -> int:
    """Return the code of the two bytes; reserved bits of the first are ignored.

    Raises:
        StunError: class or number are out of range.
    """
    error_class = class_byte & 0x07
    if not 3 <= error_class <= 6 or number > 99:
        raise bad_attribute(f"error class {error_class} with number {number} is no error code")
    return error_class * 100 + number


@dataclass(frozen=True, slots=True)
class ErrorCode(Attribute):
    """ERROR-CODE: 300 to 699 and a reason for people."""

    code: int
    reason: str = ""

    TYPE: ClassVar[int] = 0x0009

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        reason = encode_text("ERROR-CODE", self.reason, MAX_REASON_CHARACTERS, MAX_REASON_BYTES)
        return b"\x00\x00" + encode_code(self.code) + reason

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        if len(value) < 4:
            raise bad_attribute(f"ERROR-CODE has only {len(value)} bytes")
        return cls(decode_code(value[2], value[3]), decode_text("ERROR-CODE", value[4:], MAX_REASON_BYTES_READ))


@dataclass(frozen=True, slots=True)
class UnknownAttributes(Attribute):
    """UNKNOWN-ATTRIBUTES: the types that made the server answer 420."""

    types: tuple[int, ...]

    TYPE: ClassVar[int] = 0x000A

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return struct.pack(f"!{len(self.types)}H", *self.types)

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        if len(value) % 2:
            raise bad_attribute("UNKNOWN-ATTRIBUTES has an odd number of bytes")
        return cls(struct.unpack(f"!{len(value) // 2}H", value))
