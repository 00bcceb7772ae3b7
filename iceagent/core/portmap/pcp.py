"""PCP's packets as values: ANNOUNCE, MAP and options. RFC 6887 sections 7, 11, 13 and 14.

Addresses are 16 bytes on the wire, an IPv4 address as an IPv4-mapped one. PEER (section 12) is not written: it
reports a mapping that exists, which STUN does without the gateway's help.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from iceagent.core.portmap.errors import CodecReason, PortMappingCodecError

VERSION: Final = 2
MAX_LENGTH: Final = 1100  # RFC 6887 section 7
NONCE_LENGTH: Final = 12
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17
MAX_OPTIONS: Final = 64  # ours: 1100 bytes could hold 260

_RESPONSE: Final = 0x80
_REQUEST_HEADER: Final = struct.Struct("!BBHI16s")
_RESPONSE_HEADER: Final = struct.Struct("!BBBBII12x")
_MAP: Final = struct.Struct("!12sB3xHH16s")
_OPTION: Final = struct.Struct("!BBH")
_FILTER: Final = struct.Struct("!BBH16s")


class Opcode(IntEnum):
    """What is asked for. RFC 6887 section 19.2."""

    ANNOUNCE = 0
    MAP = 1
    PEER = 2


class ResultCode(IntEnum):
    """The result of a request. RFC 6887 section 7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


class OptionCode(IntEnum):
    """Options of MAP. RFC 6887 section 13; from 128 on they may be ignored by who does not know them."""

    THIRD_PARTY = 1
    PREFER_FAILURE = 2
    FILTER = 3


@dataclass(frozen=True, slots=True)
class Option:
    """An option as its code and bytes, unpadded; see `third_party`, `prefer_failure` and `remote_filter`."""

    code: int
    value: bytes = b""


def third_party(host: str) -> Option:
    """Return the option that asks on behalf of another host. RFC 6887 section 13.1."""
    return Option(OptionCode.THIRD_PARTY, pack_address(host))


def prefer_failure() -> Option:
    """Return the option that wants the suggested address and port or nothing. RFC 6887 section 13.2."""
    return Option(OptionCode.PREFER_FAILURE)


def remote_filter(host: str, prefix_length: int, port: int = 0) -> Option:
    """Return the option that lets only these remote peers in. RFC 6887 section 13.3.

    Args:
        host: address of the peers' prefix.
        prefix_length: of it, 0 to 32 or 0 to 128.
        port: of the peers; 0 for all.
    """
    bits = prefix_length if ":" in host else prefix_length + 96
    return Option(OptionCode.FILTER, _FILTER.pack(0, bits, port, pack_address(host)))


@dataclass(frozen=True, slots=True)
class MapFields:
    """The opcode-specific part of MAP, the same in requests and responses.

    Attributes:
        nonce: 12 bytes that make the mapping ours; the response must repeat them.
        protocol: 17 for UDP, 6 for TCP, 0 for all.
        internal_port: ours.
        external_port: suggested in a request (0: any), assigned in a response.
        external_host: likewise; `0.0.0.0` or `::` suggests nothing but the family.
    """

    nonce: bytes
    protocol: int
    internal_port: int
    external_port: int
    external_host: str

    def encode(self) -> bytes:
        """Return the 36 bytes.

        Raises:
            ValueError: a value does not fit its field.
        """
        if len(self.nonce) != NONCE_LENGTH:
            raise ValueError(f"a mapping nonce has 12 bytes, not {len(self.nonce)}")
        try:
            return _MAP.pack(
                self.nonce, self.protocol, self.internal_port, self.external_port, pack_address(self.external_host)
            )
        except struct.error as error:
            raise ValueError(f"{self!r} cannot be written: {error}") from None


@dataclass(frozen=True, slots=True)
class Request:
    """A request; `fields` is None for ANNOUNCE.

    Attributes:
        opcode: `Opcode.ANNOUNCE` or `Opcode.MAP`.
        lifetime_s: seconds; 0 deletes.
        client_host: the address the request is sent from.
        fields: of MAP.
        options: in order.
    """

    opcode: int
    lifetime_s: int
    client_host: str
    fields: MapFields | None = None
    options: tuple[Option, ...] = ()

    def encode(self) -> bytes:
        """Return the bytes.

        Raises:
            ValueError: a value does not fit its field, or the whole is longer than 1100 bytes.
        """
        try:
            head = _REQUEST_HEADER.pack(VERSION, self.opcode, 0, self.lifetime_s, pack_address(self.client_host))
        except struct.error as error:
            raise ValueError(f"{self!r} cannot be written: {error}") from None
        return _join(head, self.fields, self.options)


@dataclass(frozen=True, slots=True)
class Response:
    """A response; `fields` is None for ANNOUNCE, and for errors that are cut after the header.

    Attributes:
        opcode: of the request, a bare number where it is unknown.
        result: a `ResultCode`, or the bare number of an unknown one.
        lifetime_s: of the mapping; of an error, how long it will stay so.
        epoch_s: seconds since the server's state was made.
        fields: of MAP.
        options: in order.
    """

    opcode: int
    result: int
    lifetime_s: int
    epoch_s: int
    fields: MapFields | None = None
    options: tuple[Option, ...] = ()

    def encode(self) -> bytes:
        """Return the bytes.

        Raises:
            ValueError: a value does not fit its field.
        """
        try:
            head = _RESPONSE_HEADER.pack(
                VERSION, _RESPONSE | self.opcode, 0, self.result, self.lifetime_s, self.epoch_s
            )
        except struct.error as error:
            raise ValueError(f"{self!r} cannot be written: {error}") from None
        return _join(head, self.fields, self.options)


def pack_address(host: str) -> bytes:
    """Return the 16 bytes of an IP literal; a zone is left out.

    Raises:
        ValueError: it is none.
    """
    ip = ipaddress.ip_address(host.partition("%")[0])
    return ip.packed if isinstance(ip, ipaddress.IPv6Address) else b"\x00" * 10 + b"\xff\xff" + ip.packed


def unpack_address(packed: bytes) -> str:
    """Return the text of 16 bytes; an IPv4-mapped address becomes the IPv4 address."""
    ip = ipaddress.IPv6Address(packed)
    return str(ip.ipv4_mapped or ip)


def decode_response_untrusted(data: bytes) -> Response:
    """Return the response in a datagram.

    Raises:
        PortMappingCodecError: whatever else the bytes are; nothing else is ever raised.
    """
    _check_frame(data)
    _, kind, _, result, lifetime_s, epoch_s = _RESPONSE_HEADER.unpack_from(data)
    if not kind & _RESPONSE:
        raise PortMappingCodecError(CodecReason.OPCODE, "a request where a response should be")
    opcode = kind & ~_RESPONSE
    fields, at = _read_fields(data, opcode, needed=result == ResultCode.SUCCESS)
    # What follows in an error is a copy of the request's bytes, whole or not: nothing to be read.
    options = _read_options(data, at) if result == ResultCode.SUCCESS and opcode != Opcode.PEER else ()
    return Response(opcode, result, lifetime_s, epoch_s, fields, options)


def decode_request_untrusted(data: bytes) -> Request:
    """Return the request in a datagram, as a server reads it.

    Raises:
        PortMappingCodecError: whatever else the bytes are; nothing else is ever raised.
    """
    _check_frame(data)
    _, opcode, _, lifetime_s, client = _REQUEST_HEADER.unpack_from(data)
    if opcode not in (Opcode.ANNOUNCE, Opcode.MAP):
        raise PortMappingCodecError(CodecReason.OPCODE, f"opcode {opcode} is none that is understood")
    fields, at = _read_fields(data, opcode, needed=True)
    return Request(opcode, lifetime_s, unpack_address(client), fields, _read_options(data, at))


def _join(head: bytes, fields: MapFields | None, options: tuple[Option, ...]) -> bytes:
    parts = [head, b"" if fields is None else fields.encode()]
    for option in options:
        parts += (_OPTION.pack(option.code, 0, len(option.value)), option.value, bytes(-len(option.value) & 3))
    data = b"".join(parts)
    if len(data) > MAX_LENGTH:
        raise ValueError(f"{len(data)} bytes are more than the {MAX_LENGTH} of a PCP packet")
    return data


def _check_frame(data: bytes) -> None:
    if len(data) < _REQUEST_HEADER.size or len(data) > MAX_LENGTH or len(data) % 4:
        raise PortMappingCodecError(CodecReason.LENGTH, f"{len(data)} bytes are no PCP packet")
    if data[0] != VERSION:
        raise PortMappingCodecError(CodecReason.VERSION, f"version {data[0]} is not PCP's 2")


def _read_fields(data: bytes, opcode: int, *, needed: bool) -> tuple[MapFields | None, int]:
    """Return the opcode's own part, and where what follows begins."""
    at = _REQUEST_HEADER.size
    if opcode != Opcode.MAP:
        return None, at
    if len(data) < at + _MAP.size:
        if needed:
            raise PortMappingCodecError(CodecReason.LENGTH, f"{len(data)} bytes are too few for MAP")
        return None, at
    nonce, protocol, internal_port, external_port, packed = _MAP.unpack_from(data, at)
    return MapFields(nonce, protocol, internal_port, external_port, unpack_address(packed)), at + _MAP.size


def _read_options(data: bytes, at: int) -> tuple[Option, ...]:
    options: list[Option] = []
    while at < len(data):
        code, _, length = _OPTION.unpack_from(data, at)
        at += _OPTION.size
        if at + length > len(data):
            raise PortMappingCodecError(CodecReason.OPTION, f"option {code} reaches past the packet's end")
        if len(options) == MAX_OPTIONS:
            raise PortMappingCodecError(CodecReason.OPTION, f"more than {MAX_OPTIONS} options")
        options.append(Option(code, data[at : at + length]))
        at += length + (-length & 3)
    return tuple(options)
