"""The IPv4 address that is embedded in an IPv6 one, in any known form: a packet sent there may end up at it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from iceagent.core.address import IPAddress

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
