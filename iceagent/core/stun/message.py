"""A STUN message as a value, and as bytes; templates of what is sent again and again. RFC 8489 sections 5 and 14."""

from __future__ import annotations

import hmac
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple, TypeAlias, TypeVar

from iceagent.core.constants import STUN_MAX_ATTRIBUTES
from iceagent.core.stun.attributes import COMPREHENSION_OPTIONAL, Attribute, RawAttribute
from iceagent.core.stun.error_attributes import REASONS, ErrorCode
from iceagent.core.stun.errors import StunError, StunErrorReason
from iceagent.core.stun.raw import (
    FINGERPRINT,
    FINGERPRINT_LENGTH,
    FINGERPRINT_XOR,
    HEADER_LENGTH,
    MAGIC_COOKIE,
    MAX_METHOD,
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    SHA1_LENGTH,
    SHA256_LENGTH,
    SHA256_MIN_LENGTH,
    TRANSACTION_ID_LENGTH,
    Integrity,
    MessageClass,
    Method,
    attributes_of,
    fingerprint_attribute,
    integrity_attribute,
    looks_like_stun,
    message_type,
    split_message_type,
    verify_fingerprint_at,
    verify_integrity_at,
)
from iceagent.core.stun.registry import DECODERS

A = TypeVar("A", bound=Attribute)


class Layout(NamedTuple):
    """Offsets in the raw message of the attributes that close it; 0 where there is none."""

    integrity_at: int = 0
    sha256_at: int = 0
    sha256_length: int = 0
    fingerprint_at: int = 0


NO_LAYOUT = Layout()


@dataclass(frozen=True, slots=True)
class Message:
    """A message: what it says in `attributes`, how it is secured in `raw` and `layout`.

    `attributes` never holds MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 or FINGERPRINT: `encode` appends them, `decode`
    notes where they are. Nor does it hold attributes that follow MESSAGE-INTEGRITY: they are not authenticated.
    Messages are equal when class, method, transaction id and attributes are.

    Attributes:
        message_class: request, indication, success or error response.
        method: a `Method`, or the bare number of an unknown one.
        transaction_id: 12 bytes.
        attributes: in the order of the message.
        raw: the message as it was decoded; empty for messages made here.
        layout: where in `raw` integrity and fingerprint are.
    """

    message_class: MessageClass
    method: int
    transaction_id: bytes
    attributes: tuple[Attribute, ...] = ()
    raw: bytes = field(default=b"", compare=False, repr=False)
    layout: Layout = field(default=NO_LAYOUT, compare=False, repr=False)

    def get(self, kind: type[A]) -> A | None:
        """Return the first attribute of `kind`, the only one that counts (RFC 8489 section 14), or None."""
        for attribute in self.attributes:
            if type(attribute) is kind:
                return attribute
        return None

    def get_all(self, kind: type[A]) -> tuple[A, ...]:
        """Return all attributes of `kind`, for the few that may repeat, such as XOR-PEER-ADDRESS."""
        return tuple(attribute for attribute in self.attributes if type(attribute) is kind)

    @property
    def unknown_comprehension_required(self) -> tuple[int, ...]:
        """The types, in order and once each, that forbid processing this message. RFC 8489 section 6.3."""
        types = [attribute.type for attribute in self.attributes if type(attribute) is RawAttribute]
        return tuple(dict.fromkeys(kind for kind in types if kind < COMPREHENSION_OPTIONAL)) if types else ()

    @property
    def integrity(self) -> Integrity | None:
        """Which integrity attributes the message carries, true or not."""
        if self.layout.sha256_at:
            return Integrity.BOTH if self.layout.integrity_at else Integrity.SHA256
        return Integrity.SHA1 if self.layout.integrity_at else None

    @property
    def has_integrity(self) -> bool:
        """Whether there is an integrity attribute, true or not."""
        return self.integrity is not None

    @property
    def has_fingerprint(self) -> bool:
        """Whether there is a FINGERPRINT, true or not."""
        return self.layout.fingerprint_at != 0

    def verify_integrity(self, key: bytes, *, allow_truncated: bool = False) -> bool:
        """Return whether the message is authenticated by `key`: all of `attributes`, class, method and transaction id.

        Of two integrity attributes the stronger decides. Constant time; False where there is none, and for messages
        that were not decoded.

        Args:
            key: from `short_term_key` or `long_term_key`.
            allow_truncated: accept MESSAGE-INTEGRITY-SHA256 cut to 16 bytes or more; only for usages that say so.

        Source: RFC 8489 sections 14.5 and 14.6.
        """
        at, sha256_at, sha256_length, _ = self.layout
        if sha256_at:
            if sha256_length != SHA256_LENGTH and not allow_truncated:
                return False
            return verify_integrity_at(MESSAGE_INTEGRITY_SHA256, self.raw, sha256_at, sha256_length, key)
        return at != 0 and verify_integrity_at(MESSAGE_INTEGRITY, self.raw, at, SHA1_LENGTH, key)

    def verify_fingerprint(self) -> bool | None:
        """Return whether the FINGERPRINT is right; None where there is none."""
        at = self.layout.fingerprint_at
        return verify_fingerprint_at(self.raw, at) if at else None


def binding_request(transaction_id: bytes, *attributes: Attribute) -> Message:
    """Return a Binding request."""
    return Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes)


def binding_indication(transaction_id: bytes, *attributes: Attribute) -> Message:
    """Return a Binding indication, which nobody answers: a keepalive. RFC 8445 section 11."""
    return Message(MessageClass.INDICATION, Method.BINDING, transaction_id, attributes)


def success(request: Message, *attributes: Attribute) -> Message:
    """Return the success response to `request`."""
    return Message(MessageClass.SUCCESS, request.method, request.transaction_id, attributes)


def error(request: Message, code: int, reason: str = "", *attributes: Attribute) -> Message:
    """Return the error response to `request`.

    Args:
        request: what is answered.
        code: 300 to 699.
        reason: for people; empty for the one the RFCs recommend.
        attributes: what follows ERROR-CODE.
    """
    code_attribute = ErrorCode(code, reason or REASONS.get(code, ""))
    return Message(MessageClass.ERROR, request.method, request.transaction_id, (code_attribute, *attributes))


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


_COMMON_HEADER: Final = struct.Struct("!HHI")
_INTEGRITY_HEADER: Final = struct.pack("!HH", MESSAGE_INTEGRITY, SHA1_LENGTH)
_FINGERPRINT: Final = struct.Struct("!HHI")


class Template:
    """A message with MESSAGE-INTEGRITY and FINGERPRINT but for its transaction id.

    `seal` returns what `encode` returns for the same message, at a third of the cost.

    Args:
        message_class: of the message.
        method: of the message.
        attributes: none whose value depends on the transaction id, that is no XORed IPv6 address.
    """

    __slots__ = ("_attributes", "_before_fingerprint", "_before_integrity")

    def __init__(self, message_class: MessageClass, method: int, attributes: tuple[Attribute, ...]) -> None:
        plain = encode(Message(message_class, method, bytes(12), attributes), fingerprint=False)
        self._attributes = plain[HEADER_LENGTH:]
        kind, length = message_type(message_class, method), len(self._attributes) + 4 + SHA1_LENGTH
        self._before_integrity = _COMMON_HEADER.pack(kind, length, MAGIC_COOKIE)
        self._before_fingerprint = _COMMON_HEADER.pack(kind, length + 4 + FINGERPRINT_LENGTH, MAGIC_COOKIE)

    def seal(self, transaction_id: bytes, key: bytes) -> bytes:
        """Return the bytes of the message.

        Args:
            transaction_id: 12 bytes.
            key: from `short_term_key`.
        """
        covered = transaction_id + self._attributes
        digest = hmac.digest(key, self._before_integrity + covered, "sha1")
        data = self._before_fingerprint + covered + _INTEGRITY_HEADER + digest
        return data + _FINGERPRINT.pack(FINGERPRINT, FINGERPRINT_LENGTH, zlib.crc32(data) ^ FINGERPRINT_XOR)
