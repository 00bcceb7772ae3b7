"""Who gets which address: the pools that routers hand out of, and the prefixes they delegate to routers below."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain

from iceagent.errors import LocalError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# The internet's own hosts and NATs: the documentation prefixes (RFC 5737) first, since they are easy to recognise in a
# trace, then benchmarking space (RFC 2544). Routers without a NAT get their prefixes from the other half of the latter.
_PUBLIC_V4 = tuple(map(ipaddress.IPv4Network, ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "198.19.0.0/16")))
_DELEGATED_V4 = ipaddress.IPv4Network("198.18.0.0/16")
_PUBLIC_V6 = ipaddress.IPv6Network("2001:db8::/32")  # RFC 3849


@lru_cache(maxsize=4096)
def parse_ip(host: str) -> IPAddress:
    """Return the address object of a literal; remembered, because routing asks again and again."""
    return ipaddress.ip_address(host)


class AddressPlan:
    """The addresses of one family that a router hands out.

    Args:
        lans: networks whose addresses go to nodes directly attached, one after another.
        delegated: prefixes for routers below that do not translate.
    """

    def __init__(self, lans: tuple[IPNetwork, ...], delegated: Iterator[IPNetwork]) -> None:
        self.lans = lans
        self._hosts = chain.from_iterable(map(_host_addresses, lans))
        self._delegated = delegated

    def next_host(self) -> tuple[str, int]:
        """Return the next free address and its prefix length.

        Raises:
            LocalError: all are taken.
        """
        for host, prefix_length in self._hosts:
            return host, prefix_length
        raise LocalError(f"no address is left in {self.lans[-1]}: give this router a larger subnet")

    def next_prefix(self) -> IPNetwork:
        """Return the next prefix to delegate.

        Raises:
            LocalError: none is left.
        """
        for prefix in self._delegated:
            return prefix
        raise LocalError(f"no prefix is left to delegate below {self.lans[-1]}: give that router a NAT")


def internet_plan(family: int) -> AddressPlan:
    """Return the plan of the root: public addresses."""
    if family == 4:
        return AddressPlan(_PUBLIC_V4, _DELEGATED_V4.subnets(new_prefix=24))
    return _v6_plan(_PUBLIC_V6)


def plan_within(prefix: IPNetwork) -> AddressPlan:
    """Return the plan of a router that owns `prefix`: IPv4 hosts in its lower half, delegation from the upper."""
    if isinstance(prefix, ipaddress.IPv6Network):
        return _v6_plan(prefix)
    if prefix.prefixlen > 28:
        return AddressPlan((prefix,), iter(()))
    lower, upper = prefix.subnets(prefixlen_diff=1)
    return AddressPlan((lower,), upper.subnets(new_prefix=min(30, prefix.prefixlen + 4)))


def private_subnet(number: int) -> IPNetwork:
    """Return the home network of the `number`-th NAT, from 1: 192.168.1.0/24 and so on, then within 10.0.0.0/8."""
    if number < 256:
        return ipaddress.IPv4Network(f"192.168.{number}.0/24")
    high, low = divmod(number % 65536, 256)
    return ipaddress.IPv4Network(f"10.{high}.{low}.0/24")


def _v6_plan(prefix: ipaddress.IPv6Network) -> AddressPlan:
    if prefix.prefixlen >= 64:
        return AddressPlan((prefix,), iter(()))
    step = 16 if prefix.prefixlen <= 32 else 8
    lan = next(prefix.subnets(new_prefix=64))
    delegated = prefix.subnets(new_prefix=min(64, prefix.prefixlen + step))
    next(delegated)  # the first one holds the LAN
    return AddressPlan((lan,), delegated)


def _host_addresses(lan: IPNetwork) -> Iterator[tuple[str, int]]:
    return ((str(address), lan.prefixlen) for address in lan.hosts())
