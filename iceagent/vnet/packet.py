"""What travels in the virtual network: UDP datagrams, TCP segments, and ICMP errors that quote one."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from iceagent.core.address import TransportAddress

_IP_HEADER = {4: 20, 6: 40}
_UDP_HEADER = 8
_TCP_HEADER = 20
DEFAULT_TTL = 64  # RFC 1700; what Linux and macOS send


class Quote(NamedTuple):
    """The packet that an ICMP error is about, as the node that raised the error saw it."""

    source: TransportAddress
    destination: TransportAddress
    errno: int
    """What the sender's system will report, as `errno.ECONNREFUSED` for a closed port."""
    is_tcp: bool = False
    mtu: int = 0
    """Where the packet was too big (EMSGSIZE): bytes of the largest that would have passed."""


class Segment(NamedTuple):
    """What a TCP segment says besides its content. Sequence numbers do not wrap."""

    flags: str
    """Of `S` (synchronise), `A` (acknowledge), `F` (no more from here), `R` (reset), in that order."""
    sequence: int
    acknowledged: int
    window: int


class Packet(NamedTuple):
    """A UDP datagram; a TCP segment when `segment` is set; an ICMP error on its way back when `quote` is (ports 0)."""

    source: TransportAddress
    destination: TransportAddress
    data: bytes
    quote: Quote | None = None
    segment: Segment | None = None
    ttl: int = DEFAULT_TTL
    """Routers that it may yet pass; the one that finds 1 drops it."""

    @property
    def is_tcp(self) -> bool:
        """Whether it belongs to TCP: a segment, or an error about one."""
        return self.segment is not None or (self.quote is not None and self.quote.is_tcp)

    @property
    def wire_size(self) -> int:
        """Bytes of the IP packet."""
        header = _IP_HEADER[self.destination.family]
        return header + (_UDP_HEADER if self.segment is None else _TCP_HEADER) + len(self.data)


def is_multicast(host: str) -> bool:
    """Return whether an address is a group's: 224.0.0.0/4 or ff00::/8."""
    return (host[:2] == "ff" or host[:2] in ("22", "23")) and ipaddress.ip_address(host).is_multicast
