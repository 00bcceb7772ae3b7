"""Transport addresses: the one way an IP address and port are written everywhere in iceagent."""

from __future__ import annotations

import ipaddress
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


def is_private(host: str) -> bool:
    """Return whether nobody on the internet can send to an address: it belongs to this host or a network of its own.

    RFC 1918, RFC 6598 (carriers), link-local and loopback. Python's `is_private` also holds documentation prefixes so.
    """
    address = ipaddress.ip_address(host)
    return address.is_loopback or address.is_link_local or any(address in network for network in _PRIVATE)
