"""A STUN message as a value. RFC 8489 section 5."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from iceagent.core.stun.attribute import COMPREHENSION_OPTIONAL, Attribute, RawAttribute
from iceagent.core.stun.error_attributes import REASONS, ErrorCode
from iceagent.core.stun.header import MessageClass, Method
from iceagent.core.stun.integrity import (
    MESSAGE_INTEGRITY,
    MESSAGE_INTEGRITY_SHA256,
    SHA1_LENGTH,
    SHA256_LENGTH,
    Integrity,
    verify_fingerprint_at,
    verify_integrity_at,
)

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
    notes where they are. Nor does it hold attributes that follow MESSAGE-INTEGRITY: nobody vouches for them.
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
        """Return whether `key` vouches for the message: all of `attributes`, class, method and transaction id.

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
