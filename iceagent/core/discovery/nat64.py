"""IPv4-embedded IPv6 addresses (RFC 6052), and how a network's prefix is learned (RFC 7050)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

WELL_KNOWN_NAME: Final = "ipv4only.arpa"  # RFC 7050 section 8.1
WELL_KNOWN_ADDRESSES: Final = frozenset(  # RFC 7050 section 8.2
    (ipaddress.IPv4Address("192.0.0.170"), ipaddress.IPv4Address("192.0.0.171"))
)
WELL_KNOWN_PREFIX: Final = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
PREFIX_LENGTHS: Final = (96, 64, 56, 48, 40, 32)  # RFC 6052 section 2.2

_PLAUSIBLE: Final = tuple(  # where packets may be routed to a translator: RFC 6052, RFC 8215, global and unique local
    map(ipaddress.IPv6Network, ("64:ff9b::/32", "2000::/3", "fc00::/7"))
)
_RESERVED_OCTET: Final = 8  # RFC 6052 section 2.2: bits 64 to 71 are zero
_NEVER: Final = tuple(map(ipaddress.IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
_NOT_GLOBAL: Final = tuple(
    map(ipaddress.IPv4Network, ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"))
)


def find_prefix(addresses: Iterable[str]) -> ipaddress.IPv6Network | None:
    """Return the prefix under which a network's DNS64 hides the addresses of `WELL_KNOWN_NAME`; None if it does not.

    Args:
        addresses: the AAAA records of that name; anything else among them is passed over, and so are those that no
            translator can have: a resolver may lie, and some answer with IPv4-mapped addresses (`::ffff:192.0.0.170`).

    Source: RFC 7050 section 3.
    """
    for text in addresses:
        try:
            ip = ipaddress.IPv6Address(text)
        except ValueError:
            continue
        if not any(ip in network for network in _PLAUSIBLE):
            continue
        for length in PREFIX_LENGTHS:
            prefix = ipaddress.IPv6Network((int(ip) >> (128 - length) << (128 - length), length))
            if extract(prefix, ip) in WELL_KNOWN_ADDRESSES and ip.packed[_RESERVED_OCTET] == 0:
                return prefix
    return None


def synthesize(prefix: ipaddress.IPv6Network, host: str) -> str | None:
    """Return the IPv6 address that stands for an IPv4 one; None for what no NAT64 may forward.

    Those are loopback, link-local and the like, and under the well-known prefix all private addresses, too
    (RFC 6052 section 3.1).

    Raises:
        ValueError: `host` is no IPv4 address.
    """
    ip = ipaddress.IPv4Address(host)
    forbidden = _NEVER + (_NOT_GLOBAL if prefix == WELL_KNOWN_PREFIX else ())
    if any(ip in network for network in forbidden):
        return None
    octets = bytearray(prefix.network_address.packed)
    for at, octet in zip(_places(prefix), ip.packed, strict=True):
        octets[at] = octet
    return str(ipaddress.IPv6Address(bytes(octets)))


def extract(prefix: ipaddress.IPv6Network, ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address:
    """Return the IPv4 address within an address of a prefix of one of `PREFIX_LENGTHS`."""
    return ipaddress.IPv4Address(bytes(ip.packed[at] for at in _places(prefix)))


def _places(prefix: ipaddress.IPv6Network) -> tuple[int, ...]:
    """Return which octets carry the IPv4 address."""
    first = prefix.prefixlen // 8
    return tuple(at for at in range(first, 16) if at != _RESERVED_OCTET or first == 12)[:4]
