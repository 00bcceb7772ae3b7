"""Who is asking, and how much: sources and their budgets. Sans-IO.

A source is an IPv4 address or an IPv6 /64. Source: docs/relay-protocol.md section 10.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
UNKNOWN_SOURCE = "unknown"


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `burst` at once, then `per_s` for each second."""

    burst: float
    per_s: float

    def bucket(self, now: float) -> Bucket:
        """Return a full one."""
        return Bucket(self, self.burst, now)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a relay bears. Source: docs/relay-protocol.md section 10."""

    max_connections: int = 4_096
    max_connections_per_source: int = 64
    connections: Rate = Rate(100, 5)
    joins: Rate = Rate(100, 0.5)
    messages: Rate = Rate(1_000, 100)
    bytes: Rate = Rate(4 << 20, 512 << 10)
    failed_join_cost: float = 5.0
    header_timeout_s: float = 10.0
    first_frame_s: float = 30.0
    malformed_frames: int = 10
    max_sources: int = 10_000


def source_of(host: str) -> str:
    """Return what a peer address counts as; IPv4-mapped IPv6 as IPv4, other IPv6 as its /64."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return UNKNOWN_SOURCE
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


def parse_networks(texts: Sequence[str]) -> tuple[IPNetwork, ...]:
    """Return the networks of configured proxies.

    Raises:
        ValueError: one of them is no address or network; a relay must not start with it.
    """
    return tuple(ipaddress.ip_network(text) for text in texts)


def is_within(host: str, networks: Sequence[IPNetwork]) -> bool:
    """Return whether an address belongs to one of the networks."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


@dataclass(slots=True)
class Bucket:
    """The state of one token bucket."""

    rate: Rate
    tokens: float
    at: float

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Pay `cost`; return False, paying nothing, when there is less."""
        self.tokens = min(self.rate.burst, self.tokens + (now - self.at) * self.rate.per_s)
        self.at = now
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def charge(self, now: float, cost: float) -> None:
        """Pay `cost` even if that leaves a debt, of at most one burst."""
        self.take(now, 0.0)
        self.tokens = max(-self.rate.burst, self.tokens - cost)


@dataclass(slots=True)
class Source:
    """The budgets of one source and its open connections."""

    name: str
    connections: Bucket
    joins: Bucket
    messages: Bucket
    bytes: Bucket
    open_connections: int = 0

    @contextmanager
    def hold(self) -> Generator[None, None, None]:
        """Count one open connection while the block lasts."""
        self.open_connections += 1
        try:
            yield
        finally:
            self.open_connections -= 1


@dataclass(slots=True)
class SourceTable:
    """All sources of late, the least recent forgotten first, but never one that has open connections."""

    limits: Limits
    _sources: OrderedDict[str, Source] = field(default_factory=OrderedDict[str, Source])

    def __len__(self) -> int:
        return len(self._sources)

    def get(self, now: float, name: str) -> Source:
        """Return the source of this name, new with full budgets."""
        source = self._sources.get(name)
        if source is None:
            limits = self.limits
            source = Source(
                name=name,
                connections=limits.connections.bucket(now),
                joins=limits.joins.bucket(now),
                messages=limits.messages.bucket(now),
                bytes=limits.bytes.bucket(now),
            )
            self._forget_one()
            self._sources[name] = source
        self._sources.move_to_end(name)
        return source

    def _forget_one(self) -> None:
        if len(self._sources) < self.limits.max_sources:
            return
        # Sources with open connections are at most `max_connections`, which bounds both this search and the table.
        idle = next((name for name, source in self._sources.items() if source.open_connections == 0), None)
        if idle is not None:
            del self._sources[idle]
