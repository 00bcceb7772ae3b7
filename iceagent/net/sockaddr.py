"""Converts between the system's socket addresses and `TransportAddress`, with a cache because every packet needs it."""

from __future__ import annotations

import socket
from typing import TypeVar

from iceagent.core.address import TransportAddress, make_address

SockAddr = tuple[str, int] | tuple[str, int, int, int]

MAX_REMEMBERED = 4096
"""Peers remembered per socket and direction; a flood of forged sources costs conversions, not memory."""

MAX_INDEX = 2**31 - 1  # RFC 3493 section 3.3: sin6_scope_id has 32 bits; an interface's number is a positive int

_K = TypeVar("_K")
_V = TypeVar("_V")


def zone_index(zone: str) -> int:
    """Return the interface index of an IPv6 zone, given by name or as a number.

    Raises:
        OSError: no interface has that name, nor can have that number.
    """
    try:
        index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except ValueError as error:
        raise OSError(f"{zone[:20]!r} names no interface: {error}") from None
    if index > MAX_INDEX:
        raise OSError(f"{zone[:20]!r} names no interface: its number is too large")
    return index


def zone_name(index: int) -> str:
    """Return the interface name of a zone, or the number as text if the interface is gone."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def bind_sockaddr(host: str, port: int) -> tuple[int, SockAddr]:
    """Return the address family and the socket address of an IP literal, with its zone if it has one.

    Raises:
        ValueError: `host` is not an IP literal.
        OSError: its zone does not exist.
    """
    address = make_address(host, port)
    if address.family == 4:
        return socket.AF_INET, (address.host, port)
    bare, _, zone = address.host.partition("%")
    return socket.AF_INET6, (bare, port, 0, zone_index(zone) if zone else 0)


class AddressBook:
    """The peers of one socket in both notations.

    A socket that is bound to a link-local address lies in one zone, so the zones of its peers are left out: the same
    peer then has the same address here and in its own candidates, which cannot know our zone names.
    """

    def __init__(self, local: SockAddr) -> None:
        self._ipv6 = len(local) == 4
        self._scope = local[3] if len(local) == 4 else 0
        self._sockaddrs: dict[TransportAddress, SockAddr] = {}
        self._addresses: dict[SockAddr, TransportAddress] = {}

    def sockaddr(self, remote: TransportAddress) -> SockAddr:
        """Return what `socket.sendto` wants for `remote`.

        Raises:
            OSError: the zone of `remote` does not exist.
        """
        found = self._sockaddrs.get(remote)
        return found if found is not None else _remember(self._sockaddrs, remote, self._make_sockaddr(remote))

    def address(self, source: SockAddr) -> TransportAddress:
        """Return the canonical address of what `socket.recvfrom` gave."""
        found = self._addresses.get(source)
        return found if found is not None else _remember(self._addresses, source, self._make_address(source))

    def _make_sockaddr(self, remote: TransportAddress) -> SockAddr:
        if not self._ipv6 or remote.family == 4:
            return (remote.host, remote.port)
        bare, _, zone = remote.host.partition("%")
        return (bare, remote.port, 0, zone_index(zone) if zone else self._scope)

    def _make_address(self, source: SockAddr) -> TransportAddress:
        if len(source) == 2:
            return TransportAddress(source[0], source[1])
        host, port, _flow, scope = source
        bare = host.partition("%")[0]
        if scope and scope != self._scope:
            return make_address(f"{bare}%{zone_name(scope)}", port)
        return make_address(bare, port)


def local_address(sock: socket.socket) -> TransportAddress:
    """Return the bound address of a UDP socket; a link-local one shows its zone."""
    name: SockAddr = sock.getsockname()
    if len(name) == 2:
        return TransportAddress(name[0], name[1])
    bare = name[0].partition("%")[0]
    return make_address(f"{bare}%{zone_name(name[3])}" if name[3] else bare, name[1])


def _remember(book: dict[_K, _V], key: _K, value: _V) -> _V:
    if len(book) >= MAX_REMEMBERED:
        del book[next(iter(book))]
    book[key] = value
    return value
