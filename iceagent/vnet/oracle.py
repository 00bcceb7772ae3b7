"""What connections a topology allows, computed without sending a packet: agents are tested against it.

The oracle simulates ICE symbolically. It knows no time, no loss and no port numbers: a port that a NAT chooses is a
fresh symbol, so no path exists by luck. Each side learns how servers see it, signals that, sends to all it knows of,
and learns from what arrives, until nothing new is learnt. A path exists where an answer comes back from the very place
that the check was sent to (RFC 8445 section 7.2.5.2.1).

It reads the topology and the descriptions of NATs and firewalls, and shares with the code that moves packets nothing
but the arithmetic of NAT64 addresses. Where it matters who sends first (`Nat.accepts_input`), it assumes the
better order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from itertools import count
from typing import NamedTuple

from iceagent.core.address import is_private
from iceagent.vnet.host import Host
from iceagent.vnet.nat import Behaviour, Nat
from iceagent.vnet.node import Interface
from iceagent.vnet.router import Router
from iceagent.vnet.translation import embedded, synthesize

STUN_PORT = 3478
MAX_ROUNDS = 16


@dataclass(frozen=True, slots=True)
class Relay:
    """A TURN server: where it is, and the ports that it listens on by transport."""

    host: Host
    udp_port: int | None = STUN_PORT
    tcp_ports: tuple[int, ...] = (STUN_PORT, 443)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: its host, and what its agent may use.

    Attributes:
        families: IP versions, of relayed addresses too.
        interfaces: names of interfaces; None for all.
        stun: STUN servers that it asks.
        relays: TURN servers that it has credentials for; they serve as STUN servers, too.
        relay_only: no direct path is to be used.
        kinds: types of candidates that are gathered, signalled, and taken from the other side; without `relay` nothing
            is taken from the other side's relays.
        deny_remote: networks that nothing of the other side is sent to or taken from.
    """

    host: Host
    families: tuple[int, ...] = (4, 6)
    interfaces: tuple[str, ...] | None = None
    stun: tuple[Host, ...] = ()
    relays: tuple[Relay, ...] = ()
    relay_only: bool = False
    kinds: tuple[str, ...] = ("host", "srflx", "prflx", "relay")
    deny_remote: tuple[str, ...] = ()

    def permits(self, host: str) -> bool:
        """Return whether policy lets it deal with an address of the other side."""
        ip = ip_address(host)
        return not any(ip in ip_network(network) for network in self.deny_remote)


class PossiblePath(NamedTuple):
    """One way for the two to talk: the kind of candidate at each end, in the words of ICE, and the family of each."""

    kinds: tuple[str, str]
    families: tuple[int, int]

    @property
    def is_direct(self) -> bool:
        """Whether no relay is on it."""
        return "relay" not in self.kinds


@dataclass(frozen=True, slots=True)
class Reachability:
    """All ways in which two hosts can talk."""

    paths: frozenset[PossiblePath]

    @property
    def is_direct(self) -> bool:
        """Whether there is a path without a relay."""
        return any(path.is_direct for path in self.paths)

    @property
    def is_possible(self) -> bool:
        """Whether there is any path."""
        return bool(self.paths)

    @property
    def kinds(self) -> set[tuple[str, str]]:
        """The kinds of candidates of the direct paths."""
        return {path.kinds for path in self.paths if path.is_direct}


def reachability(one: Side, other: Side) -> Reachability:
    """Return how two hosts can talk in the topology as it is now; links that are cut count as such."""
    return _Play((one, other)).result()


class _Endpoint(NamedTuple):
    host: str
    port: object

    @property
    def family(self) -> int:
        return 6 if ":" in self.host else 4


class _Packet(NamedTuple):
    source: _Endpoint
    destination: _Endpoint
    is_tcp: bool = False


@dataclass(eq=False)
class _Socket:
    """Where one side, or a server, can be spoken to. A relayed one stands at its server."""

    owner: int
    host: Host
    interface: Interface
    at: _Endpoint
    is_relay: bool = False
    permitted: set[str] = field(default_factory=set[str])
    reflexive: set[_Endpoint] = field(default_factory=set[_Endpoint])
    heard: set[_Endpoint] = field(default_factory=set[_Endpoint])  # where checks came from that was not signalled


class _Arrival(NamedTuple):
    socket: _Socket
    source: _Endpoint


class _World:
    """The topology, with all that NATs and firewalls have come to remember; nothing is ever forgotten."""

    def __init__(self) -> None:
        self.sockets: dict[tuple[Host, _Endpoint, bool], _Socket] = {}
        self.changes = 0
        self._ports = count()
        self._external: dict[tuple[Router, _Endpoint, object, bool], _Endpoint] = {}
        self._internal: dict[tuple[Router, _Endpoint, bool], _Endpoint] = {}
        self._sessions: defaultdict[tuple[Router, _Endpoint, bool], set[object]] = defaultdict(set)
        self._flows: set[tuple[Router, _Endpoint, _Endpoint, bool]] = set()

    def fresh_port(self) -> object:
        return ("port", next(self._ports))

    def open(self, owner: int, host: Host, interface: Interface, at: _Endpoint, *, is_tcp: bool = False) -> _Socket:
        opened = self.sockets[host, at, is_tcp] = _Socket(owner, host, interface, at)
        return opened

    def send(self, sender: _Socket, destination: _Endpoint, *, is_tcp: bool = False) -> _Arrival | None:
        """Follow one packet; return where it comes out and from where it seems to come, or None."""
        if sender.is_relay:
            sender.permitted.add(destination.host)
        packet = _Packet(sender.at, destination, is_tcp)
        interface = sender.interface
        if destination.host in sender.host.addresses():
            return self._deliver(sender.host, packet)
        if not _passes(interface, up=True) or interface.router is None:
            return None
        return self._from_below(interface.router, packet)

    def _from_below(self, router: Router, packet: _Packet) -> _Arrival | None:
        host = packet.destination.host
        nat = router.nat if packet.source.family == 4 else router.nat64
        if router.route_to(host) is not None:
            return self._down(router, packet)
        outer_host = _outer_host(router, host)
        if router.nat64 is not None and outer_host is not None and is_private(outer_host):
            return None  # the well-known prefix stands for global addresses alone: RFC 6052 section 3.1
        if nat is not None and outer_host is not None and outer_host == router.public_address:
            if not nat.hairpin:
                return None
            turned = self._inward(router, nat, self._outward(router, nat, packet, outer_host))
            return turned and self._down(router, turned)
        if not self._leaves(router, packet):
            return None
        if nat is not None and outer_host is not None:
            packet = self._outward(router, nat, packet, outer_host)
        wan = router.wan
        if wan is None or wan.router is None or wan.address(packet.destination.family) is None:
            return None
        return self._from_below(wan.router, packet) if _passes(wan, up=True) else None

    def _down(self, router: Router, packet: _Packet) -> _Arrival | None:
        interface = router.route_to(packet.destination.host)
        if interface is None or not _passes(interface, up=False):
            return None
        node = interface.node
        if isinstance(node, Host):
            return self._deliver(node, packet)
        return self._from_above(node, packet) if isinstance(node, Router) else None

    def _from_above(self, router: Router, packet: _Packet) -> _Arrival | None:
        nat = router.nat or router.nat64
        if nat is not None and packet.destination.host == router.public_address:
            inner = self._inward(router, nat, packet)
            if inner is None:
                return None
            packet = inner
        return self._down(router, packet) if self._enters(router, packet) else None

    def _deliver(self, host: Host, packet: _Packet) -> _Arrival | None:
        receiver = self.sockets.get((host, packet.destination, packet.is_tcp))
        if receiver is None or (receiver.is_relay and packet.source.host not in receiver.permitted):
            return None
        return _Arrival(receiver, packet.source)

    def _outward(self, router: Router, nat: Nat, packet: _Packet, outer_host: str) -> _Packet:
        destination = _Endpoint(outer_host, packet.destination.port)
        key = (router, packet.source, _scope(nat.mapping, destination), packet.is_tcp)
        external = self._external.get(key)
        if external is None:
            external = self._external[key] = _Endpoint(router.public_address or "", self.fresh_port())
            self._internal[router, external, packet.is_tcp] = packet.source
        self._note(self._sessions[router, external, packet.is_tcp], _scope(nat.filtering, destination))
        return _Packet(external, destination, packet.is_tcp)

    def _inward(self, router: Router, nat: Nat, packet: _Packet) -> _Packet | None:
        internal = self._internal.get((router, packet.destination, packet.is_tcp))
        sessions = self._sessions[router, packet.destination, packet.is_tcp]
        if internal is None or _scope(nat.filtering, packet.source) not in sessions:
            return None
        source = packet.source
        if router.nat64_prefix is not None and router.nat64 is not None:
            if is_private(source.host):
                return None
            source = _Endpoint(synthesize(router.nat64_prefix, source.host), source.port)
        return _Packet(source, internal, packet.is_tcp)

    def _leaves(self, router: Router, packet: _Packet) -> bool:
        firewall = router.firewall
        if firewall is None:
            return True
        flow = (router, packet.source, packet.destination, packet.is_tcp)
        ports = firewall.tcp_ports if packet.is_tcp else firewall.udp_ports
        is_open = ports is None or packet.destination.port in ports
        if (firewall.drops_stun and not packet.is_tcp) or not (is_open or flow in self._flows):
            return False
        self._note(self._flows, flow)
        return True

    def _enters(self, router: Router, packet: _Packet) -> bool:
        firewall = router.firewall
        if firewall is None:
            return True
        flow = (router, packet.destination, packet.source, packet.is_tcp)
        known = firewall.inbound == "established" and flow in self._flows
        if (firewall.drops_stun and not packet.is_tcp) or not (known or firewall.inbound == "any"):
            return False
        self._note(self._flows, flow)
        return True

    def _note(self, memory: set, entry: object) -> None:  # type: ignore[type-arg]
        self.changes += entry not in memory
        memory.add(entry)


class _Play:
    """Two sides who try all they can."""

    def __init__(self, sides: tuple[Side, Side]) -> None:
        self._world = _World()
        self._sides = sides
        self._signalled: tuple[set[_Endpoint], set[_Endpoint]] = (set(), set())
        self._sockets = (list(self._open(0, sides[0])), list(self._open(1, sides[1])))
        for number, side in enumerate(sides):
            self._gather(number, side)
        for number, side in enumerate(sides):
            if side.relay_only:
                self._sockets[number][:] = [one for one in self._sockets[number] if one.is_relay]
            self._sockets[number][:] = [one for one in self._sockets[number] if self._candidates(one, side)]
            for one in self._sockets[number]:
                signalled = self._candidates(one, side)
                self._signalled[1 - number].update(at for at, kind in signalled if self._takes(1 - number, at, kind))

    def result(self) -> Reachability:
        paths: set[PossiblePath] = set()
        for _ in range(MAX_ROUNDS):
            before = self._progress(paths)
            for number in (0, 1):
                for sender in self._sockets[number]:
                    for target in sorted(self._signalled[number] | sender.heard, key=repr):
                        paths.update(self._check(number, sender, target))
            if before == self._progress(paths):
                break
        return Reachability(frozenset(paths))

    def _progress(self, paths: set[PossiblePath]) -> tuple[int, ...]:
        heard = sum(len(one.heard) for sockets in self._sockets for one in sockets)
        return self._world.changes, heard, len(paths)

    @staticmethod
    def _candidates(one: _Socket, side: Side) -> set[tuple[_Endpoint, str]]:
        every = {(one.at, "relay" if one.is_relay else "host")} | {(at, "srflx") for at in one.reflexive}
        return {(at, kind) for at, kind in every if kind in side.kinds}

    def _takes(self, number: int, remote: _Endpoint, kind: str) -> bool:
        side = self._sides[number]
        return kind in side.kinds and side.permits(remote.host)

    def _check(self, number: int, sender: _Socket, target: _Endpoint) -> Iterator[PossiblePath]:
        """Send one check; its answer makes a path."""
        target = _as_reached(sender, target)
        if sender.at.family != target.family:
            return
        arrival = self._world.send(sender, target)
        if arrival is None or arrival.socket.owner != 1 - number or arrival.socket not in self._sockets[1 - number]:
            return
        if sender.is_relay and "relay" not in self._sides[1 - number].kinds:
            return  # it was signalled as such, and is not taken as peer-reflexive either
        if arrival.source not in self._signalled[1 - number]:
            if not self._takes(1 - number, arrival.source, "prflx"):
                return
            arrival.socket.heard.add(arrival.source)  # and paired with this one alone: RFC 8445 section 7.3.1.3
        answer = self._world.send(arrival.socket, arrival.source)
        if answer is not None and answer.socket is sender and answer.source == target:
            ends = [(_kind(sender, arrival.source), sender.at.family), (_kind(arrival.socket, target), target.family)]
            first, second = ends if number == 0 else reversed(ends)
            yield PossiblePath((first[0], second[0]), (first[1], second[1]))

    def _open(self, number: int, side: Side) -> Iterator[_Socket]:
        for interface in side.host.attachments():
            if side.interfaces is None or interface.name in side.interfaces:
                for entry in interface.addresses:
                    at = _Endpoint(entry.host, self._world.fresh_port())
                    if at.family in side.families:
                        yield self._world.open(number, side.host, interface, at)

    def _gather(self, number: int, side: Side) -> None:
        relays: list[_Socket] = []
        for own in list(self._sockets[number]):
            udp_servers = [(host, STUN_PORT) for host in side.stun]
            udp_servers += [(relay.host, relay.udp_port) for relay in side.relays if relay.udp_port is not None]
            for host, port in udp_servers:
                mapped = self._ask(own, host, port)
                if mapped is not None and (mapped != own.at or "host" not in side.kinds):
                    own.reflexive.add(mapped)
            # Relays are reached by the routing table's choice, which is the first interface.
            is_default = own.interface is next(i for i in side.host.attachments() if i.address(own.at.family))
            for relay in side.relays if is_default else ():
                relays += self._allocate(number, own, relay, side.families)
        self._sockets[number].extend(relays)

    def _ask(self, own: _Socket, server: Host, port: int, *, is_tcp: bool = False) -> _Endpoint | None:
        """Return how a server sees a socket, if both the question and the answer arrive."""
        for interface, at in _servers_addresses(own, server, port):
            address = _Endpoint(interface.address(4) or "", port) if at.host not in server.addresses() else at
            there = self._world.open(2, server, interface, address, is_tcp=is_tcp)
            arrival = self._world.send(own, at, is_tcp=is_tcp)
            if arrival is not None and arrival.socket is there:
                answer = self._world.send(there, arrival.source, is_tcp=is_tcp)
                if answer is not None and answer.socket is own:
                    return arrival.source
            return None  # an agent asks the first address of each family
        return None

    def _allocate(self, number: int, own: _Socket, relay: Relay, families: tuple[int, ...]) -> Iterator[_Socket]:
        reached = relay.udp_port is not None and self._ask(own, relay.host, relay.udp_port) is not None
        for port in relay.tcp_ports:
            self._world.sockets[own.host, own.at, True] = own
            reached = reached or self._ask(own, relay.host, port, is_tcp=True) is not None
        if not reached:
            return
        for interface in relay.host.attachments():
            for entry in interface.addresses:
                at = _Endpoint(entry.host, self._world.fresh_port())
                if at.family in families:
                    opened = self._world.open(number, relay.host, interface, at)
                    opened.is_relay = True
                    yield opened


def _servers_addresses(own: _Socket, server: Host, port: int) -> Iterator[tuple[Interface, _Endpoint]]:
    """Give a server's addresses as the resolver of a socket's host returns them, of the socket's family."""
    for interface in server.attachments():
        host = interface.address(own.at.family)
        if host is not None:
            yield interface, _Endpoint(host, port)
    prefix = own.interface.router.nat64_prefix if own.interface.router else None
    if prefix is not None and own.at.family == 6:
        for interface in server.attachments():
            host = interface.address(4)
            if host is not None:
                yield interface, _Endpoint(synthesize(prefix, host), port)


def _as_reached(sender: _Socket, target: _Endpoint) -> _Endpoint:
    """Return an IPv4 address of the peer as a machine of IPv6 alone reaches it through its network's NAT64."""
    prefix = sender.interface.router.nat64_prefix if sender.interface.router else None
    if prefix is None or sender.is_relay or sender.host.addresses(4) or target.family == 6:
        return target
    return _Endpoint(synthesize(prefix, target.host), target.port)


def _kind(local: _Socket, seen_as: _Endpoint) -> str:
    """Return the type of candidate under which a socket is known there."""
    if local.is_relay:
        return "relay"
    if seen_as == local.at:
        return "host"
    return "srflx" if seen_as in local.reflexive else "prflx"


def _scope(behaviour: Behaviour, remote: _Endpoint) -> object:
    if behaviour == "endpoint-independent":
        return None
    return remote.host if behaviour == "address-dependent" else remote


def _outer_host(router: Router, host: str) -> str | None:
    """Return a destination as the outside of the router's NAT has it; None: it is not translated."""
    if router.nat64 is not None and router.nat64_prefix is not None:
        return embedded(router.nat64_prefix, host)
    return host if router.nat is not None and ":" not in host else None


def _passes(interface: Interface, *, up: bool) -> bool:
    direction = interface.link.up if up else interface.link.down
    return interface.is_up and not interface.link.is_cut and direction.loss < 1


def sides(hosts: Sequence[Host], *, stun: Sequence[Host] = (), relays: Sequence[Relay] = ()) -> tuple[Side, Side]:
    """Return two sides with the same servers."""
    one, other = (Side(host, stun=tuple(stun), relays=tuple(relays)) for host in hosts)
    return one, other
