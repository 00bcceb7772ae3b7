"""The one error that bytes from the network can cause in the codec."""

from __future__ import annotations

from enum import Enum

from iceagent.errors import RemoteError


class StunErrorReason(Enum):
    """Why a datagram is no acceptable STUN message; fine as a counter's name."""

    NOT_STUN = "not_stun"
    LENGTH = "length"
    TRUNCATED_ATTRIBUTE = "truncated_attribute"
    TOO_MANY_ATTRIBUTES = "too_many_attributes"
    BAD_ATTRIBUTE = "bad_attribute"
    BAD_INTEGRITY_LENGTH = "bad_integrity_length"
    BAD_FINGERPRINT_LENGTH = "bad_fingerprint_length"
    AFTER_FINGERPRINT = "after_fingerprint"


class StunError(RemoteError):
    """The bytes are not a well-formed STUN message.

    Attributes:
        reason: for counting.
        text: for people.
    """

    def __init__(self, reason: StunErrorReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


def bad_attribute(text: str) -> StunError:
    """Return the error of an attribute whose value breaks its own rules."""
    return StunError(StunErrorReason.BAD_ATTRIBUTE, text)
