"""Transport addresses: the one way an IP address and port are written everywhere in iceagent."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final, NamedTuple

_PRIVATE: Final = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class TransportAddress(NamedTuple):
    """An IP address in canonical text form and a port.

    `host` is what `str(ipaddress.ip_address(...))` prints, so equal addresses compare equal as tuples; an IPv6
    link-local address keeps its zone (`fe80::1%eth0`). IPv4-mapped IPv6 never occurs: `parse_address` unwraps it.
    """

    host: str
    port: int

    @property
    def ip(self) -> IPAddress:
        """The address part as an `ipaddress` object, with its zone if it has one."""
        return ipaddress.ip_address(self.host)

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host else 4

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def make_address(host: str, port: int) -> TransportAddress:
    """Return the canonical `TransportAddress` of an IP literal and a port.

    Args:
        host: an IPv4 or IPv6 literal, no brackets; an IPv4-mapped IPv6 address is unwrapped.
        port: 0 to 65535.
    Raises:
        ValueError: `host` is not an IP literal or `port` is out of range.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port} is not within 0 to 65535")
    ip = ipaddress.ip_address(host)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return TransportAddress(str(ip), port)


def parse_address(text: str) -> TransportAddress:
    """Return the address written as `192.0.2.1:3478` or `[2001:db8::1]:3478`.

    Raises:
        ValueError: the text is not of that form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not HOST:PORT, as in 192.0.2.1:3478 or [2001:db8::1]:3478")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"an IPv6 address needs brackets, as in [2001:db8::1]:3478, not {text!r}")
    return make_address(host, int(port))


def without_zone(address: TransportAddress) -> TransportAddress:
    """Return the address without the zone of a link-local one: zones mean nothing to the peer (RFC 4007 section 11)."""
    host, percent, _ = address.host.partition("%")
    return TransportAddress(host, address.port) if percent else address


def is_private(host: str) -> bool:
    """Return whether nobody on the internet can send to an address: it belongs to this host or a network of its own.

    RFC 1918, RFC 6598 (carriers), link-local and loopback. Python's `is_private` also holds documentation prefixes so.
    """
    address = ipaddress.ip_address(host)
    return address.is_loopback or address.is_link_local or any(address in network for network in _PRIVATE)


_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")  # RFC 4291 section 2.5.5.1
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291 section 2.5.5.2
_TRANSLATED: Final = ipaddress.IPv6Network("::ffff:0:0:0/96")  # RFC 2765 section 2.1
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
_6TO4: Final = ipaddress.IPv6Network("2002::/16")  # RFC 3056 section 2
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")  # RFC 4380 section 4
_ISATAP: Final = (0x00005EFE, 0x02005EFE)  # RFC 5214 section 6.1
_LAST_32: Final = 0xFFFFFFFF
_NOT_EMBEDDED: Final = 2  # `::` and `::1` are addresses of their own


def inner_addresses(ip: IPAddress, nat64: tuple[ipaddress.IPv6Network, ...] = ()) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the IPv4 addresses that a host or a router on the way may take `ip` for; none for IPv4 itself.

    Args:
        ip: of either family.
        nat64: prefixes of /96 that translate to IPv4 in this network, beside the well-known one.
    """
    if ip.version == 4:
        return ()
    return tuple(ipaddress.IPv4Address(number) for number in _inner(int(ip), nat64))


def _inner(number: int, nat64: tuple[ipaddress.IPv6Network, ...]) -> Iterator[int]:
    ip = ipaddress.IPv6Address(number)
    if ip in _COMPATIBLE and number >= _NOT_EMBEDDED:
        yield number
    if ip in _MAPPED or ip in _TRANSLATED or ip in _NAT64 or any(ip in prefix for prefix in nat64):
        yield number & _LAST_32
    if ip in _6TO4:
        yield number >> 80 & _LAST_32
    if ip in _TEREDO:
        yield number >> 64 & _LAST_32
        yield ~number & _LAST_32
    if number >> 32 & _LAST_32 in _ISATAP:
        yield number & _LAST_32
