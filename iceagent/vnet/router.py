"""Routers: a tree of networks with the internet at its root, and a NAT wherever a home or a carrier has one."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import TYPE_CHECKING

from iceagent.core.address import TransportAddress
from iceagent.vnet.addressing import AddressPlan, IPAddress, IPNetwork, parse_ip
from iceagent.vnet.firewall import Firewall, FirewallTable
from iceagent.vnet.link import Link
from iceagent.vnet.nat import Nat, NatTable
from iceagent.vnet.node import Interface
from iceagent.vnet.packet import Packet, Quote, is_multicast
from iceagent.vnet.translation import NAT64_PREFIX, Translator

if TYPE_CHECKING:
    from iceagent.vnet.network import Network


class Router:
    """A router with the network below it. Make one with `Network.router`.

    Towards its parent it is a node like any host: its WAN interface has an address of the parent's network. IPv4 is
    translated when it has a NAT; otherwise, and in IPv6 always, its network has a prefix that the parent routes to it.
    With a NAT64 its network has IPv6 alone, and reaches IPv4 under a prefix. A firewall is passed besides.
    """

    def __init__(
        self,
        net: Network,
        name: str,
        plans: Mapping[int, AddressPlan],
        nat: Nat | None,
        *,
        nat64: Nat | None = None,
        firewall: Firewall | None = None,
    ) -> None:
        self.name = name
        self.nat = nat
        self.nat64 = nat64
        self.families = tuple(plans)
        self.wan: Interface | None = None
        self._net = net
        self._plans = plans
        self._translator: Translator | None = None
        self._firewall = FirewallTable(firewall) if firewall is not None else None
        self._attached: list[Interface] = []
        self._routes: dict[str, Interface] = {}
        self._prefixes: list[tuple[IPNetwork, Interface]] = []
        self._own_hosts = {family: plan.next_host()[0] for family, plan in plans.items()}

    def __repr__(self) -> str:
        return f"<Router {self.name} {self.public_address or ''}>"

    @property
    def link(self) -> Link:
        """The link to the parent, to be changed at run time. The root has none and raises AttributeError."""
        if self.wan is None:
            raise AttributeError(f"{self.name} is the root of the network and has no link upwards")
        return self.wan.link

    @property
    def parent(self) -> Router | None:
        """The router above; None for the root."""
        return self.wan.router if self.wan else None

    @property
    def attached(self) -> list[Interface]:
        """The interfaces in this router's network: of hosts, and the WAN ones of routers below."""
        return list(self._attached)

    @property
    def public_address(self) -> str | None:
        """The IPv4 address of the WAN interface, as text; None without one."""
        return self.wan.address(4) if self.wan else None

    @property
    def nat_table(self) -> NatTable | None:
        """The state of the NAT, as far as UDP goes, to look at in tests; None without a NAT."""
        return self._translator.udp if self._translator else None

    @property
    def firewall(self) -> Firewall | None:
        """The firewall; assigning another one, or None, takes effect at once and forgets all flows."""
        return self._firewall.firewall if self._firewall else None

    @firewall.setter
    def firewall(self, firewall: Firewall | None) -> None:
        self._firewall = FirewallTable(firewall) if firewall is not None else None

    @property
    def nat64_prefix(self) -> str | None:
        """The prefix under which hosts here reach IPv4, this router's or the nearest one's above; None without."""
        if self.nat64 is not None:
            return NAT64_PREFIX
        return self.parent.nat64_prefix if self.parent else None

    def reboot(self) -> None:
        """Forget all NAT mappings and all flows of the firewall, as after a power failure."""
        if self._translator is not None:
            self._translator.reset()
        if self._firewall is not None:
            self._firewall.reset()

    def renew(self) -> None:
        """Get another address from the parent, as home lines do at night; the mappings are gone with the old one.

        A prefix that the parent routes here stays.
        """
        if self.wan is not None:
            self._net.readdress(self.wan)
            self.connect_upwards(self.wan)
        if self._firewall is not None:
            self._firewall.reset()

    def connect_upwards(self, wan: Interface) -> None:
        """Take `wan` as the way to the parent."""
        self.wan = wan
        external_host = wan.address(4)
        nat = self.nat if self.nat is not None else self.nat64
        if nat is not None and external_host is not None:
            prefix = NAT64_PREFIX if self.nat64 is not None else None
            net, name = self._net, self.name
            self._translator = Translator(nat, external_host, lambda kind: net.rng(f"{kind} {name}"), prefix)

    def next_host(self, family: int) -> tuple[str, int]:
        """Return a free address of this network and its prefix length."""
        return self._plans[family].next_host()

    def next_prefix(self, family: int) -> IPNetwork:
        """Return a free prefix for a router below."""
        return self._plans[family].next_prefix()

    def has_on_link(self, ip: IPAddress) -> bool:
        """Return whether an address belongs to this router's own network."""
        return any(ip in lan for plan in self._plans.values() for lan in plan.lans)

    def route_to(self, host: str) -> Interface | None:
        """Return the interface that packets for `host` go down to; None: it is not below."""
        interface = self._routes.get(host)
        if interface is None and self._prefixes:
            ip = parse_ip(host)
            for prefix, candidate in self._prefixes:
                if ip in prefix:
                    return candidate
        return interface

    def add_route(self, interface: Interface, prefix: IPNetwork | None = None) -> None:
        """Send packets for the interface's own addresses, or for a prefix behind it, down that interface."""
        if prefix is not None:
            self._prefixes.append((prefix, interface))
            return
        if interface not in self._attached:
            self._attached.append(interface)
        for entry in interface.addresses:
            self._routes[entry.host] = interface

    def remove_routes(self, interface: Interface, *, forget: bool = True) -> None:
        """Undo `add_route` for the interface's own addresses."""
        for entry in interface.addresses:
            self._routes.pop(entry.host, None)
        if forget and interface in self._attached:
            self._attached.remove(interface)

    def handle_packet(self, now: float, packet: Packet, via: Interface) -> None:
        """Forward, translate or drop a packet that came from above (over the WAN interface) or from below."""
        if not self._is_local(packet):
            if packet.ttl <= 1 and not self._is_to_own_nat(packet):
                self._end_of_life(now, packet, via)
                return
            packet = packet._replace(ttl=packet.ttl - 1)
        if via is self.wan:
            self._handle_from_above(now, packet)
        else:
            self._handle_from_below(now, packet, via)

    def _is_local(self, packet: Packet) -> bool:
        """Return whether a packet stays in the router's own network, where it is a mere switch (but for the root's)."""
        if is_multicast(packet.destination.host):
            return True
        is_root = self.wan is None
        return not is_root and packet.destination.host in self._routes and packet.source.host in self._routes

    def _is_to_own_nat(self, packet: Packet) -> bool:
        """Return whether a packet from above has this NAT's outside for its destination: it may be passed on or not."""
        return self._translator is not None and packet.destination.host == self._translator.external_host

    def _end_of_life(self, now: float, packet: Packet, via: Interface | None) -> None:
        """Drop a packet that has passed as many routers as it may; its sender gets an ICMP error. RFC 792, RFC 4443.

        As in Linux that comes before a NAT would translate it, so that it leaves no mapping behind.
        """
        self._net.record(now, self.name, "drop", packet, "ttl exceeded")
        if packet.quote is not None:  # RFC 1122 section 3.2.2: no error about an error
            return
        family = packet.source.family
        outside = self.wan.address(family) if self.wan is not None else None
        own = (outside if via is self.wan else self._own_hosts.get(family)) or "192.0.0.8"  # RFC 7600
        quote = Quote(packet.source, packet.destination, errno.EHOSTUNREACH, packet.segment is not None)
        error = Packet(TransportAddress(own, 0), TransportAddress(packet.source.host, 0), b"", quote)
        self._net.record(now, self.name, "send", error)
        if via is self.wan:
            self._forward_up(now, error)
        else:
            self._forward_down(now, error)

    def handle_too_big(self, now: float, packet: Packet, via: Interface, mtu: int) -> None:
        """Answer a packet that does not fit into the next link with ICMP. RFC 1191, RFC 8201."""
        own = self._own_hosts.get(packet.source.family) or (via.address(packet.source.family) or "192.0.0.8")
        quote = Quote(packet.source, packet.destination, errno.EMSGSIZE, packet.segment is not None, mtu)
        error = Packet(TransportAddress(own, 0), TransportAddress(packet.source.host, 0), b"", quote)
        self._net.record(now, self.name, "send", error)
        if via is self.wan:
            self._handle_from_above(now, error)
        else:
            self._handle_from_below(now, error, via)

    def _handle_from_above(self, now: float, packet: Packet) -> None:
        translator = self._translator
        if translator is not None and packet.destination.host == translator.external_host:
            inner = translator.inward(now, packet)
            if inner is None:
                self._drop_at_nat(now, packet, translator)
                return
            if inner.ttl < 1:
                self._end_of_life(now, packet, self.wan)
                return
            self._net.record(now, self.name, "nat-in", packet, str(inner.destination))
            packet = inner
        if self._firewall is not None and not self._firewall.permits_in(now, packet):
            self._net.record(now, self.name, "drop", packet, "firewall")
            return
        self._forward_down(now, packet)

    def _drop_at_nat(self, now: float, packet: Packet, translator: Translator) -> None:
        """Drop a packet from above that leads to nobody inside; a box that takes it for its own says that it did."""
        self._net.record(now, self.name, "drop", packet, "nat")
        if translator.nat.accepts_input and packet.quote is None and packet.segment is None:
            quote = Quote(packet.source, packet.destination, errno.ECONNREFUSED)
            own, sender = packet.destination.host, packet.source.host
            error = Packet(TransportAddress(own, 0), TransportAddress(sender, 0), b"", quote)
            self._net.record(now, self.name, "send", error)
            self._forward_up(now, error)

    def _handle_from_below(self, now: float, packet: Packet, via: Interface) -> None:
        host, translator = packet.destination.host, self._translator
        if self.route_to(host) is not None:
            self._forward_down(now, packet)
        elif is_multicast(host):
            self._flood(now, packet, via)
        elif translator is not None and translator.is_own(host):
            self._hairpin(now, translator, packet)
        elif self._firewall is not None and not self._firewall.permits_out(now, packet):
            self._net.record(now, self.name, "drop", packet, "firewall")
        elif translator is not None and translator.takes(host):
            outer = translator.outward(now, packet)
            if outer is None:
                self._net.record(now, self.name, "drop", packet, "nat")
                return
            self._net.record(now, self.name, "nat-out", packet, str(outer.source))
            self._forward_up(now, outer)
        else:
            self._forward_up(now, packet)

    def _forward_up(self, now: float, packet: Packet) -> None:
        if self.wan is None or self.wan.address(packet.destination.family) is None:
            self._net.record(now, self.name, "drop", packet, "no route")
        else:
            self._net.transmit(now, self.wan, packet=packet, up=True)

    def _forward_down(self, now: float, packet: Packet) -> None:
        interface = self.route_to(packet.destination.host)
        if interface is None:
            self._net.record(now, self.name, "drop", packet, "no route")
        else:
            self._net.transmit(now, interface, packet=packet, up=False)

    def _flood(self, now: float, packet: Packet, via: Interface) -> None:
        """Give a multicast packet to everyone on this network but its sender; it goes no further."""
        for interface in self._attached:
            if interface is not via and interface.address(packet.destination.family) is not None:
                self._net.transmit(now, interface, packet=packet, up=False)

    def _hairpin(self, now: float, translator: Translator, packet: Packet) -> None:
        """Turn a packet round that the inside sent to the outside of this very NAT. RFC 4787 section 6."""
        if not translator.nat.hairpin:
            self._net.record(now, self.name, "drop", packet, "no hairpin")
            return
        outer = translator.outward(now, packet)
        inner = translator.inward(now, outer) if outer is not None else None
        if inner is None:
            self._net.record(now, self.name, "drop", packet, "nat")
        else:
            self._net.record(now, self.name, "hairpin", packet, f"{inner.source} > {inner.destination}")
            self._forward_down(now, inner)
