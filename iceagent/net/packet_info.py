"""For sockets bound to a wildcard: to which of our addresses a datagram came, and how to answer from it.

Without it the system answers from the address it prefers, but a NAT lets only answers of the address through that was
asked. Source:
ip(7) IP_PKTINFO, RFC 3542 section 6 (IPV6_PKTINFO); RFC 8085 section 3.1.5 asks for it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from functools import lru_cache

from iceagent.core.address import TransportAddress
from iceagent.net.options import IP_PKTINFO
from iceagent.net.segmentation import SOL_UDP, UDP_GRO
from iceagent.net.sockaddr import zone_index, zone_name

IPV6_PKTINFO = getattr(socket, "IPV6_PKTINFO", None)
MAX_REMEMBERED = 1024
"""Own addresses remembered; a machine may stand for a whole prefix, so that strangers choose among 2^64."""

_IPV4 = struct.Struct("=i4s4s")  # in_pktinfo: interface, local address, address in the header
_IPV6 = struct.Struct("=16sI")  # in6_pktinfo: address, interface
_SIZE = struct.Struct("=i")

Ancillary = tuple[int, int, bytes]


def read_ancillary(ancillary: Sequence[Ancillary], length: int) -> tuple[int, str | None]:
    """Return the segment size and the local address that came with a buffer of `length` bytes.

    Without the one it is a single datagram; the other is None where the system does not report it.
    """
    size, local = length or 1, None
    for level, kind, data in ancillary:
        if level == SOL_UDP and kind == UDP_GRO and len(data) >= _SIZE.size:
            size = _SIZE.unpack_from(data)[0] or size
        elif level == socket.IPPROTO_IP and kind == IP_PKTINFO and len(data) >= _IPV4.size:
            local = _ipv4_host(data)
        elif level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO and len(data) >= _IPV6.size:
            local = _ipv6_host(data)
    return size, local


@lru_cache(maxsize=MAX_REMEMBERED)
def _ipv4_host(data: bytes) -> str | None:
    """Return the address of ours; for a broadcast or a group the one that the system answers it from."""
    _, local, _ = _IPV4.unpack_from(data)
    return socket.inet_ntop(socket.AF_INET, local) if any(local) else None


@lru_cache(maxsize=MAX_REMEMBERED)
def _ipv6_host(data: bytes) -> str | None:
    """Return the address of ours, with its zone if link-local; None for a group, which nobody can answer from."""
    packed, interface = _IPV6.unpack_from(data)
    if packed[0] == 0xFF or not any(packed):
        return None
    host = socket.inet_ntop(socket.AF_INET6, packed)
    return f"{host}%{zone_name(interface)}" if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80 else host


@lru_cache(maxsize=MAX_REMEMBERED)
def source_cmsg(source: str) -> list[Ancillary]:
    """Return the ancillary data that sends a datagram from an address of ours, an IP literal.

    Raises:
        OSError: it is no IP literal, or its zone does not exist.
    """
    bare, _, zone = source.partition("%")
    if ":" in bare:
        assert IPV6_PKTINFO is not None, "only where the system tells, too"
        packed = socket.inet_pton(socket.AF_INET6, bare)
        return [(socket.IPPROTO_IPV6, IPV6_PKTINFO, _IPV6.pack(packed, zone_index(zone) if zone else 0))]
    assert IP_PKTINFO is not None, "only where the system tells, too"
    return [(socket.IPPROTO_IP, IP_PKTINFO, _IPV4.pack(0, socket.inet_pton(socket.AF_INET, bare), bytes(4)))]


def bound_to(local: TransportAddress, host: str | None) -> TransportAddress:
    """Return the address that was asked: `host` where a batch says so, else what the socket is bound to."""
    return local if host is None or host == local.host else TransportAddress(host, local.port)
