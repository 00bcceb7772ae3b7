"""What all attributes have in common, and the shapes most of them share. RFC 8489 section 14."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from iceagent.core.stun.errors import bad_attribute

COMPREHENSION_OPTIONAL = 0x8000
"""Types from here on may be ignored by who does not know them; those below may not."""


class Attribute:
    """An attribute's value. Subclasses are frozen, slotted and compare by value.

    Attributes:
        TYPE: the number in the IANA registry.
    """

    __slots__ = ()
    TYPE: ClassVar[int]

    def encode_value(self, transaction_id: bytes) -> bytes:
        """Return the value without header and padding.

        Raises:
            ValueError: the value cannot be written.
        """
        raise TypeError(f"{type(self).__name__} has no wire form")

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:
        """Return the attribute that `value` (unpadded, from the network) stands for.

        Raises:
            StunError: the value breaks the attribute's rules.
        """
        raise TypeError(f"{cls.__name__} has no wire form")


@dataclass(frozen=True, slots=True)
class RawAttribute(Attribute):
    """An attribute the codec does not know, kept as it came."""

    type: int
    value: bytes

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return self.value


@dataclass(frozen=True, slots=True)
class TextAttribute(Attribute):
    """UTF-8 text with limits: we write up to `MAX_CHARACTERS` and `MAX_BYTES`, and read up to `MAX_BYTES_READ`."""

    value: str

    MAX_CHARACTERS: ClassVar[int] = 127
    MAX_BYTES: ClassVar[int] = 509
    MAX_BYTES_READ: ClassVar[int] = 763

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return encode_text(type(self).__name__, self.value, self.MAX_CHARACTERS, self.MAX_BYTES)

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        return cls(decode_text(cls.__name__, value, cls.MAX_BYTES_READ))


@dataclass(frozen=True, slots=True)
class UintAttribute(Attribute):
    """One unsigned number of `WIDTH` bytes in network order, followed by `RESERVED` bytes of zero."""

    value: int

    WIDTH: ClassVar[int] = 4
    RESERVED: ClassVar[int] = 0

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return self.value.to_bytes(self.WIDTH, "big") + bytes(self.RESERVED)

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        check_length(cls.__name__, value, cls.WIDTH + cls.RESERVED)
        return cls(int.from_bytes(value[: cls.WIDTH], "big"))


@dataclass(frozen=True, slots=True)
class FlagAttribute(Attribute):
    """No value: being there is the message."""

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return b""

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        check_length(cls.__name__, value, 0)
        return cls()


@dataclass(frozen=True, slots=True)
class BytesAttribute(Attribute):
    """Opaque bytes; `LENGTH` of them where it is not None."""

    value: bytes

    LENGTH: ClassVar[int | None] = None

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        if self.LENGTH is not None and len(self.value) != self.LENGTH:
            raise ValueError(f"{type(self).__name__} takes {self.LENGTH} bytes, not {len(self.value)}")
        return self.value

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        if cls.LENGTH is not None:
            check_length(cls.__name__, value, cls.LENGTH)
        return cls(value)


def check_length(name: str, value: bytes, expected: int) -> None:
    """Raise `StunError` unless `value` is `expected` bytes long."""
    if len(value) != expected:
        raise bad_attribute(f"{name} has {len(value)} bytes instead of {expected}")


def encode_text(name: str, text: str, max_characters: int, max_bytes: int) -> bytes:
    """Return `text` as UTF-8.

    Raises:
        ValueError: it is too long, or holds a lone surrogate.
    """
    encoded = text.encode()
    if len(encoded) > max_bytes or len(text) > max_characters:
        raise ValueError(f"{name} takes at most {max_characters} characters in {max_bytes} bytes")
    return encoded


def decode_text(name: str, value: bytes, max_bytes: int) -> str:
    """Return UTF-8 from the network as text.

    Raises:
        StunError: it is too long or not UTF-8.
    """
    if len(value) > max_bytes:
        raise bad_attribute(f"{name} has {len(value)} bytes, more than {max_bytes}")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise bad_attribute(f"{name} is not UTF-8") from None
