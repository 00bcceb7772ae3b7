"""Routers: a tree of networks with the internet at its root, and a NAT wherever a home or a carrier has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from iceagent.core.address import TransportAddress
from iceagent.vnet.addressing import AddressPlan, IPAddress, IPNetwork, parse_ip
from iceagent.vnet.link import Link
from iceagent.vnet.nat import Nat, NatTable
from iceagent.vnet.node import Interface
from iceagent.vnet.packet import Packet, Quote

if TYPE_CHECKING:
    from iceagent.vnet.network import Network


class Router:
    """A router with the network below it. Make one with `Network.router`.

    Towards its parent it is a node like any host: its WAN interface has an address of the parent's network. IPv4 is
    translated when it has a NAT; otherwise, and in IPv6 always, its network has a prefix that the parent routes to it.
    """

    def __init__(self, net: Network, name: str, plans: Mapping[int, AddressPlan], nat: Nat | None) -> None:
        self.name = name
        self.nat = nat
        self.families = tuple(plans)
        self.wan: Interface | None = None
        self._net = net
        self._plans = plans
        self._table: NatTable | None = None
        self._routes: dict[str, Interface] = {}
        self._prefixes: list[tuple[IPNetwork, Interface]] = []
        for plan in plans.values():
            plan.next_host()  # the router's own address in its network

    def __repr__(self) -> str:
        return f"<Router {self.name} {self.public_address or ''}>"

    @property
    def link(self) -> Link:
        """The link to the parent, to be changed at run time. The root has none and raises AttributeError."""
        if self.wan is None:
            raise AttributeError(f"{self.name} is the root of the network and has no link upwards")
        return self.wan.link

    @property
    def public_address(self) -> str | None:
        """The IPv4 address of the WAN interface, as text; None without one."""
        return self.wan.address(4) if self.wan else None

    @property
    def nat_table(self) -> NatTable | None:
        """The state of the NAT, to look at in tests; None without a NAT."""
        return self._table

    def reboot(self) -> None:
        """Forget all NAT mappings, as after a power failure."""
        if self._table is not None:
            self._table.reset()

    def connect_upwards(self, wan: Interface) -> None:
        """Take `wan` as the way to the parent."""
        self.wan = wan
        external_host = wan.address(4)
        if self.nat is not None and external_host is not None:
            self._table = NatTable(self.nat, external_host, self._net.rng(f"nat {self.name}"))

    def next_host(self, family: int) -> tuple[str, int]:
        """Return a free address of this network and its prefix length."""
        return self._plans[family].next_host()

    def next_prefix(self, family: int) -> IPNetwork:
        """Return a free prefix for a router below."""
        return self._plans[family].next_prefix()

    def has_on_link(self, ip: IPAddress) -> bool:
        """Return whether an address belongs to this router's own network."""
        return any(ip in lan for plan in self._plans.values() for lan in plan.lans)

    def add_route(self, interface: Interface, prefix: IPNetwork | None = None) -> None:
        """Send packets for the interface's own addresses, or for a prefix behind it, down that interface."""
        if prefix is not None:
            self._prefixes.append((prefix, interface))
            return
        for entry in interface.addresses:
            self._routes[entry.host] = interface

    def handle_packet(self, now: float, packet: Packet, via: Interface) -> None:
        """Forward, translate or drop a packet that came from above (over the WAN interface) or from below."""
        if via is self.wan:
            self._handle_from_above(now, packet)
        else:
            self._handle_from_below(now, packet)

    def _handle_from_above(self, now: float, packet: Packet) -> None:
        if self._table is None or packet.destination.host != self._table.external_host:
            self._forward_down(now, packet)
            return
        inner = self._translate_in(now, self._table, packet)
        if inner is not None:
            self._net.record(now, self.name, "nat-in", packet, str(inner.destination))
            self._forward_down(now, inner)

    def _handle_from_below(self, now: float, packet: Packet) -> None:
        host = packet.destination.host
        if self._route(host) is not None:
            self._forward_down(now, packet)
        elif self._table is not None and host == self._table.external_host:
            self._hairpin(now, self._table, packet)
        elif self.wan is None or self.wan.address(packet.destination.family) is None:
            self._net.record(now, self.name, "drop", packet, "no route")
        elif self._table is not None and packet.source.family == 4:
            outer = self._translate_out(now, self._table, packet)
            if outer is not None:
                self._net.record(now, self.name, "nat-out", packet, str(outer.source))
                self._net.transmit(now, self.wan, packet=outer, up=True)
        else:
            self._net.transmit(now, self.wan, packet=packet, up=True)

    def _forward_down(self, now: float, packet: Packet) -> None:
        interface = self._route(packet.destination.host)
        if interface is None:
            self._net.record(now, self.name, "drop", packet, "no route")
        else:
            self._net.transmit(now, interface, packet=packet, up=False)

    def _route(self, host: str) -> Interface | None:
        interface = self._routes.get(host)
        if interface is None and self._prefixes:
            ip = parse_ip(host)
            for prefix, candidate in self._prefixes:
                if ip in prefix:
                    return candidate
        return interface

    def _translate_in(self, now: float, table: NatTable, packet: Packet) -> Packet | None:
        quote = packet.quote
        if quote is None:
            internal = table.inbound(now, packet.destination.port, packet.source)
            if internal is not None:
                return Packet(packet.source, internal, packet.data)
        else:
            internal = table.error_inbound(now, quote.source.port, quote.destination)
            if internal is not None:
                inner_quote = Quote(internal, quote.destination, quote.errno)
                return Packet(packet.source, TransportAddress(internal.host, 0), b"", inner_quote)
        self._net.record(now, self.name, "drop", packet, "nat")
        return None

    def _translate_out(self, now: float, table: NatTable, packet: Packet) -> Packet | None:
        quote = packet.quote
        if quote is None:
            external = table.outbound(now, packet.source, packet.destination)
            if external is not None:
                return Packet(external, packet.destination, packet.data)
        else:
            external = table.error_outbound(now, quote.destination, quote.source)
            if external is not None:
                outer_quote = Quote(quote.source, external, quote.errno)
                return Packet(TransportAddress(external.host, 0), packet.destination, b"", outer_quote)
        self._net.record(now, self.name, "drop", packet, "nat")
        return None

    def _hairpin(self, now: float, table: NatTable, packet: Packet) -> None:
        """Turn a packet round that the inside sent to the outside of this very NAT. RFC 4787 section 6."""
        if not table.nat.hairpin:
            self._net.record(now, self.name, "drop", packet, "no hairpin")
            return
        outer = self._translate_out(now, table, packet)
        inner = self._translate_in(now, table, outer) if outer is not None else None
        if inner is not None:
            self._net.record(now, self.name, "hairpin", packet, f"{inner.source} > {inner.destination}")
            self._forward_down(now, inner)
