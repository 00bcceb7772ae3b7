"""Packets through a NAT: applies what `NatTable` decides to UDP, TCP and the ICMP errors about both.

NAT64 (RFC 6146) is the same with IPv6 inside: destinations within its prefix are IPv4-embedded addresses (RFC 6052),
and the IPv4 addresses outside appear to the inside within that prefix. The well-known prefix stands for no private
address: what would lead to one, or comes from one, is dropped (RFC 6052 section 3.1).
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from iceagent.core.address import TransportAddress, is_private
from iceagent.vnet.addressing import parse_ip
from iceagent.vnet.nat import Nat, NatTable
from iceagent.vnet.packet import Packet, Quote

NAT64_PREFIX = "64:ff9b::/96"  # RFC 6052 section 2.1: the well-known one
IPV4ONLY_ARPA = ("192.0.0.170", "192.0.0.171")  # RFC 7050: by whose translation a host learns the prefix


def synthesize(prefix: str, host: str) -> str:
    """Return the IPv6 address under which `prefix` (a /96) stands for an IPv4 address. RFC 6052 section 2.2."""
    network = ipaddress.IPv6Network(prefix)
    return str(network.network_address + int(ipaddress.IPv4Address(host)))


def embedded(prefix: str, host: str) -> str | None:
    """Return the IPv4 address that an IPv6 address within `prefix` stands for; None for any other."""
    ip = parse_ip(host)
    if ip.version != 6 or ip not in _parse_prefix(prefix):
        return None
    return str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))


@lru_cache(maxsize=16)
def _parse_prefix(prefix: str) -> ipaddress.IPv6Network:
    return ipaddress.IPv6Network(prefix)


class Translator:
    """A NAT with one external address: one table for UDP, one for TCP.

    Args:
        nat: its behaviour.
        external_host: its IPv4 address.
        rng: gives the stream of chance of a purpose.
        prefix: of a NAT64; None for a NAT of IPv4.
    """

    def __init__(
        self, nat: Nat, external_host: str, rng: Callable[[str], random.Random], prefix: str | None = None
    ) -> None:
        self.nat = nat
        self.external_host = external_host
        self.prefix = prefix
        self._own = external_host if prefix is None else synthesize(prefix, external_host)
        self.udp = NatTable(nat, external_host, rng("nat"))
        self.tcp = NatTable(
            replace(nat, mapping_timeout_s=nat.tcp_timeout_s, refreshed_by="both", accepts_input=False),
            external_host,
            rng("nat tcp"),
        )

    def takes(self, host: str) -> bool:
        """Return whether packets from inside to `host` are translated."""
        if self.prefix is None:
            return ":" not in host
        return embedded(self.prefix, host) is not None

    def is_own(self, host: str) -> bool:
        """Return whether `host`, as the inside says it, is this NAT's outside."""
        return host == self._own

    def reset(self) -> None:
        """Forget all mappings."""
        self.udp.reset()
        self.tcp.reset()

    def outward(self, now: float, packet: Packet) -> Packet | None:
        """Return a packet from inside as the outside sees it; None: it is dropped."""
        table, quote = self._table(packet), packet.quote
        if not self._stands_for(self._outer(packet.destination)):
            return None
        if quote is None:
            destination = self._outer(packet.destination)
            external = table.outbound(now, packet.source, destination)
            return external and packet._replace(source=external, destination=destination)
        remote = self._outer(quote.source)
        external = table.error_outbound(now, quote.destination, remote)
        if external is None:
            return None
        outer_quote = Quote(remote, external, quote.errno, quote.is_tcp, quote.mtu)
        return Packet(TransportAddress(external.host, 0), self._outer(packet.destination), b"", outer_quote)

    def inward(self, now: float, packet: Packet) -> Packet | None:
        """Return a packet from outside as the inside sees it; None: it is dropped."""
        table, quote = self._table(packet), packet.quote
        if not self._stands_for(packet.source if quote is None else quote.destination):
            return None
        if quote is None:
            internal = table.inbound(now, packet.destination.port, packet.source)
            return internal and packet._replace(source=self._inner(packet.source), destination=internal)
        internal = table.error_inbound(now, quote.source.port, quote.destination)
        if internal is None:
            return None
        inner_quote = Quote(internal, self._inner(quote.destination), quote.errno, quote.is_tcp, quote.mtu)
        return Packet(self._inner(packet.source), TransportAddress(internal.host, 0), b"", inner_quote)

    def _table(self, packet: Packet) -> NatTable:
        return self.tcp if packet.is_tcp else self.udp

    def _outer(self, address: TransportAddress) -> TransportAddress:
        if self.prefix is None:
            return address
        host = embedded(self.prefix, address.host)
        return address if host is None else TransportAddress(host, address.port)

    def _stands_for(self, outside: TransportAddress) -> bool:
        """Return whether packets to and from an address outside are translated. RFC 6052 section 3.1."""
        return self.prefix != NAT64_PREFIX or not is_private(outside.host)

    def _inner(self, address: TransportAddress) -> TransportAddress:
        if self.prefix is None:
            return address
        return TransportAddress(synthesize(self.prefix, address.host), address.port)
