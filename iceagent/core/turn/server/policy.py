"""Whom a relay may talk to. Everything that is not plainly a host of the public Internet is denied unless allowed."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

from iceagent.core.address import IPAddress, TransportAddress, inner_addresses
from iceagent.errors import LocalError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA special-purpose registries (RFC 6890 and its successors). `ipaddress.is_global` is no deny list: it is true
# for multicast, for ::127.0.0.1 and for what 6to4, Teredo and NAT64 wrap.
_DENIED_IPV4: Final = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 "
    "192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 "
    "203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
)
_DENIED_IPV6: Final = (
    "::/3 64:ff9b:1::/48 2001::/23 2001:db8::/32 2620:4f:8000::/48 3fff::/20 "
    "4000::/2 8000::/1"  # unassigned, unique local, link-local, site-local and multicast
)
_NEVER: Final[tuple[IPNetwork, ...]] = tuple(
    map(ipaddress.ip_network, ("0.0.0.0/8", "224.0.0.0/4", "255.255.255.255/32", "::/128", "ff00::/8"))
)
"""Denied whatever is allowed: a kernel takes 0.0.0.0 for itself, and the others are not hosts."""
_LOOPBACK: Final[tuple[IPNetwork, ...]] = tuple(map(ipaddress.ip_network, ("127.0.0.0/8", "::1/128")))
_WELL_KNOWN_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_TEREDO: Final = ipaddress.IPv6Network("2001::/32")
_WRAPPERS: Final = (_WELL_KNOWN_NAT64, _TEREDO)
_DENIED: Final[tuple[IPNetwork, ...]] = tuple(
    ipaddress.ip_network(text) for text in f"{_DENIED_IPV4} {_DENIED_IPV6}".split()
)


class PolicyError(LocalError):
    """A peer rule that is no network. A server does not start with one: half a deny list is none."""


def parse_networks(rules: Iterable[str]) -> tuple[IPNetwork, ...]:
    """Return networks as they stand in a configuration: `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.1`.

    Raises:
        PolicyError: a rule is malformed, has bits set beyond its prefix, or is an IPv4-mapped IPv6 network.
    """
    return tuple(map(_parse_network, rules))


def _parse_network(rule: str) -> IPNetwork:
    try:
        network = ipaddress.ip_network(rule.strip())
    except ValueError as error:
        raise PolicyError(f"the peer rule {rule!r} is no network such as 10.0.0.0/8: {error}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise PolicyError(f"the peer rule {rule!r} wraps IPv4 in IPv6; write the IPv4 network itself")
    return network


class PeerPolicy:
    """Decides about peer addresses, for CreatePermission, ChannelBind, Send and Connect alike.

    Addresses that wrap IPv4 (mapped, compatible, translated, 6to4, Teredo, NAT64, ISATAP) are reduced to the IPv4
    address first, and that must be allowed, too. The server's own addresses are peers only where a relayed address
    of the server is meant: those are other clients, and nothing else of the machine can be reached through them.

    Args:
        allow: networks that the defaults deny and that peers may live in all the same.
        deny: networks denied whatever `allow` says.
        own: IP literals of this server, the announced ones included, until `set_own` names others.
        is_here: returns whether an IP literal is an address of this machine now, for those that `own` does not name:
            between two calls of `set_own` addresses come, too.
        loopback: whether loopback addresses are peers; only for a server that listens at loopback.
        relay_only: whether peers are only relayed addresses of this server.
        nat64: prefixes (/96) that this network translates to IPv4.

    Raises:
        PolicyError: a rule is malformed.
    """

    def __init__(
        self,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        own: Iterable[str] = (),
        is_here: Callable[[str], bool] = lambda _: False,
        loopback: bool = False,
        relay_only: bool = False,
        nat64: Sequence[str] = (),
    ) -> None:
        allowed = parse_networks(allow)
        if not loopback and any(network.is_loopback for network in allowed):
            raise PolicyError("loopback peers need a server that listens at loopback: --insecure-dev")
        self._allowed = (*allowed, *(_LOOPBACK if loopback else ()))
        self._denied = (*parse_networks(deny), *_NEVER, *(() if loopback else _LOOPBACK))
        self._loopback = loopback
        self._is_here = is_here
        self._relay_only = relay_only
        self._nat64 = _parse_nat64(nat64)
        self._is_host_allowed = lru_cache(maxsize=4096)(self._judge)
        self._own: frozenset[str] = frozenset()
        self.set_own(own)

    def set_own(self, own: Iterable[str]) -> frozenset[str]:
        """Take note of what addresses this server has from now on, IP literals; return those that are new."""
        hosts = {host.partition("%")[0] for host in own}
        before = self._own
        self._own = frozenset(host for host in hosts if not (self._loopback and ipaddress.ip_address(host).is_loopback))
        if self._own != before:
            self._is_host_allowed.cache_clear()
        return self._own - before

    def is_own(self, host: str) -> bool:
        """Return whether an address is one of this server's."""
        return host in self._own

    def allows(self, peer: TransportAddress, is_relayed: Callable[[TransportAddress], bool]) -> bool:
        """Return whether `peer` may be one.

        Args:
            peer: where the client wants to send to.
            is_relayed: returns whether an address is a relayed one of this server at this moment.
        """
        return self.still_allows(peer, is_relayed) and (peer.host in self._own or not self._has_come(peer.host))

    def still_allows(self, peer: TransportAddress, is_relayed: Callable[[TransportAddress], bool]) -> bool:
        """Return the same of a peer that has a permission, for each datagram: the system is not asked again."""
        host = peer.host
        if host in self._own:
            return is_relayed(peer) and not _is_within(ipaddress.ip_address(host), self._denied)
        if self._relay_only:
            return peer.port != 0 and is_relayed(peer)
        return self._is_host_allowed(host)

    def _has_come(self, host: str) -> bool:
        """Return whether an address is this machine's, although it was not reported yet."""
        if self._loopback and ipaddress.ip_address(host).is_loopback:
            return False
        inner = inner_addresses(ipaddress.ip_address(host), self._nat64)
        return any(self._is_here(one) for one in (host, *map(str, inner)))

    def _judge(self, host: str) -> bool:
        if "%" in host:  # a zone is a link of this machine
            return False
        ip = ipaddress.ip_address(host)
        if _is_within(ip, (_LOCAL_NAT64,)) and not _is_within(ip, self._nat64):
            return False  # where the IPv4 address is in there depends on the network; see `nat64`
        inner = inner_addresses(ip, self._nat64)
        if any(str(one) in self._own or not self._is_plain_allowed(one) for one in inner):
            return False
        return self._is_plain_allowed(ip)

    def _is_plain_allowed(self, ip: IPAddress) -> bool:
        if _is_within(ip, self._denied):
            return False
        if _is_within(ip, self._allowed) or _is_within(ip, (*_WRAPPERS, *self._nat64)):
            return True  # for wrapped addresses the inner one decides
        return not _is_within(ip, _DENIED)


def _is_within(ip: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(ip.version == network.version and ip in network for network in networks)


def _parse_nat64(rules: Sequence[str]) -> tuple[ipaddress.IPv6Network, ...]:
    networks = parse_networks(rules)
    prefixes = tuple(network for network in networks if isinstance(network, ipaddress.IPv6Network))
    if len(prefixes) != len(networks) or any(network.prefixlen != 96 for network in prefixes):
        raise PolicyError("a NAT64 prefix is an IPv6 network of 96 bits, as in 64:ff9b::/96")
    return prefixes
