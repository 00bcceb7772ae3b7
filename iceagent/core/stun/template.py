"""Messages that are sent again and again, prepared once: checks of one pair differ but in the transaction id."""

from __future__ import annotations

import hmac
import struct
import zlib
from typing import Final

from iceagent.core.stun.attribute import Attribute
from iceagent.core.stun.codec import encode
from iceagent.core.stun.header import HEADER_LENGTH, MAGIC_COOKIE, MessageClass, message_type
from iceagent.core.stun.integrity import (
    FINGERPRINT,
    FINGERPRINT_LENGTH,
    FINGERPRINT_XOR,
    MESSAGE_INTEGRITY,
    SHA1_LENGTH,
)
from iceagent.core.stun.message import Message

_HEADER: Final = struct.Struct("!HHI")
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
        self._before_integrity = _HEADER.pack(kind, length, MAGIC_COOKIE)
        self._before_fingerprint = _HEADER.pack(kind, length + 4 + FINGERPRINT_LENGTH, MAGIC_COOKIE)

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
