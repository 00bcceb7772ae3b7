"""What the agent needs of a network: the interface of real sockets (`net.system`) and virtual ones (`vnet`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar, runtime_checkable

import trio

from iceagent.core.address import TransportAddress
from iceagent.net.batch import Batch
from iceagent.net.tasks import PerRun

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class IcmpError:
    """An ICMP error: a datagram to `remote` did not arrive; `errno` as the system reports it.

    `reporter` is the address of the router or host that says so, where the system reports it.
    """

    remote: TransportAddress
    errno: int
    reporter: str | None = field(default=None, compare=False)


INTERNET: Final = 2
GATEWAY: Final = 1


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of one network interface.

    Attributes:
        name: the interface's.
        host: an IP literal, with zone if link-local.
        prefix_length: bits of its network.
        is_loopback: whether it leads nowhere but into this machine.
        is_link_local: whether it is of use on its link only.
        is_temporary: whether it is one of those that change, so that nobody is followed by his address (RFC 8981).
        is_deprecated: whether new connections should not use it where another will do (RFC 4862 section 5.5.4).
        route_use: what the routing table uses it for: `INTERNET` if packets to the internet leave from it, `GATEWAY`
            if a route through some gateway leads over its interface, else 0; not compared.
    """

    name: str
    host: str
    prefix_length: int
    is_loopback: bool = False
    is_link_local: bool = False
    is_temporary: bool = False
    is_deprecated: bool = False
    route_use: int = field(default=0, compare=False)


@dataclass(slots=True)
class SocketStatistics:
    """What a UDP socket has counted since it was opened."""

    datagrams_sent: int = 0
    bytes_sent: int = 0
    datagrams_received: int = 0
    bytes_received: int = 0
    send_calls: int = 0
    receive_calls: int = 0
    send_errors: int = 0
    icmp_errors: int = 0


class UdpSocket(Protocol):
    """A bound UDP socket that moves batches. One task receives; any task may send."""

    @property
    def local_address(self) -> TransportAddress:
        """The bound address; a wildcard bind shows `0.0.0.0` or `::`."""
        ...

    async def receive(self) -> list[Batch]:
        """Wait until something arrived, then return all that is at hand (bounded), oldest first.

        The list is empty when only ICMP errors arrived: see `take_errors`. Consecutive batches may share a remote.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        ...

    def take_errors(self) -> list[IcmpError]:
        """Return and forget the ICMP errors that arrived; a bounded list, oldest dropped first."""
        ...

    def send_nowait(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> int:
        """Send as many of `datagrams` as the socket takes at once; return how many (0 to len).

        A datagram that the network refuses (unreachable, too large) counts as sent: UDP promises nothing; it is
        counted in `statistics().send_errors`.

        Args:
            datagrams: in order.
            remote: where to.
            source: which of our addresses to send from, as in `Batch.local`; None leaves it to the system. It matters
                to sockets that are bound to a wildcard; others have but one address.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        ...

    async def send(self, datagrams: Sequence[bytes], remote: TransportAddress, *, source: str | None = None) -> None:
        """Send all, waiting while the socket's buffer is full. A checkpoint in any case. `source`: see `send_nowait`.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        ...

    def statistics(self) -> SocketStatistics:
        """Return the counters (live object, do not change)."""
        ...

    def close(self) -> None:
        """Close at once; pending `receive` and `send` raise `trio.ClosedResourceError`. Idempotent."""
        ...


@runtime_checkable
class LimitsHops(Protocol):
    """A UDP socket that can bound how far one datagram gets: those of the system and of the virtual network."""

    def send_limited(self, datagram: bytes, remote: TransportAddress, ttl: int) -> bool:
        """Send one datagram that passes at most `ttl - 1` routers (IPv4 TTL, IPv6 hop limit; 1 to 255).

        Returns:
            Whether the socket took it; as with `send_nowait`, what the network refuses counts as sent.

        Raises:
            trio.ClosedResourceError: the socket was closed here.
        """
        ...


class Network(Protocol):
    """A host's view of its network: `iceagent.net.SystemNetwork` is real, `iceagent.vnet.Host` virtual."""

    def interfaces(self) -> list[InterfaceAddress]:
        """Return the addresses of all interfaces that are up, loopback included."""
        ...

    async def open_udp(self, host: str, port: int = 0) -> UdpSocket:
        """Bind a UDP socket.

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        ...

    async def resolve(self, host: str, port: int, *, family: int | None = None) -> list[TransportAddress]:
        """Return the addresses of a name (or of an IP literal, at once), best first; `family` is 4, 6 or None for both.

        Raises:
            OSError: the name has none.
        """
        ...

    async def connect_tcp(
        self, remote: TransportAddress, *, local_host: str | None = None, local_port: int = 0
    ) -> trio.abc.HalfCloseableStream:
        """Connect a TCP stream; `local_host` is the local address to use, None leaves it to the system.

        A `local_port` other than 0 may be that of a listener with `share_port`, and of other connections. Where the
        peer connects from there to here at the same time, both get the same connection (RFC 9293 section 3.5).

        Raises:
            OSError: nobody listens there, or no way leads there.
        """
        ...

    async def listen_tcp(
        self, host: str, port: int = 0, *, share_port: bool = False
    ) -> trio.abc.Listener[trio.abc.HalfCloseableStream]:
        """Listen for TCP connections; with `share_port` the port may also be connected from.

        Raises:
            OSError: the address is not ours or the port is taken.
        """
        ...


@runtime_checkable
class RealHost(Protocol):
    """A network that is this machine's own, with its kernel, its other programs, and all agents of this one.

    `SystemNetwork` is one, and so is what stands before it and passes `shared` on; the virtual network's hosts, of
    which a program has many, are not. What the system alone can do (report changes and sleep, bind to try whose an
    address is, DTLS, UPnP) is done where a network is one.
    """

    def shared(self, value: PerRun[T]) -> T:
        """Return what all agents of the machine have in common, as far as they are in this Trio run."""
        ...


@runtime_checkable
class HasDescriptor(UdpSocket, Protocol):
    """A UDP socket of the system: one task may wait for many of them."""

    @property
    def tells_local(self) -> bool:
        """Whether the system reports to which address a datagram came to, at a socket bound to a wildcard."""
        ...

    def fileno(self) -> int:
        """Return the descriptor; -1 once closed."""
        ...

    def receive_nowait(self, calls: int) -> list[Batch]:
        """Return what is at hand, by so many system calls at most."""
        ...


@runtime_checkable
class SetsFragments(Protocol):
    """A UDP socket that can let its datagrams be cut on the way, or forbid it (the DF bit)."""

    def allow_fragments(self) -> None:
        """Let routers cut what is too large for the way."""
        ...

    def forbid_fragments(self) -> None:
        """Have it refused instead."""
        ...


@runtime_checkable
class OpensMulticast(Protocol):
    """A network in which groups can be joined, as mDNS wants; not each has that."""

    async def open_multicast(self, group: str, port: int, host: str) -> UdpSocket:
        """Join a group on the link of one of our addresses, and share the port with others on this machine.

        The socket receives what anyone on that link, this machine included, sends to the group, and sends there with
        a TTL of 255.

        Args:
            group: an IPv4 or IPv6 multicast address.
            port: of the group.
            host: our address, of the same family, with zone if link-local.

        Raises:
            OSError: the address is not ours, or the system refuses.
        """
        ...
