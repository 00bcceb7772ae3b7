"""What travels in the virtual network: UDP datagrams, and ICMP errors that quote one."""

from __future__ import annotations

from typing import NamedTuple

from iceagent.core.address import TransportAddress


class Quote(NamedTuple):
    """The datagram that an ICMP error is about, as the node that raised the error saw it."""

    source: TransportAddress
    destination: TransportAddress
    errno: int
    """What the sender's system will report, as `errno.ECONNREFUSED` for a closed port."""


class Packet(NamedTuple):
    """A UDP datagram, or an ICMP error on its way back when `quote` is set (its ports are 0 then)."""

    source: TransportAddress
    destination: TransportAddress
    data: bytes
    quote: Quote | None = None
