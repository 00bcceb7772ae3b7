"""Hosts: machines of the virtual network, each an `iceagent.net.api.Network` for the software that runs on it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from iceagent.core.address import TransportAddress, make_address
from iceagent.net import mdns_packets
from iceagent.net.api import IcmpError, InterfaceAddress
from iceagent.vnet.addressing import parse_ip
from iceagent.vnet.link import Link
from iceagent.vnet.node import Interface
from iceagent.vnet.packet import DEFAULT_TTL, Packet, Quote, is_multicast
from iceagent.vnet.tcp import TcpStack, VirtualTcpListener, VirtualTcpStream
from iceagent.vnet.translation import synthesize
from iceagent.vnet.udp import VirtualUdpSocket

if TYPE_CHECKING:
    from iceagent.net import api
    from iceagent.vnet.network import Network
    from iceagent.vnet.router import Router

    def _has_all_an_agent_wants(host: Host) -> api.Network:
        return host


LOOPBACK_DELAY_S = 0.00002
EPHEMERAL_PORTS = (49152, 65535)  # RFC 6335 section 6
MAX_DATAGRAM = 65507
_WILDCARDS = {"0.0.0.0": 4, "::": 6}  # noqa: S104


def _os_error(code: int, what: str) -> OSError:
    return OSError(code, f"{os.strerror(code)}: {what}")


class Host:
    """A machine with a loopback interface and one or more others. Make one with `Network.host`.

    It has all that an agent or a server wants of a network: `interfaces()`, `open_udp()`, `connect_tcp()`,
    `listen_tcp()` and `resolve()`.
    """

    def __init__(self, net: Network, name: str, families: tuple[int, ...]) -> None:
        self.name = name
        self._net = net
        self._rng = net.rng(f"host {name}")
        self._interfaces: list[Interface] = []
        self._attached = 0
        self._changed = trio.Event()
        self._tcp = TcpStack(self)
        self._sockets: dict[TransportAddress, VirtualUdpSocket] = {}
        self._groups: dict[TransportAddress, list[VirtualUdpSocket]] = {}
        self._published: dict[str, tuple[str, ...]] = {}
        addresses = [InterfaceAddress("lo", "127.0.0.1", 8, is_loopback=True)] if 4 in families else []
        if 6 in families:
            addresses.append(InterfaceAddress("lo", "::1", 128, is_loopback=True))
        self._loopback = Interface(
            self, "lo", Link(delay_s=LOOPBACK_DELAY_S), None, tuple(addresses), net.rng(f"lo {name}")
        )

    def __repr__(self) -> str:
        return f"<Host {self.name} {' '.join(self.addresses())}>"

    def interfaces(self) -> list[InterfaceAddress]:
        """Return the addresses of all interfaces, loopback first."""
        up = [interface for interface in (self._loopback, *self._interfaces) if interface.is_up]
        return [entry for interface in up for entry in interface.addresses]

    def addresses(self, family: int | None = None) -> list[str]:
        """Return the host's own addresses as text, loopback left out; `family` is 4, 6 or None for both."""
        return [
            entry.host
            for interface in self._interfaces
            if interface.is_up
            for entry in interface.addresses
            if family is None or (":" in entry.host) == (family == 6)
        ]

    @property
    def address(self) -> str:
        """The host's first address, as text."""
        return self.addresses()[0]

    @property
    def link(self) -> Link:
        """The link of the first interface, to be changed at run time."""
        return self._interfaces[0].link

    @property
    def tcp(self) -> list[VirtualTcpStream | VirtualTcpListener]:
        """The TCP streams and listeners that nobody has closed yet."""
        return self._tcp.open_ends()

    @property
    def sockets(self) -> list[VirtualUdpSocket]:
        """The sockets now open, in the order of opening."""
        return [*self._sockets.values(), *(member for members in self._groups.values() for member in members)]

    def attachments(self) -> list[Interface]:
        """Return the interfaces other than loopback, in the order of attaching."""
        return list(self._interfaces)

    def attach(self, router: Router, link: Link | None = None) -> Interface:
        """Plug one more interface into the network of `router`; return it."""
        interface = self._net.connect(self, f"eth{self._attached}", router, link or Link())
        self._attached += 1
        self._interfaces.append(interface)
        self._announce_change()
        return interface

    def detach(self, interface: Interface | None = None) -> None:
        """Take an interface away for good, by default the first. Sockets stay; what is bound there reaches nobody."""
        gone = interface or self._interfaces[0]
        self._interfaces.remove(gone)
        gone.is_up = False
        if gone.router is not None:
            gone.router.remove_routes(gone)
        self._announce_change()

    def move(self, router: Router, link: Link | None = None) -> Interface:
        """Leave all networks and join that of `router`: from one Wi-Fi to another. Return the new interface."""
        for interface in list(self._interfaces):
            self.detach(interface)
        return self.attach(router, link)

    def set_up(self, interface: Interface | None = None, *, up: bool = True) -> None:
        """Switch an interface on, or with `up=False` off; by default the first. It keeps its addresses."""
        changed = interface or self._interfaces[0]
        changed.is_up = up
        self._announce_change()

    def renew(self, interface: Interface | None = None) -> None:
        """Give an interface, by default the first, other addresses of the same network."""
        self._net.readdress(interface or self._interfaces[0])
        self._announce_change()

    async def wait_changed(self) -> None:
        """Wait until an interface or an address comes or goes."""
        await self._changed.wait()

    def crash(self) -> None:
        """Let all programs on this host die: their sockets are gone without a word, and what comes is refused."""
        for open_socket in self.sockets:
            open_socket.close()
        self._tcp.crash()

    def partition(self) -> None:
        """Cut the host off from everyone: nothing arrives and nothing leaves. Its loopback works on."""
        for interface in self._interfaces:
            interface.link.cut()

    def heal(self) -> None:
        """Undo `partition`."""
        for interface in self._interfaces:
            interface.link.restore()

    def randbytes(self, size: int) -> bytes:
        """Return bytes that depend on nothing but the network's seed and this host's name and calls.

        Hand it to `AgentConfig(randbytes=host.randbytes)` and the like, for a trace that repeats byte for byte.
        """
        return self._rng.randbytes(size)

    async def open_udp(self, host: str, port: int = 0) -> VirtualUdpSocket:
        """Bind a socket to one of the host's addresses or to a wildcard (`0.0.0.0`, `::`); port 0 picks a free one.

        Raises:
            OSError: the address is not ours (EADDRNOTAVAIL) or the port is taken (EADDRINUSE).
        """
        await trio.lowlevel.checkpoint()
        wanted = make_address(host, port)
        if wanted.host not in _WILDCARDS and not self._owns(wanted.host):
            raise _os_error(errno.EADDRNOTAVAIL, f"{self.name} has no address {host}, only {self.addresses()}")
        if port == 0:
            wanted = self._free_address(wanted.host)
        elif self._is_taken(wanted):
            raise _os_error(errno.EADDRINUSE, f"{wanted} on {self.name}")
        bound = self._sockets[wanted] = VirtualUdpSocket(self, wanted)
        return bound

    async def open_multicast(
        self, group: str, port: int, host: str | None = None, *, interface: Interface | None = None
    ) -> VirtualUdpSocket:
        """Join a group on the network of an interface, or of one of our addresses, by default of the first interface.

        It receives what anyone on that network or on this host sends to the group and the port, its own too, and sends
        from the interface's address. Several sockets may share one port, as with mDNS (`224.0.0.251`, 5353).

        Raises:
            OSError: the interface has no address of the group's family (EADDRNOTAVAIL).
        """
        await trio.lowlevel.checkpoint()
        joined = make_address(group, port)
        own = host or (interface or self._interfaces[0]).address(joined.family)
        if own is not None and not self._owns(own):
            own = None
        if own is None or not is_multicast(joined.host):
            raise _os_error(errno.EADDRNOTAVAIL, f"{group} on {self.name}")
        member = VirtualUdpSocket(self, TransportAddress(own, port))
        self._groups.setdefault(joined, []).append(member)
        return member

    def publish(self, name: str, *addresses: str) -> None:
        """Answer for a `.local` name on the networks this host is in, as an mDNS responder does.

        Args:
            name: ends in `.local`.
            addresses: what it stands for, by default all of this host's; with none, the name is removed.
        """
        self._published[name.lower().rstrip(".")] = addresses or tuple(self.addresses())

    def published(self, name: str) -> tuple[str, ...]:
        """Return what this host answers for a `.local` name."""
        return self._published.get(name, ())

    async def resolve(self, host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
        """Return the addresses of a literal, of `localhost` or of a name of the network; IPv6 first.

        Raises:
            OSError: there is no such name, or it has no address of the family.
        """
        await trio.sleep(self._net.dns_delay_s)
        try:
            found = [make_address(host, port)]
        except ValueError:
            hosts = [entry.host for entry in self._loopback.addresses]
            if host != "localhost":
                hosts = self._look_up(host)
            found = [TransportAddress(text, port) for text in hosts]
        found = sorted((a for a in found if family in (None, a.family)), key=lambda a: -a.family)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address in this network")
        return found

    async def connect_tcp(
        self, remote: TransportAddress, *, local_host: str | None = None, local_port: int = 0
    ) -> VirtualTcpStream:
        """Connect a TCP stream; `local_host` is one of the host's addresses, None leaves it to the host's routes.

        A given `local_port` may be a listener's, and that of connections to others.

        Raises:
            OSError: nobody listens there (ECONNREFUSED), nothing answers (ETIMEDOUT, after a minute), no way leads
                there (ENETUNREACH), the local address is not ours, or the two are connected (EADDRNOTAVAIL).
        """
        await trio.lowlevel.checkpoint()
        if local_host is not None and not self._owns(local_host):
            raise _os_error(errno.EADDRNOTAVAIL, f"{self.name} has no address {local_host}")
        way = self._way_out(local_host or ("::" if remote.family == 6 else "0.0.0.0"), remote)  # noqa: S104
        if way is None or remote.port == 0:
            raise _os_error(errno.ENETUNREACH, str(remote))
        return await self._tcp.connect(TransportAddress(way[0], local_port or self._free_tcp_port()), remote)

    async def listen_tcp(self, host: str, port: int = 0, *, share_port: bool = False) -> VirtualTcpListener:
        """Listen at one of the host's addresses or at a wildcard; port 0 picks a free one.

        Here every port may be connected from, whether it is shared or not.

        Raises:
            OSError: the address is not ours (EADDRNOTAVAIL) or the port is taken (EADDRINUSE).
        """
        del share_port
        await trio.lowlevel.checkpoint()
        wanted = make_address(host, port or self._free_tcp_port())
        if wanted.host not in _WILDCARDS and not self._owns(wanted.host):
            raise _os_error(errno.EADDRNOTAVAIL, f"{self.name} has no address {host}, only {self.addresses()}")
        if self._tcp.is_taken(wanted):
            raise _os_error(errno.EADDRINUSE, f"{wanted} on {self.name}")
        return self._tcp.listen(wanted)

    def send_packet(self, packet: Packet) -> None:
        """Put a TCP segment on its way; where none leads it is lost."""
        way = self._way_out(packet.source.host, packet.destination)
        if way is None:
            return
        now, (_, interface) = trio.current_time(), way
        self._net.record(now, self.name, "send", packet)
        self._net.transmit(now, interface, packet=packet, up=interface is not self._loopback)

    def call_at(self, at: float, callback: Callable[[float], None]) -> None:
        """Have the network call back at a time, unless it has ended by then."""
        self._net.call_at(at, callback)

    def send_datagram(
        self,
        sender: VirtualUdpSocket,
        data: bytes,
        remote: TransportAddress,
        ttl: int = DEFAULT_TTL,
        source: str | None = None,
    ) -> bool:
        """Put a datagram on its way; False when this host refuses it: too large, no route, wrong family, not ours."""
        if source is not None and not self._owns(source):
            return False
        if "%" in remote.host and is_multicast(remote.host.partition("%")[0]):
            remote = TransportAddress(remote.host.partition("%")[0], remote.port)
        way = self._way_out(source or sender.local_address.host, remote)
        if way is None or len(data) > MAX_DATAGRAM or remote.port == 0:
            return False
        source_host, interface = way
        packet = Packet(TransportAddress(source_host, sender.local_address.port), remote, data, ttl=ttl)
        now = trio.current_time()
        self._net.record(now, self.name, "send", packet)
        self._net.transmit(now, interface, packet=packet, up=interface is not self._loopback, sender=sender)
        if remote in self._groups:
            self._net.transmit(now, self._loopback, packet=packet, up=False)
        return True

    def handle_packet(self, now: float, packet: Packet, via: Interface) -> None:
        """Give a packet to the socket it is for; a closed port is answered with ICMP port unreachable."""
        quote = packet.quote
        if quote is not None:
            receiver = self._socket_at(quote.source)
            if quote.is_tcp:
                if self._tcp.handle_error(quote):
                    self._net.record(now, self.name, "deliver", packet)
            elif receiver is not None:
                self._net.record(now, self.name, "deliver", packet)
                receiver.handle_error(IcmpError(quote.destination, quote.errno, packet.source.host))
            return
        if packet.segment is not None:
            is_known = self._tcp.handle_packet(packet)
            self._net.record(now, self.name, "deliver" if is_known else "drop", packet, "" if is_known else "no stream")
            return
        if is_multicast(packet.destination.host):
            self._handle_multicast(now, packet)
            return
        receiver = self._socket_at(packet.destination) or self._member_at(packet.destination)
        if receiver is None:
            self._net.record(now, self.name, "drop", packet, "port closed")
            self._answer_unreachable(now, packet, via)
        elif receiver.handle_datagram(packet.source, packet.data, packet.destination.host):
            self._net.record(now, self.name, "deliver", packet)
        else:
            self._net.record(now, self.name, "drop", packet, "receive buffer full")

    def _handle_multicast(self, now: float, packet: Packet) -> None:
        members = self._groups.get(packet.destination, ())
        for member in members:
            member.handle_datagram(packet.source, packet.data, packet.destination.host)
        if self._published and packet.destination.port == mdns_packets.PORT:
            self._answer_names(now, packet)
        self._net.record(now, self.name, "deliver" if members else "drop", packet, "" if members else "not joined")

    def _answer_names(self, now: float, packet: Packet) -> None:
        """Answer a query for what `publish` has published, to the one who asked."""
        message = mdns_packets.parse_untrusted(packet.data)
        own = self._way_out("::" if packet.source.family == 6 else "0.0.0.0", packet.source)  # noqa: S104
        if message is None or message.is_response or own is None:
            return
        for name in dict.fromkeys(question.name for question in message.questions):
            for host in self.published(name):
                answer = mdns_packets.encode_answer(mdns_packets.Record(name, host, mdns_packets.HOST_TTL_S))
                reply = Packet(TransportAddress(own[0], mdns_packets.PORT), packet.source, answer)
                self._net.record(now, self.name, "send", reply)
                self._net.transmit(now, own[1], packet=reply, up=own[1] is not self._loopback)

    def handle_too_big(self, now: float, packet: Packet, via: Interface, mtu: int) -> None:
        """Report to the socket that its packet does not even fit into this host's own link."""
        sender = self._socket_at(packet.source)
        if packet.segment is not None:
            self._tcp.handle_error(Quote(packet.source, packet.destination, errno.EMSGSIZE, is_tcp=True, mtu=mtu))
        elif sender is not None:
            sender.handle_error(IcmpError(packet.destination, errno.EMSGSIZE))

    def forget_socket(self, closed: VirtualUdpSocket) -> None:
        """Free the address of a closed socket."""
        if self._sockets.get(closed.local_address) is closed:
            del self._sockets[closed.local_address]
        for members in self._groups.values():
            if closed in members:
                members.remove(closed)

    def _answer_unreachable(self, now: float, packet: Packet, via: Interface) -> None:
        answer = Packet(
            TransportAddress(packet.destination.host, 0),
            TransportAddress(packet.source.host, 0),
            b"",
            Quote(packet.source, packet.destination, errno.ECONNREFUSED),
        )
        self._net.record(now, self.name, "send", answer)
        self._net.transmit(now, via, packet=answer, up=via is not self._loopback)

    def _look_up(self, name: str) -> list[str]:
        """Return what the resolver of this host's network says, which behind a NAT64 is a DNS64 (RFC 6147)."""
        if name.lower().rstrip(".").endswith(".local"):
            return self._ask_neighbours(name.lower().rstrip("."))
        hosts = self._net.addresses_of(name)
        routers = [interface.router for interface in self._interfaces if interface.is_up and interface.router]
        prefix = routers[0].nat64_prefix if routers else None
        if prefix is None or any(":" in found for found in hosts):
            return hosts
        return hosts + [synthesize(prefix, found) for found in hosts]

    def _ask_neighbours(self, name: str) -> list[str]:
        """Return what those on this host's networks, itself among them, publish under a `.local` name."""
        neighbours = [self, *self._neighbours()]
        return list(dict.fromkeys(address for one in neighbours for address in one.published(name)))

    def _neighbours(self) -> list[Host]:
        interfaces = [i for i in self._interfaces if i.is_up and not i.link.is_cut and i.router is not None]
        attached = [other for i in interfaces if i.router is not None for other in i.router.attached]
        up = [other.node for other in attached if other.is_up and not other.link.is_cut]
        return [node for node in up if isinstance(node, Host) and node is not self]

    def _announce_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _owns(self, host: str) -> bool:
        return any(entry.host == host for entry in self.interfaces())

    def _socket_at(self, local: TransportAddress) -> VirtualUdpSocket | None:
        bound = self._sockets.get(local)
        if bound is not None:
            return bound
        return self._sockets.get(TransportAddress("::" if local.family == 6 else "0.0.0.0", local.port))  # noqa: S104

    def _member_at(self, local: TransportAddress) -> VirtualUdpSocket | None:
        """Return a socket of a group that is at this address of ours, too."""
        members = (member for group in self._groups.values() for member in group)
        return next((member for member in members if member.local_address == local), None)

    def _is_taken(self, wanted: TransportAddress) -> bool:
        wanted_is_wildcard = wanted.host in _WILDCARDS
        return any(
            bound.port == wanted.port
            and bound.family == wanted.family
            and (wanted_is_wildcard or bound.host == wanted.host or bound.host in _WILDCARDS)
            for bound in self._sockets
        )

    def _free_address(self, host: str) -> TransportAddress:
        first, last = EPHEMERAL_PORTS
        size = last - first + 1
        start = self._rng.randrange(size)
        for step in range(size):
            address = TransportAddress(host, first + (start + step) % size)
            if not self._is_taken(address):
                return address
        raise _os_error(errno.EADDRINUSE, f"no port is left on {self.name}")

    def _free_tcp_port(self) -> int:
        first, last = EPHEMERAL_PORTS
        taken = self._tcp.ports()
        for _ in range(last - first):
            port = self._rng.randint(first, last)
            if port not in taken:
                return port
        raise _os_error(errno.EADDRINUSE, f"no port is left on {self.name}")

    def _way_out(self, bound_host: str, remote: TransportAddress) -> tuple[str, Interface] | None:
        """Return the source address and interface of a packet to `remote`, or None when there is no way."""
        is_wildcard = bound_host in _WILDCARDS
        if (":" in bound_host) != (remote.family == 6):
            return None
        if self._owns(remote.host):
            return (remote.host if is_wildcard else bound_host), self._loopback
        if not is_wildcard:
            up = (interface for interface in self._interfaces if interface.is_up)
            return next(((bound_host, i) for i in up if i.address(remote.family) == bound_host), None)
        interface = self._default_interface(remote)
        source = interface.address(remote.family) if interface else None
        return (source, interface) if source and interface else None

    def _default_interface(self, remote: TransportAddress) -> Interface | None:
        """Return the interface on whose network `remote` is, else the first that has its family."""
        usable = [i for i in self._interfaces if i.is_up and i.address(remote.family)]
        if len(usable) > 1:
            ip = parse_ip(remote.host)
            for interface in usable:
                if interface.router is not None and interface.router.has_on_link(ip):
                    return interface
        return usable[0] if usable else None
