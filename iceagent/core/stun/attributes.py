"""Attributes: what all have in common, those of STUN itself and of connectivity checks. RFC 8489 section 14, RFC 8445.

Those of authentication, errors, TURN and NAT behaviour discovery are in files of their own; `registry` knows all.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final, Self

from iceagent.core.address import TransportAddress, make_address
from iceagent.core.stun.errors import bad_attribute
from iceagent.core.stun.raw import COOKIE_BYTES, MAGIC_COOKIE

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


FAMILY_IPV4: Final = 0x01
FAMILY_IPV6: Final = 0x02

_START: Final = struct.Struct("!BBH")
_IPV4: Final = struct.Struct("!BBHI")
_PORT_MASK: Final = MAGIC_COOKIE >> 16


@lru_cache(maxsize=1024)
def _packed(host: str) -> bytes:
    # The zone of a link-local address means nothing to the other side and stays here.
    return ipaddress.ip_address(host.partition("%")[0]).packed


def _xor(packed: bytes, transaction_id: bytes) -> bytes:
    mask = int.from_bytes(COOKIE_BYTES + transaction_id, "big")
    return (int.from_bytes(packed, "big") ^ mask).to_bytes(16, "big")


@dataclass(frozen=True, slots=True)
class AddressAttribute(Attribute):
    """A transport address in the clear.

    An IPv4-mapped IPv6 address is read as the IPv4 address inside it, as everywhere in iceagent.
    """

    address: TransportAddress

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        host, port = self.address
        packed = _packed(host)
        return _START.pack(0, FAMILY_IPV4 if len(packed) == 4 else FAMILY_IPV6, port) + packed

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        return cls(_decode(cls.__name__, value, 0, 0, bytes(12)))


@dataclass(frozen=True, slots=True)
class XorAddressAttribute(Attribute):
    """A transport address XORed with the magic cookie and the transaction id, so that no NAT rewrites it."""

    address: TransportAddress

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        host, port = self.address
        packed = _packed(host)
        if len(packed) == 4:
            return _IPV4.pack(0, FAMILY_IPV4, port ^ _PORT_MASK, int.from_bytes(packed, "big") ^ MAGIC_COOKIE)
        return _START.pack(0, FAMILY_IPV6, port ^ _PORT_MASK) + _xor(packed, transaction_id)

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        return cls(_decode(cls.__name__, value, _PORT_MASK, MAGIC_COOKIE, transaction_id))


def _decode(name: str, value: bytes, port_mask: int, cookie: int, transaction_id: bytes) -> TransportAddress:
    size = len(value)
    if size == 8 and value[1] == FAMILY_IPV4:
        _, _, port, number = _IPV4.unpack(value)
        number ^= cookie
        host = f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        return TransportAddress(host, port ^ port_mask)
    if size == 20 and value[1] == FAMILY_IPV6:
        port = int.from_bytes(value[2:4], "big") ^ port_mask
        packed = value[4:] if not cookie else _xor(value[4:], transaction_id)
        return make_address(str(ipaddress.IPv6Address(packed)), port)
    raise bad_attribute(f"{name} holds no IPv4 or IPv6 address in its {size} bytes")


class MappedAddress(AddressAttribute):
    """MAPPED-ADDRESS: the sender's address as the server saw it, for RFC 3489 clients."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0001


class XorMappedAddress(XorAddressAttribute):
    """XOR-MAPPED-ADDRESS: the sender's address as the server saw it."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0020


class AlternateServer(AddressAttribute):
    """ALTERNATE-SERVER: where to try instead, with error 300."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8023


class Priority(UintAttribute):
    """PRIORITY: what the priority of a peer-reflexive candidate learned from this check would be; 32 bits."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0024


class UseCandidate(FlagAttribute):
    """USE-CANDIDATE: the controlling agent nominates this pair."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0025


@dataclass(frozen=True, slots=True)
class TiebreakerAttribute(Attribute):
    """A 64-bit tiebreaker; which class it is says what role its sender believes to have."""

    tiebreaker: int

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return self.tiebreaker.to_bytes(8, "big")

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        check_length(cls.__name__, value, 8)
        return cls(int.from_bytes(value, "big"))


class IceControlled(TiebreakerAttribute):
    """ICE-CONTROLLED: the sender is the controlled agent."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8029


class IceControlling(TiebreakerAttribute):
    """ICE-CONTROLLING: the sender is the controlling agent."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x802A


class Nomination(UintAttribute):
    """NOMINATION: a counter; the pair nominated with the highest one wins. Not registered with IANA.

    The number is the one deployed agents use; IANA has since given it to another, comprehension-optional attribute.
    """

    __slots__ = ()
    TYPE: ClassVar[int] = 0xC001
