"""The virtual network: its topology, its clock and its trace."""

from __future__ import annotations

import ipaddress
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from heapq import heappop, heappush
from types import TracebackType
from typing import Any, NamedTuple, Self

import trio

from iceagent.core.address import make_address
from iceagent.errors import LocalError
from iceagent.net.api import InterfaceAddress
from iceagent.net.tasks import open_background
from iceagent.vnet.addressing import AddressPlan, IPNetwork, internet_plan, plan_within, private_subnet
from iceagent.vnet.firewall import Firewall
from iceagent.vnet.host import Host
from iceagent.vnet.link import Link, Passage
from iceagent.vnet.nat import Nat
from iceagent.vnet.node import Interface, Node
from iceagent.vnet.packet import Packet
from iceagent.vnet.router import Router
from iceagent.vnet.trace import TRACE_LIMIT, NetworkStatistics, Trace, TraceRecord
from iceagent.vnet.translation import IPV4ONLY_ARPA
from iceagent.vnet.udp import VirtualUdpSocket


class PacketArrival(NamedTuple):
    """A packet under way: when and where it comes out of its link. Ordered by time, then by order of sending."""

    at: float
    number: int
    interface: Interface
    packet: Packet
    is_up: bool
    loss: str
    """Why it will not arrive, or empty."""
    sender: VirtualUdpSocket | None


class ScheduledCall(NamedTuple):
    """A callback that is due; it stands in one queue with the arrivals."""

    at: float
    number: int
    callback: Callable[[float], None]


class Network:
    """A network of hosts and routers in memory, under Trio's clock, real or mocked.

    Build the topology, then `async with` the network to let packets flow. All chance comes from `seed`: each link, NAT
    and host has its own stream of it, named after it, so adding a host does not change what another one draws.

    Args:
        seed: of all randomness.
        families: 4, 6 or both: the address families that routers and hosts get unless they say otherwise.
        trace_limit: how many records of the trace are kept, the newest ones; 0 for none.
    """

    def __init__(self, seed: int = 1, *, families: Iterable[int] = (4,), trace_limit: int = TRACE_LIMIT) -> None:
        self.seed = seed
        self.dns_delay_s = 0.0
        self._trace = Trace(trace_limit)
        self._names: dict[str, list[str]] = {"ipv4only.arpa": list(IPV4ONLY_ARPA)}
        self._nodes: dict[str, Host | Router] = {}
        self._private_subnets = 0
        self._arrivals: list[PacketArrival | ScheduledCall] = []
        self._sent = 0
        self._wake_up = trio.CancelScope()
        self._started_at = 0.0
        self._running: AbstractAsyncContextManager[Network] | None = None
        plans = {family: internet_plan(family) for family in sorted(set(families))}
        self.internet = Router(self, "internet", plans, None)
        self._nodes["internet"] = self.internet

    # Building

    def router(
        self,
        parent: Router,
        *,
        nat: Nat | None = None,
        nat64: Nat | None = None,
        firewall: Firewall | None = None,
        subnet: str | None = None,
        name: str | None = None,
        families: Iterable[int] | None = None,
        delay_s: float = 0.010,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        **faults: Any,
    ) -> Router:
        """Add a router with a network below it.

        Args:
            parent: the router it hangs on, `internet` or another.
            nat: how it translates IPv4; None: it does not, and its hosts have addresses that the parent routes.
            nat64: the same for a network of IPv6 alone, which reaches IPv4 through it: its hosts are given addresses of
                names that have IPv4 only (DNS64). The parent must have both families.
            firewall: what it lets through, of either family.
            subnet: the network behind a NAT, as `10.0.0.0/16`. By default each gets its own: 192.168.1.0/24, …;
                give two the same for the clash of addresses that real homes have.
            name: for the trace; unique.
            families: address families, by default those of the parent.
            delay_s, jitter_s, loss, faults: of the link to the parent, each way (`Direction`); later changed by
                `router.link`.
        Raises:
            LocalError: the name is taken, or addresses ran out.
        """
        if nat64 is not None:
            if nat is not None or set(parent.families) != {4, 6}:
                raise LocalError("a NAT64 stands below a network of both families, and not beside another NAT")
            families = (6,)
        chosen = parent.families if families is None else tuple(sorted(set(families) & set(parent.families)))
        if not chosen:
            raise LocalError(f"{parent.name} has IPv{parent.families[0]} only; families={families} leaves nothing")
        prefixes = {family: self._prefix_below(parent, family, nat, subnet) for family in chosen}
        plans: dict[int, AddressPlan] = {family: plan_within(prefix) for family, prefix in prefixes.items()}
        link = Link(delay_s=delay_s, jitter_s=jitter_s, loss=loss, **faults)
        router = Router(self, self._unique_name(name, "router"), plans, nat, nat64=nat64, firewall=firewall)
        self._nodes[router.name] = router
        wan = self.connect(router, "wan", parent, link)
        router.connect_upwards(wan)
        for family, prefix in prefixes.items():
            if family == 6 or nat is None:
                parent.add_route(wan, prefix)
        return router

    def host(
        self,
        router: Router,
        *,
        name: str | None = None,
        delay_s: float = 0.001,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        **faults: Any,
    ) -> Host:
        """Add a host to a router's network.

        Args:
            router: whose network it joins; `Host.attach` gives it more interfaces.
            name: unique; other hosts can resolve it.
            delay_s, jitter_s, loss, faults: of the host's own link, each way (`Direction`); later changed by
                `host.link`.
        Raises:
            LocalError: the name is taken, or addresses ran out.
        """
        host = Host(self, self._unique_name(name, "host"), router.families)
        self._nodes[host.name] = host
        host.attach(router, Link(delay_s=delay_s, jitter_s=jitter_s, loss=loss, **faults))
        return host

    def add_name(self, name: str, *addresses: str) -> None:
        """Make `name` resolve to these IP literals, instead of what it resolved to before."""
        self._names[name.lower()] = [make_address(address, 0).host for address in addresses]

    def addresses_of(self, name: str) -> list[str]:
        """Return what a name resolves to: `add_name`'s addresses, else those of the host so called; or nothing."""
        given = self._names.get(name.lower().rstrip("."))
        if given is not None:
            return given
        node = self._nodes.get(name.lower())
        return node.addresses() if isinstance(node, Host) else []

    def connect(self, node: Node, name: str, router: Router, link: Link) -> Interface:
        """Give `node` an interface in the network of `router`; hosts and routers are made by it."""
        rng = self.rng(f"link {node.name}.{name}")
        interface = Interface(node, name, link, router, _new_addresses(name, router), rng)
        router.add_route(interface)
        return interface

    def readdress(self, interface: Interface) -> None:
        """Give an interface other addresses of the same network; the old ones lead nowhere from now on."""
        router = interface.router
        if router is not None:
            router.remove_routes(interface, forget=False)
            interface.addresses = _new_addresses(interface.name, router)
            router.add_route(interface)

    def rng(self, purpose: str) -> random.Random:
        """Return the stream of chance that the seed gives to one purpose."""
        return random.Random(f"{self.seed} {purpose}")  # noqa: S311  # repeatable is what it must be

    # Running

    async def __aenter__(self) -> Self:
        """Let packets flow until the block ends."""
        if self._running is not None:
            raise LocalError("this network is running already; make a second one")
        self._running = self._run()
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        running, self._running = self._running, None
        return await running.__aexit__(kind, error, traceback) if running is not None else None  # noqa: ASYNC102

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[Network]:
        self._started_at = trio.current_time()
        async with open_background() as nursery:
            nursery.start_soon(self._deliver_forever)
            try:
                yield self
            finally:
                for host in self.hosts():
                    self._trace.statistics.sockets_left_open += len(host.sockets) + len(host.tcp)
                    host.crash()
                self._arrivals.clear()

    async def _deliver_forever(self) -> None:
        while True:
            now = trio.current_time()
            while self._arrivals and self._arrivals[0].at <= now:
                self._handle_arrival(now, heappop(self._arrivals))
            next_at = self._arrivals[0].at if self._arrivals else math.inf
            # The next arrival is this scope's deadline; `transmit` moves it when something will arrive earlier.
            with trio.CancelScope(deadline=next_at) as self._wake_up:
                await trio.sleep_forever()

    def transmit(
        self, now: float, interface: Interface, *, packet: Packet, up: bool, sender: VirtualUdpSocket | None = None
    ) -> None:
        """Put a packet on the link of an interface, towards the router (`up`) or away from it."""
        direction = interface.link.up if up else interface.link.down
        mtu = direction.mtu
        if mtu is not None and packet.wire_size > mtu:
            self.record(now, str(interface), "drop", packet, "too big")
            transmitter: Node | None = interface.node if up else interface.router
            if direction.tells_mtu and transmitter is not None and packet.quote is None:
                transmitter.handle_too_big(now, packet, interface, mtu)
            return
        passage = direction.transit(now, packet, interface.rng)
        self._put_under_way(passage, interface, up, sender)
        if direction.duplicate and direction.doubles(interface.rng):
            self._put_under_way(passage, interface, up, None)

    def _put_under_way(
        self, passage: Passage, interface: Interface, is_up: bool, sender: VirtualUdpSocket | None
    ) -> None:
        at, packet, reason = passage
        self._sent += 1
        heappush(self._arrivals, PacketArrival(at, self._sent, interface, packet, is_up, reason, sender))
        if sender is not None:
            sender.charge(len(packet.data))
        if at < self._wake_up.deadline:
            self._wake_up.deadline = at

    def call_at(self, at: float, callback: Callable[[float], None]) -> None:
        """Call back at a time, unless the network has ended by then."""
        self._sent += 1
        heappush(self._arrivals, ScheduledCall(at, self._sent, callback))
        if at < self._wake_up.deadline:
            self._wake_up.deadline = at

    def _handle_arrival(self, now: float, arrival: PacketArrival | ScheduledCall) -> None:
        if isinstance(arrival, ScheduledCall):
            arrival.callback(now)
            return
        interface = arrival.interface
        if arrival.sender is not None:
            arrival.sender.release(len(arrival.packet.data))
        receiver: Node | None = interface.router if arrival.is_up else interface.node
        if arrival.loss or interface.link.is_cut or not interface.is_up:
            reason = "link cut" if interface.link.is_cut else arrival.loss or "interface down"
            self.record(now, str(interface), "drop", arrival.packet, reason)
        elif receiver is not None:
            receiver.handle_packet(now, arrival.packet, interface)

    # Looking

    @property
    def trace(self) -> list[TraceRecord]:
        """The newest records of what happened to packets, oldest first."""
        return list(self._trace.records)

    def trace_bytes(self) -> bytes:
        """Return the trace as text, a line per record: equal for equal seeds, byte for byte."""
        return "".join(f"{record}\n" for record in self._trace.records).encode()

    def statistics(self) -> NetworkStatistics:
        """Return the counters (live object, do not change)."""
        return self._trace.statistics

    def sockets(self) -> list[VirtualUdpSocket]:
        """Return the sockets open on any host; those still open when the network ends are closed, and counted."""
        return [open_socket for host in self.hosts() for open_socket in host.sockets]

    def hosts(self) -> list[Host]:
        """Return all hosts, in the order they were added."""
        return [node for node in self._nodes.values() if isinstance(node, Host)]

    def record(self, now: float, place: str, event: str, packet: Packet, detail: str = "") -> None:
        """Write one event into the trace."""
        self._trace.add(now - self._started_at, place, event, packet, detail)

    def _unique_name(self, name: str | None, kind: str) -> str:
        chosen = (name or f"{kind}{len(self._nodes)}").lower()
        if chosen in self._nodes:
            raise LocalError(f"there is a node named {chosen!r} already")
        return chosen

    def _prefix_below(self, parent: Router, family: int, nat: Nat | None, subnet: str | None) -> IPNetwork:
        if family == 6 or nat is None:
            if family == 4 and subnet is not None:
                raise LocalError("subnet is for the network behind a NAT; without one the parent delegates a prefix")
            return parent.next_prefix(family)
        if subnet is not None:
            return ipaddress.IPv4Network(subnet)
        self._private_subnets += 1
        return private_subnet(self._private_subnets)


def _new_addresses(name: str, router: Router) -> tuple[InterfaceAddress, ...]:
    return tuple(InterfaceAddress(name, *router.next_host(family)) for family in router.families)
