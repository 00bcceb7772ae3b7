"""Attributes that carry a transport address, plain or XORed. RFC 8489 sections 14.1, 14.2 and 14.15."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final, Self

from iceagent.core.address import TransportAddress, make_address
from iceagent.core.stun.attribute import Attribute
from iceagent.core.stun.errors import bad_attribute
from iceagent.core.stun.header import COOKIE_BYTES, MAGIC_COOKIE

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
