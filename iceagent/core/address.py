"""Transport addresses: the one way an IP address and port are written everywhere in iceagent."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

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
