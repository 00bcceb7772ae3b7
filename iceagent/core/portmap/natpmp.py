"""NAT-PMP's packets as values. RFC 6886 section 3.

All numbers are in network order. A request has 2 or 12 bytes, a response 8 (some errors), 12 or 16.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

from iceagent.core.portmap.errors import CodecReason, PortMappingCodecError

VERSION: Final = 0
_RESPONSE: Final = 128  # RFC 6886 section 3.1: added to the opcode
_REQUEST_HEADER: Final = struct.Struct("!BB")
_RESPONSE_HEADER: Final = struct.Struct("!BBHI")
_MAP_REQUEST: Final = struct.Struct("!BBHHHI")
_MAP_RESPONSE: Final = struct.Struct("!BBHIHHI")


class Opcode(IntEnum):
    """What is asked for. RFC 6886 sections 3.2 and 3.3."""

    EXTERNAL_ADDRESS = 0
    MAP_UDP = 1
    MAP_TCP = 2


class ResultCode(IntEnum):
    """The result of a request. RFC 6886 section 3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """Asks for the gateway's external address."""

    def encode(self) -> bytes:
        """Return the 2 bytes."""
        return _REQUEST_HEADER.pack(VERSION, Opcode.EXTERNAL_ADDRESS)


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Asks for a mapping, renews it, or with a lifetime of 0 deletes it.

    Attributes:
        opcode: `Opcode.MAP_UDP` or `Opcode.MAP_TCP`.
        internal_port: ours; 0 with a lifetime of 0 means all ports.
        suggested_port: the external port we should like; 0 leaves it to the gateway.
        lifetime_s: seconds; 0 deletes.
    """

    opcode: Opcode
    internal_port: int
    suggested_port: int
    lifetime_s: int

    def encode(self) -> bytes:
        """Return the 12 bytes.

        Raises:
            ValueError: a number does not fit its field.
        """
        try:
            return _MAP_REQUEST.pack(VERSION, self.opcode, 0, self.internal_port, self.suggested_port, self.lifetime_s)
        except struct.error as error:
            raise ValueError(f"{self!r} cannot be written: {error}") from None


Request = AddressRequest | MapRequest


@dataclass(frozen=True, slots=True)
class Response:
    """What all responses have; by itself it is an error that says no more.

    Attributes:
        opcode: of the request; any number up to 127 where the gateway does not know it.
        result: a `ResultCode`, or the bare number of an unknown one.
        epoch_s: seconds since the gateway's mapping table was made.
    """

    opcode: int
    result: int
    epoch_s: int

    LENGTH: ClassVar[int] = _RESPONSE_HEADER.size

    def encode(self) -> bytes:
        """Return the bytes."""
        return _RESPONSE_HEADER.pack(VERSION, _RESPONSE + self.opcode, self.result, self.epoch_s)


@dataclass(frozen=True, slots=True)
class AddressResponse(Response):
    """The external IPv4 address, as text; `0.0.0.0` while the gateway has none."""

    external_host: str

    LENGTH: ClassVar[int] = 12

    def encode(self) -> bytes:
        """Return the 12 bytes."""
        head = _RESPONSE_HEADER.pack(VERSION, _RESPONSE + self.opcode, self.result, self.epoch_s)
        return head + ipaddress.IPv4Address(self.external_host).packed


@dataclass(frozen=True, slots=True)
class MapResponse(Response):
    """A mapping: `external_port` leads to our `internal_port` for `lifetime_s` seconds."""

    internal_port: int
    external_port: int
    lifetime_s: int

    LENGTH: ClassVar[int] = _MAP_RESPONSE.size

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        fields = (self.internal_port, self.external_port, self.lifetime_s)
        return _MAP_RESPONSE.pack(VERSION, _RESPONSE + self.opcode, self.result, self.epoch_s, *fields)


def decode_response_untrusted(data: bytes) -> Response:
    """Return the response in a datagram.

    Bytes behind it are ignored, as RFC 6886 says nothing of them; an error may be cut after its header.

    Raises:
        PortMappingCodecError: whatever else the bytes are; nothing else is ever raised.
    """
    if len(data) < _RESPONSE_HEADER.size:
        raise PortMappingCodecError(CodecReason.LENGTH, f"{len(data)} bytes are no NAT-PMP response")
    version, opcode, result, epoch_s = _RESPONSE_HEADER.unpack_from(data)
    if version != VERSION:
        raise PortMappingCodecError(CodecReason.VERSION, f"version {version} is not NAT-PMP's 0")
    if opcode < _RESPONSE:
        raise PortMappingCodecError(CodecReason.OPCODE, f"opcode {opcode} is none of a response")
    opcode -= _RESPONSE
    if opcode == Opcode.EXTERNAL_ADDRESS and len(data) >= AddressResponse.LENGTH:
        return AddressResponse(opcode, result, epoch_s, str(ipaddress.IPv4Address(data[8:12])))
    if opcode in (Opcode.MAP_UDP, Opcode.MAP_TCP) and len(data) >= MapResponse.LENGTH:
        return MapResponse(opcode, result, epoch_s, *_MAP_RESPONSE.unpack_from(data)[4:])
    if result == ResultCode.SUCCESS:
        raise PortMappingCodecError(CodecReason.LENGTH, f"{len(data)} bytes are too few for opcode {opcode}")
    return Response(opcode, result, epoch_s)


def decode_request_untrusted(data: bytes) -> Request:
    """Return the request in a datagram, as a gateway reads it.

    Raises:
        PortMappingCodecError: whatever else the bytes are; nothing else is ever raised.
    """
    if len(data) < _REQUEST_HEADER.size:
        raise PortMappingCodecError(CodecReason.LENGTH, f"{len(data)} bytes are no NAT-PMP request")
    version, opcode = _REQUEST_HEADER.unpack_from(data)
    if version != VERSION:
        raise PortMappingCodecError(CodecReason.VERSION, f"version {version} is not NAT-PMP's 0")
    if opcode == Opcode.EXTERNAL_ADDRESS:
        return AddressRequest()
    if opcode not in (Opcode.MAP_UDP, Opcode.MAP_TCP):
        raise PortMappingCodecError(CodecReason.OPCODE, f"opcode {opcode} is none of a request")
    if len(data) < _MAP_REQUEST.size:
        raise PortMappingCodecError(CodecReason.LENGTH, f"{len(data)} bytes are too few for a mapping request")
    _, _, _, internal_port, suggested_port, lifetime_s = _MAP_REQUEST.unpack_from(data)
    return MapRequest(Opcode(opcode), internal_port, suggested_port, lifetime_s)
