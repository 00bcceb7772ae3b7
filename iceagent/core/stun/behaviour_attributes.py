"""Attributes of NAT behaviour discovery. RFC 5780 section 7."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

from iceagent.core.stun.attributes import AddressAttribute, Attribute, BytesAttribute, UintAttribute, check_length
from iceagent.core.stun.errors import bad_attribute

_CHANGE_IP: Final = 0x04
_CHANGE_PORT: Final = 0x02


@dataclass(frozen=True, slots=True)
class ChangeRequest(Attribute):
    """CHANGE-REQUEST: answer from the other address, the other port, or both."""

    change_ip: bool = False
    change_port: bool = False

    TYPE: ClassVar[int] = 0x0003

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return bytes((0, 0, 0, _CHANGE_IP * self.change_ip | _CHANGE_PORT * self.change_port))

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        check_length("CHANGE-REQUEST", value, 4)
        return cls(value[3] & _CHANGE_IP != 0, value[3] & _CHANGE_PORT != 0)


class ResponseOrigin(AddressAttribute):
    """RESPONSE-ORIGIN: where the response was sent from."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x802B


class OtherAddress(AddressAttribute):
    """OTHER-ADDRESS: the server's address that differs in IP and port."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x802C


class Padding(BytesAttribute):
    """PADDING: makes a message large, to find out about fragments."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x0026


@dataclass(frozen=True, slots=True)
class ResponsePort(Attribute):
    """RESPONSE-PORT: answer to this port, 0 to 65535.

    RFC 5780 section 7.5 draws two bytes of padding after the port and leaves open whether they count: both are read.
    """

    port: int

    TYPE: ClassVar[int] = 0x0027

    def encode_value(self, transaction_id: bytes) -> bytes:  # noqa: D102
        return self.port.to_bytes(2, "big") + b"\x00\x00"

    @classmethod
    def decode_value(cls, value: bytes, transaction_id: bytes) -> Self:  # noqa: D102
        if len(value) not in (2, 4):
            raise bad_attribute(f"RESPONSE-PORT has {len(value)} bytes instead of 2 or 4")
        return cls(int.from_bytes(value[:2], "big"))


class CacheTimeout(UintAttribute):
    """CACHE-TIMEOUT: seconds the server remembers an old request's source. RFC 5780 section 7.7."""

    __slots__ = ()
    TYPE: ClassVar[int] = 0x8027
