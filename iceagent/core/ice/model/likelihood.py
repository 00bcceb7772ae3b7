"""Which pairs are likely to work, by their addresses alone; and an order of checks that follows from it.

RFC 8445 orders checks by priority, host pairs first. So two laptops with container bridges, VPNs and several IPv6
addresses try twenty dead pairs before the one that works. Priority says which of two *working* pairs is better; the
order of the checks may be another one, which deviates from section 6.1.4.2. The figures
behind it are in docs/timing.md.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache

from iceagent.core.ice.model.pair import PairFacts


class Likelihood(IntEnum):
    """How likely it is that a pair works; the same on both sides, up to the NATs between."""

    UNLIKELY = 0
    """An inside address that is not of a network of ours, or an address that we have ourselves."""
    PUBLIC = 1
    """From anywhere to a public IPv4 address, or between public IPv6 addresses."""
    NEAR = 2
    """Two addresses of one network."""


_INSIDE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",  # RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # RFC 6598: behind a carrier's NAT
        "169.254.0.0/16",  # RFC 3927
        "127.0.0.0/8",
        "fc00::/7",  # RFC 4193
        "fe80::/10",
        "::1/128",
    )
)
_NEAR_BITS = {4: 24, 6: 64}  # ours: prefix lengths are not signalled; these are what LANs have


@lru_cache(maxsize=4096)
def likelihood(local_host: str, remote_host: str) -> Likelihood:
    """Say how likely packets from the local base get to the remote address.

    Args:
        local_host: IP literal of the base, perhaps with a zone.
        remote_host: IP literal, of the same family.
    """
    ours, theirs = (ipaddress.ip_address(host.partition("%")[0]) for host in (local_host, remote_host))
    if ours == theirs:
        # A bridge of the same make on both machines, or both behind one NAT that may not hairpin; loopback does work.
        return Likelihood.NEAR if ours.is_loopback else Likelihood.UNLIKELY
    shift = ours.max_prefixlen - _NEAR_BITS[ours.version]
    if int(ours) >> shift == int(theirs) >> shift:
        return Likelihood.NEAR
    if is_inside(remote_host) or (ours.version == 6 and is_inside(local_host)):
        return Likelihood.UNLIKELY
    return Likelihood.PUBLIC


@lru_cache(maxsize=4096)
def is_inside(host: str) -> bool:
    """Whether an address means something in its own network only. Documentation prefixes count as public."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    return any(ip in network for network in _INSIDE if network.version == ip.version)


def of_pair(pair: PairFacts) -> Likelihood:
    """Say how likely a pair is to work; one that the peer was heard on is likely whatever its addresses."""
    return Likelihood.NEAR if pair.heard else likelihood(pair.path[0].host, pair.path[1].host)


def by_likelihood(pairs: Iterable[PairFacts]) -> list[PairFacts]:
    """Return pairs: UDP before TCP (RFC 6544 section 4.2), then likely ones first, then by priority."""
    return sorted(pairs, key=lambda pair: (pair.local.transport == "tcp", -of_pair(pair), -pair.priority))
