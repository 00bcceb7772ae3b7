"""Attributes that are UTF-8 text. RFC 8489 section 14."""

from __future__ import annotations

from typing import ClassVar, Self

from iceagent.core.stun.attribute import TextAttribute
from iceagent.core.stun.errors import bad_attribute


class Username(TextAttribute):
    """USERNAME; fewer than 509 bytes. RFC 8489 section 14.3."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0006
    MAX_CHARACTERS: ClassVar[int] = 508
    MAX_BYTES: ClassVar[int] = 508
    MAX_BYTES_READ: ClassVar[int] = 508


class Realm(TextAttribute):
    """REALM; fewer than 128 characters. RFC 8489 section 14.9."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0014


class Nonce(TextAttribute):
    """NONCE; fewer than 128 characters. RFC 8489 section 14.10."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0015


class Software(TextAttribute):
    """SOFTWARE; fewer than 128 characters. RFC 8489 section 14.14."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8022


class AlternateDomain(TextAttribute):
    """ALTERNATE-DOMAIN: the DNS name the alternate server's certificate must carry. RFC 8489 section 14.16."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8003
    MAX_CHARACTERS: ClassVar[int] = 255
    MAX_BYTES: ClassVar[int] = 255
    MAX_BYTES_READ: ClassVar[int] = 255

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        if not self.value.isascii():
            raise ValueError("ALTERNATE-DOMAIN takes ASCII only; write an international name as A-labels")
        return TextAttribute.encode_value(self, transaction_id)

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        if not value.isascii() or len(value) > cls.MAX_BYTES_READ:
            raise bad_attribute("ALTERNATE-DOMAIN is not ASCII or is too long")
        return cls(value.decode())
