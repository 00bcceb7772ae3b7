"""Which addresses may be those of a candidate at all, and which two of them of a pair."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final

from iceagent.core.address import IPAddress

_NO_HOST: Final = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # RFC 1122 section 3.2.1.3: this host on this network; many systems take it for themselves
        "224.0.0.0/4",  # RFC 5771: groups
        "240.0.0.0/4",  # RFC 1112 section 4: reserved, and the limited broadcast address
        "::/128",  # RFC 4291 section 2.5.2: unspecified
        "::/96",  # RFC 4291 section 2.5.5.1: IPv4-compatible, RFC 8445 section 5.1.1.1 MUST NOT; but for ::1
        "::ffff:0:0/96",  # RFC 4291 section 2.5.5.2: IPv4-mapped; where it means IPv4 it has been unwrapped
        "fec0::/10",  # RFC 3879: site-local, RFC 8445 section 5.1.1.1 MUST NOT
        "ff00::/8",  # RFC 4291 section 2.7: groups
    )
)


@lru_cache(maxsize=4096)
def is_usable(host: str) -> bool:
    """Whether one host can have an address, so that it may be a candidate's: of ours, of the peer's or reflexive.

    Args:
        host: IP literal, perhaps with a zone.
    """
    ip = _parse(host)
    return ip.is_loopback or not any(ip in network for network in _NO_HOST if network.version == ip.version)


@lru_cache(maxsize=4096)
def can_reach(ours: str, theirs: str) -> bool:
    """Whether packets from one address may go to another: of one family, and of one scope.

    IPv6 link-local addresses are paired only with their kind (RFC 8445 section 6.1.2.2). So are IPv4 ones and loopback:
    a peer elsewhere could otherwise make us probe our own services, or those that clouds have at 169.254.169.254.

    Args:
        ours: IP literal of a base, perhaps with a zone.
        theirs: IP literal of a remote candidate, or of where a check came from.
    """
    here, there = _parse(ours), _parse(theirs)
    scopes = ((ip.version, ip.is_loopback, ip.is_link_local) for ip in (here, there))
    return len(set(scopes)) == 1


def _parse(host: str) -> IPAddress:
    return ipaddress.ip_address(host.partition("%")[0])
