"""Bytes to messages and back. RFC 8489 sections 5 and 14."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import chain
from typing import Final, TypeAlias

from iceagent.core.constants import STUN_MAX_ATTRIBUTES
from iceagent.core.stun.attribute import Attribute, RawAttribute
from iceagent.core.stun.errors import StunError, StunErrorReason
from iceagent.core.stun.header import (
    HEADER_LENGTH,
    MAGIC_COOKIE,
    MAX_METHOD,
    TRANSACTION_ID_LENGTH,
    attributes_of,
    looks_like_stun,
    message_type,
    split_message_type,
)
from iceagent.core.stun.integrity import (
    FINGERPRINT,
    FINGERPRINT_LENGTH,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    SHA1_LENGTH,
    SHA256_LENGTH,
    SHA256_MIN_LENGTH,
    Integrity,
    fingerprint_attribute,
    integrity_attribute,
)
from iceagent.core.stun.message import NO_LAYOUT, Layout, Message
from iceagent.core.stun.registry import DECODERS

MAX_BODY: Final = 0xFFFC - (4 + SHA1_LENGTH) - (4 + SHA256_LENGTH) - (4 + FINGERPRINT_LENGTH)
"""Bytes of attributes we write, so that whatever closes the message fits into its 16 bits of length."""

_Span: TypeAlias = tuple[int, int, int]  # what `attributes_of` gives
_ATTRIBUTE_HEADER: Final = struct.Struct("!HH")
_MESSAGE_HEADER: Final = struct.Struct("!HHI12s")
_CLOSING: Final = frozenset((MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, FINGERPRINT))


def decode(data: bytes) -> Message:
    """Return the message in a datagram.

    Attributes that follow MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 are skipped unread, as RFC 8489 sections 14.5
    and 14.6 demand. Integrity and fingerprint are located, not verified.

    Raises:
        StunError: whatever else the bytes are; nothing else is ever raised.
    """
    data = bytes(data)
    if not looks_like_stun(data):
        raise _header_error(data)
    kind, _, _, transaction_id = _MESSAGE_HEADER.unpack_from(data)
    attributes: list[Attribute] = []
    scan, layout = attributes_of(data), NO_LAYOUT
    for span in scan:
        number, at, size = span
        if number in _CLOSING:
            layout = _locate(data, span, scan)
            break
        if len(attributes) == STUN_MAX_ATTRIBUTES:
            raise StunError(StunErrorReason.TOO_MANY_ATTRIBUTES, f"more than {STUN_MAX_ATTRIBUTES} attributes")
        value = data[at + 4 : at + 4 + size]
        decoder = DECODERS.get(number)
        attributes.append(RawAttribute(number, value) if decoder is None else decoder(value, transaction_id))
    message_class, method = split_message_type(kind)
    return Message(message_class, method, transaction_id, tuple(attributes), data, layout)


def _locate(data: bytes, first: _Span, others: Iterator[_Span]) -> Layout:
    """Find what closes the message, from the first such attribute on; all else there is skipped."""
    integrity_at = sha256_at = sha256_length = 0
    for kind, at, size in chain((first,), others):
        if kind == FINGERPRINT:
            if size != FINGERPRINT_LENGTH:
                raise StunError(StunErrorReason.BAD_FINGERPRINT_LENGTH, f"FINGERPRINT has {size} bytes")
            if at + 4 + size != len(data):
                raise StunError(StunErrorReason.AFTER_FINGERPRINT, "FINGERPRINT is not the last attribute")
            return Layout(integrity_at, sha256_at, sha256_length, at)
        if not sha256_at:
            # The first of each counts, and MESSAGE-INTEGRITY only before MESSAGE-INTEGRITY-SHA256.
            if kind == MESSAGE_INTEGRITY_SHA256:
                _check_sha256_length(size)
                sha256_at, sha256_length = at, size
            elif kind == MESSAGE_INTEGRITY and not integrity_at:
                if size != SHA1_LENGTH:
                    raise StunError(StunErrorReason.BAD_INTEGRITY_LENGTH, f"MESSAGE-INTEGRITY has {size} bytes")
                integrity_at = at
    return Layout(integrity_at, sha256_at, sha256_length, 0)


def _check_sha256_length(size: int) -> None:
    # RFC 8489 section 14.6: at least 16 bytes, at most 32, a multiple of 4.
    if not SHA256_MIN_LENGTH <= size <= SHA256_LENGTH or size % 4:
        raise StunError(StunErrorReason.BAD_INTEGRITY_LENGTH, f"MESSAGE-INTEGRITY-SHA256 has {size} bytes")


def _header_error(data: bytes) -> StunError:
    if len(data) < HEADER_LENGTH or data[0] > 0x3F or data[4:8] != MAGIC_COOKIE.to_bytes(4, "big"):
        return StunError(StunErrorReason.NOT_STUN, "no STUN header")
    return StunError(StunErrorReason.LENGTH, "the header's length does not fit the datagram")


def encode(
    message: Message,
    *,
    key: bytes | None = None,
    integrity: Integrity = Integrity.SHA1,
    fingerprint: bool = True,
    sha256_length: int = SHA256_LENGTH,
) -> bytes:
    """Return the bytes of a message.

    Args:
        message: what to say.
        key: from `short_term_key` or `long_term_key`; None leaves the message without integrity.
        integrity: which integrity attributes to append where there is a key.
        fingerprint: whether to append FINGERPRINT.
        sha256_length: 16 to 32, a multiple of 4; below 32 only where the usage allows truncation.

    Raises:
        ValueError: a value cannot be written: too long, out of range.
    """
    data = _encode_body(message)
    if key is not None:
        if integrity is not Integrity.SHA256:
            data += integrity_attribute(MESSAGE_INTEGRITY, data, key, SHA1_LENGTH)
        if integrity is not Integrity.SHA1:
            if not SHA256_MIN_LENGTH <= sha256_length <= SHA256_LENGTH or sha256_length % 4:
                raise ValueError(f"MESSAGE-INTEGRITY-SHA256 of {sha256_length} bytes is not 16 to 32 in steps of 4")
            data += integrity_attribute(MESSAGE_INTEGRITY_SHA256, data, key, sha256_length)
    if fingerprint:
        data += fingerprint_attribute(data)
    return data[:2] + (len(data) - HEADER_LENGTH).to_bytes(2, "big") + data[4:]


def _encode_body(message: Message) -> bytes:
    """Return header (its length still 0) and attributes."""
    transaction_id = message.transaction_id
    if len(transaction_id) != TRANSACTION_ID_LENGTH:
        raise ValueError(f"a transaction id has 12 bytes, not {len(transaction_id)}")
    if not 0 <= message.method <= MAX_METHOD:
        raise ValueError(f"method {message.method} is not within 0 to 4095")
    kind = message_type(message.message_class, message.method)
    parts = [_MESSAGE_HEADER.pack(kind, 0, MAGIC_COOKIE, transaction_id)]
    for attribute in message.attributes:
        parts += _encode_attribute(attribute, transaction_id)
    data = b"".join(parts)
    if len(data) - HEADER_LENGTH > MAX_BODY:
        raise ValueError(f"{len(data) - HEADER_LENGTH} bytes of attributes are more than the {MAX_BODY} of a message")
    return data


def _encode_attribute(attribute: Attribute, transaction_id: bytes) -> tuple[bytes, bytes, bytes]:
    """Return header, value and padding."""
    number = attribute.type if type(attribute) is RawAttribute else attribute.TYPE
    try:
        value = attribute.encode_value(transaction_id)
        size = len(value)
        return _ATTRIBUTE_HEADER.pack(number, size), value, bytes(-size & 3)
    except (OverflowError, struct.error) as out_of_range:
        raise ValueError(f"{attribute!r} does not fit its field: {out_of_range}") from None
