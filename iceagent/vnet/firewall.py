"""Firewalls: what a router lets through besides what its NAT does, for both families."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError
from iceagent.vnet.packet import Packet

UDP_TIMEOUT_S = 30.0  # the common default of Linux' conntrack
TCP_TIMEOUT_S = 7440.0  # RFC 5382 REQ-5
MAX_FLOWS = 65536

Ports = frozenset[int] | None
"""Destination ports that may be sent to from inside; None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """What a firewall lets through. It sees the inner addresses where its router has a NAT as well.

    Args:
        inbound: what may come in: answers to what went out, anything, or nothing at all.
        udp_ports: destination ports open to UDP from inside; None for all, an empty set blocks UDP.
        tcp_ports: the same for TCP.
        drops_stun: whether packets that are STUN by their content are dropped, both ways.
        timeout_s: seconds for which a UDP flow that went out is remembered.
    Raises:
        LocalError: a value is not one of those offered.
    """

    inbound: Literal["established", "any", "none"] = "established"
    udp_ports: Ports = None
    tcp_ports: Ports = None
    drops_stun: bool = False
    timeout_s: float = UDP_TIMEOUT_S

    def __post_init__(self) -> None:
        if self.inbound not in ("established", "any", "none"):
            raise LocalError(f"Firewall(inbound={self.inbound!r}): choose one of established, any, none")
        if self.timeout_s <= 0:
            raise LocalError("Firewall: timeout_s must be positive")

    def permits_out(self, port: int, *, is_tcp: bool) -> bool:
        """Return whether the inside may send to this destination port."""
        ports = self.tcp_ports if is_tcp else self.udp_ports
        return ports is None or port in ports


STATEFUL = Firewall()
UDP_BLOCKED = Firewall(udp_ports=frozenset())
WEB_ONLY = Firewall(udp_ports=frozenset(), tcp_ports=frozenset({80, 443}))
STUN_BLOCKED = Firewall(drops_stun=True)


def web_only(*tcp_ports: int) -> Firewall:
    """Return a firewall that blocks UDP and all of TCP but these ports."""
    return Firewall(udp_ports=frozenset(), tcp_ports=frozenset(tcp_ports))


class _Flow(NamedTuple):
    inside: TransportAddress
    outside: TransportAddress
    is_tcp: bool


class FirewallTable:
    """The flows that one firewall remembers. Time is an argument and must not go backwards."""

    def __init__(self, firewall: Firewall) -> None:
        self.firewall = firewall
        self.drops: Counter[str] = Counter()
        self._flows: dict[_Flow, float] = {}

    def permits_out(self, now: float, packet: Packet) -> bool:
        """Judge a packet on its way out, and remember its flow."""
        if packet.quote is not None:
            return True
        if self._is_unwanted_stun(packet):
            return False
        is_tcp = packet.segment is not None
        flow = _Flow(packet.source, packet.destination, is_tcp)
        if not self.firewall.permits_out(packet.destination.port, is_tcp=is_tcp) and not self._knows(now, flow):
            self.drops["port"] += 1
            return False
        self._remember(now, flow)
        return True

    def permits_in(self, now: float, packet: Packet) -> bool:
        """Judge a packet on its way in; an ICMP error belongs to the flow that it quotes."""
        if packet.quote is not None:
            quote = packet.quote
            return self._knows(now, _Flow(quote.source, quote.destination, quote.is_tcp))
        if self._is_unwanted_stun(packet):
            return False
        flow = _Flow(packet.destination, packet.source, packet.segment is not None)
        if self.firewall.inbound == "any" or (self.firewall.inbound == "established" and self._knows(now, flow)):
            self._remember(now, flow)
            return True
        self.drops["not established"] += 1
        return False

    def reset(self) -> None:
        """Forget all flows."""
        self._flows.clear()

    def _is_unwanted_stun(self, packet: Packet) -> bool:
        if self.firewall.drops_stun and packet.segment is None and stun.looks_like_stun(packet.data):
            self.drops["stun"] += 1
            return True
        return False

    def _knows(self, now: float, flow: _Flow) -> bool:
        return self._flows.get(flow, now) > now

    def _remember(self, now: float, flow: _Flow) -> None:
        """Refresh a flow; in both directions, as Linux' conntrack does."""
        self._flows.pop(flow, None)
        self._flows[flow] = now + (TCP_TIMEOUT_S if flow.is_tcp else self.firewall.timeout_s)
        if len(self._flows) > MAX_FLOWS:
            for old in _oldest(self._flows):
                del self._flows[old]


def _oldest(flows: Iterable[_Flow]) -> list[_Flow]:
    iterator = iter(flows)
    return [next(iterator) for _ in range(MAX_FLOWS // 16)]
