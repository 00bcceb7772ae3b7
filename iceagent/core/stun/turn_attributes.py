"""Attributes of TURN. RFC 8656 section 18, RFC 6062 section 6.2 and RFC 8016 section 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from iceagent.core.stun.attributes import (
    Attribute,
    BytesAttribute,
    FlagAttribute,
    UintAttribute,
    XorAddressAttribute,
    check_length,
    decode_text,
    encode_text,
)
from iceagent.core.stun.error_attributes import (
    MAX_REASON_BYTES,
    MAX_REASON_BYTES_READ,
    MAX_REASON_CHARACTERS,
    decode_code,
    encode_code,
)
from iceagent.core.stun.errors import bad_attribute

TRANSPORT_TCP: Final = 6  # IANA protocol numbers
TRANSPORT_UDP: Final = 17


class ChannelNumber(UintAttribute):
    """CHANNEL-NUMBER: 0x4000 to 0x4FFF; other numbers decode, since a server answers them with 400."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x000C
    WIDTH: ClassVar[int] = 2
    RESERVED: ClassVar[int] = 2


class Lifetime(UintAttribute):
    """LIFETIME of an allocation, seconds."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x000D


class XorPeerAddress(XorAddressAttribute):
    """XOR-PEER-ADDRESS: the peer as the server sees it."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0012


class Data(BytesAttribute):
    """DATA: the payload of a Send or Data indication."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0013


class XorRelayedAddress(XorAddressAttribute):
    """XOR-RELAYED-ADDRESS: the address the server has allocated."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0016


class RequestedAddressFamily(UintAttribute):
    """REQUESTED-ADDRESS-FAMILY: 1 is IPv4, 2 is IPv6; others decode, since a server answers them with 440."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0017
    WIDTH: ClassVar[int] = 1
    RESERVED: ClassVar[int] = 3


class AdditionalAddressFamily(UintAttribute):
    """ADDITIONAL-ADDRESS-FAMILY: 2 asks for an IPv6 address beside the IPv4 one."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8000
    WIDTH: ClassVar[int] = 1
    RESERVED: ClassVar[int] = 3


class RequestedTransport(UintAttribute):
    """REQUESTED-TRANSPORT: the IP protocol between server and peer; 17 is UDP, 6 is TCP (RFC 6062)."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0019
    WIDTH: ClassVar[int] = 1
    RESERVED: ClassVar[int] = 3


class DontFragment(FlagAttribute):
    """DONT-FRAGMENT: set DF towards the peer."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x001A


class ReservationToken(BytesAttribute):
    """RESERVATION-TOKEN: 8 bytes that name a reserved port."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0022
    LENGTH: ClassVar[int | None] = 8

    def __repr__(self) -> str:
        """Keep the token: who has it gets the port."""
        return "ReservationToken(...)"


class ConnectionId(UintAttribute):
    """CONNECTION-ID: names a peer's TCP connection. RFC 6062 section 6.2.1."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x002A


class MobilityTicket(BytesAttribute):
    """MOBILITY-TICKET: lets an allocation follow its client to another address. RFC 8016 section 5."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8030


@dataclass(frozen=True, slots=True)
class EvenPort(Attribute):
    """EVEN-PORT: the relayed port must be even; `reserve` the next one, too."""

    reserve: bool = False

    TYPE: ClassVar[int] = 0x0018

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return b"\x80" if self.reserve else b"\x00"

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        check_length("EVEN-PORT", value, 1)
        return cls(value[0] & 0x80 != 0)


@dataclass(frozen=True, slots=True)
class AddressErrorCode(Attribute):
    """ADDRESS-ERROR-CODE: why one family (1 is IPv4, 2 is IPv6) of a dual allocation was not given."""

    family: int
    code: int
    reason: str = ""

    TYPE: ClassVar[int] = 0x8001

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        reason = encode_text("ADDRESS-ERROR-CODE", self.reason, MAX_REASON_CHARACTERS, MAX_REASON_BYTES)
        return bytes((self.family, 0)) + encode_code(self.code) + reason

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        if len(value) < 4:
            raise bad_attribute(f"ADDRESS-ERROR-CODE has only {len(value)} bytes")
        reason = decode_text("ADDRESS-ERROR-CODE", value[4:], MAX_REASON_BYTES_READ)
        return cls(value[0], decode_code(value[2], value[3]), reason)


@dataclass(frozen=True, slots=True)
class Icmp(Attribute):
    """ICMP: the error a relayed datagram met; 7 bits of type, 9 of code, 32 of data. RFC 8656 section 18.13."""

    type: int
    code: int
    data: bytes = b"\x00\x00\x00\x00"

    TYPE: ClassVar[int] = 0x8004

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        if not (0 <= self.type < 0x80 and 0 <= self.code < 0x200 and len(self.data) == 4):
            raise ValueError("ICMP takes a type of 7 bits, a code of 9 and 4 bytes of data")
        return b"\x00\x00" + (self.type << 9 | self.code).to_bytes(2, "big") + self.data

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        check_length("ICMP", value, 8)
        number = int.from_bytes(value[2:4], "big")
        return cls(number >> 9, number & 0x1FF, value[4:])
