"""Who is asking, and how much: sources, the networks they are in, and their budgets. Sans-IO.

A source is an IPv4 address or an IPv6 /64. Who has one IPv6 /64 mostly has a whole /56 or /48, so these count, too,
and the /24 of an IPv4 address; with larger budgets, since they may hold other users as well.
Source: docs/relay-protocol.md section 10.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from icesignal.expect import expect, expect_fields

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Kind = Literal["connections", "joins", "claims", "dear_claims", "doubts", "messages", "bytes"]
Levels = tuple[tuple[str, float], ...]
"""A source and the networks around it, by name, each with how many times the budgets of one source it has."""
UNKNOWN_SOURCE = "unknown"
# The networks around a source, by prefix length, and how many times its budgets they have. A /56 is what providers give
# a home, a /48 a site (RFC 6177); an IPv4 /24 is the smallest network that is routed.
IPV6_NETWORKS = ((56, 2.0), (48, 4.0))
IPV4_NETWORKS = ((24, 8.0),)


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: `burst` at once, then `per_s` for each second."""

    burst: float
    per_s: float

    def __post_init__(self) -> None:
        """Raise TypeError where a field is of another type."""
        expect(float, burst=self.burst, per_s=self.per_s)

    def scaled(self, factor: float) -> Rate:
        """Return one that is so many times as generous."""
        return Rate(self.burst * factor, self.per_s * factor)

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
    claims: Rate = Rate(10, 0.1)
    dear_claims: Rate = Rate(10, 0.5)
    doubts: Rate = Rate(2, 0.0167)
    messages: Rate = Rate(1_000, 100)
    bytes: Rate = Rate(4 << 20, 512 << 10)
    failed_join_cost: float = 5.0
    work_from_guesses: float = 8.0
    work_from_load: float = 0.75
    work_tries: int = 2_048
    dear_tries: int = 8_192
    header_timeout_s: float = 10.0
    first_frame_s: float = 30.0
    malformed_frames: int = 10
    max_sources: int = 10_000

    def __post_init__(self) -> None:
        """Raise TypeError where a field is of another type."""
        expect_fields(self)


def source_of(host: str) -> str:
    """Return what a peer address counts as; IPv4-mapped IPv6 as IPv4, other IPv6 as its /64."""
    return levels_of(host)[0][0]


def levels_of(host: str) -> Levels:
    """Return the source of a peer address and the networks around it, each with the scale of its budgets."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ((UNKNOWN_SOURCE, 1.0),)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    is_ipv4 = isinstance(address, ipaddress.IPv4Address)
    source = str(address) if is_ipv4 else _around(address, 64)
    networks: tuple[tuple[int, float], ...] = IPV4_NETWORKS if is_ipv4 else IPV6_NETWORKS
    return ((source, 1.0), *((_around(address, prefix), scale) for prefix, scale in networks))


def _around(address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> str:
    """Return the network of an address, as `ipaddress` spells it, which takes five times as long for it."""
    size = address.max_prefixlen - prefix
    return f"{type(address)(int(address) >> size << size)}/{prefix}"


def parse_networks(texts: Sequence[str]) -> tuple[IPNetwork, ...]:
    """Return the networks of configured proxies.

    Raises:
        ValueError: one of them is no address or network; a relay must not start with it.
    """
    return tuple(ipaddress.ip_network(text) for text in texts)


def is_within(host: str, networks: Sequence[IPNetwork]) -> bool:
    """Return whether an address belongs to one of the networks."""
    if not networks:
        return False
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)


@dataclass(frozen=True, slots=True)
class Charge:
    """What is to be paid from one kind of budget at every level; a negative cost gives back.

    `is_needed`: without it nothing is paid at all; else what cannot be paid is left out.
    """

    kind: Kind
    cost: float
    rate: Rate
    is_needed: bool = True


@dataclass(frozen=True, slots=True)
class Balance:
    """What became of charges at budgets that several nodes share: what each is left with, by level, then by charge."""

    is_paid: bool
    left: tuple[tuple[float, ...], ...]


@dataclass(slots=True)
class Bucket:
    """The state of one token bucket."""

    rate: Rate
    tokens: float
    at: float

    def has(self, now: float, cost: float = 1.0) -> bool:
        """Return whether `cost` could be paid."""
        self.tokens = min(self.rate.burst, self.tokens + (now - self.at) * self.rate.per_s)
        self.at = now
        return self.tokens >= cost

    def take(self, now: float, cost: float = 1.0) -> bool:
        """Pay `cost`; return False, paying nothing, when there is less."""
        if not self.has(now, cost):
            return False
        self.tokens -= cost
        return True

    def charge(self, now: float, cost: float) -> None:
        """Pay `cost` even if that leaves a debt, of at most one burst; a negative one gives back."""
        self.has(now, 0.0)
        self.tokens = min(self.rate.burst, max(-self.rate.burst, self.tokens - cost))


@dataclass(slots=True)
class SourceBudget:
    """The budgets of one source, or of one network of sources, and its open connections."""

    buckets: dict[Kind, Bucket]
    max_connections: int
    open_connections: int = 0


@dataclass(frozen=True, slots=True)
class Party:
    """Who is connected: a source and the networks it is in. What it does, all of them pay for, or none."""

    levels: Levels
    sources: tuple[SourceBudget, ...]

    @property
    def name(self) -> str:
        """The source alone."""
        return self.levels[0][0]

    @property
    def is_full(self) -> bool:
        """Whether one of them has as many connections as it may have."""
        return any(source.open_connections >= source.max_connections for source in self.sources)

    def take(self, kind: Kind, now: float, cost: float = 1.0) -> bool:
        """Pay `cost` at every level; return False, paying nothing, when one of them has less."""
        if not self.has(kind, now, cost):
            return False
        self.charge(kind, now, cost)
        return True

    def has(self, kind: Kind, now: float, cost: float = 1.0) -> bool:
        """Return whether `cost` could be paid at every level."""
        return all(source.buckets[kind].has(now, cost) for source in self.sources)

    def used(self, kind: Kind, now: float) -> float:
        """Return how much the source alone has paid of late, that has not come back to it yet."""
        bucket = self.sources[0].buckets[kind]
        bucket.has(now, 0.0)
        return bucket.rate.burst - bucket.tokens

    def charge(self, kind: Kind, now: float, cost: float) -> None:
        """Pay `cost` at every level even if that leaves debts; a negative one gives back."""
        for source in self.sources:
            source.buckets[kind].charge(now, cost)

    def adopt(self, now: float, charges: Sequence[Charge], balance: Balance) -> None:
        """Take over what is left at all nodes together, where that is less; infinity where it is not known."""
        for source, left in zip(self.sources, balance.left, strict=True):
            for charge, tokens in zip(charges, left, strict=True):
                bucket = source.buckets[charge.kind]
                bucket.has(now, 0.0)
                bucket.tokens = min(bucket.tokens, tokens)

    def count_connections(self, number: int) -> None:
        """Count so many more open connections at every level, or fewer if negative."""
        for source in self.sources:
            source.open_connections += number


@dataclass(slots=True)
class SourceTable:
    """All sources of late, the least recent forgotten first, but never one that has open connections."""

    limits: Limits
    _sources: OrderedDict[str, SourceBudget] = field(default_factory=OrderedDict[str, SourceBudget])
    _rates: dict[float, dict[Kind, Rate]] = field(default_factory=dict[float, "dict[Kind, Rate]"])  # by scale

    def __len__(self) -> int:
        return len(self._sources)

    def party(self, now: float, host: str) -> Party:
        """Return who a peer address is."""
        levels = levels_of(host)
        return Party(levels, tuple(self.get(now, name, scale) for name, scale in levels))

    def get(self, now: float, name: str, scale: float = 1.0) -> SourceBudget:
        """Return the source of this name, new with full budgets, `scale` times as large as those of one source."""
        source = self._sources.get(name)
        if source is None:
            source = SourceBudget(
                {kind: rate.bucket(now) for kind, rate in self._scaled(scale).items()},
                max_connections=int(self.limits.max_connections_per_source * scale),
            )
            self._forget_one()
            self._sources[name] = source
        self._sources.move_to_end(name)
        return source

    def _scaled(self, scale: float) -> dict[Kind, Rate]:
        """Return the rates of what has so many times the budgets of a source: the same objects for all of these."""
        if scale not in self._rates:
            limits = self.limits
            rates: dict[Kind, Rate] = {
                "connections": limits.connections,
                "joins": limits.joins,
                "claims": limits.claims,
                "dear_claims": limits.dear_claims,
                "doubts": limits.doubts,
                "messages": limits.messages,
                "bytes": limits.bytes,
            }
            self._rates[scale] = {kind: rate.scaled(scale) for kind, rate in rates.items()}
        return self._rates[scale]

    def _forget_one(self) -> None:
        if len(self._sources) < self.limits.max_sources:
            return
        # What has open connections is in use, so it goes to the end: each step is paid for once. Sources in use are at
        # most three for each of `max_connections`, which bounds both this search and the table.
        for _ in range(len(self._sources)):
            name, source = next(iter(self._sources.items()))
            if source.open_connections == 0:
                del self._sources[name]
                return
            self._sources.move_to_end(name)


@dataclass(slots=True)
class SourceUsage:
    """What one source, or one network of sources, has now."""

    rooms: int = 0
    log_bytes: int = 0


class ShareBook(Protocol):
    """What knows how many rooms and bytes each source has, and how many it may have."""

    def may_open(self, levels: Levels) -> bool:
        """Return whether another room has place at every level."""
        ...

    def may_store(self, levels: Levels, size: int) -> bool:
        """Return whether so many more bytes have place at every level."""
        ...

    def open(self, levels: Levels) -> None:
        """Count one more room."""
        ...

    def store(self, levels: Levels, size: int) -> None:
        """Count more bytes, or fewer if negative."""
        ...

    def close(self, levels: Levels, log_bytes: int) -> None:
        """Count one room less, and what its log held."""
        ...


class Shares:
    """The shares of all who have rooms; who has none is forgotten."""

    def __init__(self, max_rooms: int, max_log_bytes: int) -> None:
        """Make an empty table with what one source may have; a network of sources may have its scale of that."""
        self._max_rooms = max_rooms
        self._max_log_bytes = max_log_bytes
        self._by_name: dict[str, SourceUsage] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def may_open(self, levels: Levels) -> bool:
        """Return whether another room has place at every level."""
        return all(self._share(name).rooms < self._max_rooms * scale for name, scale in levels)

    def may_store(self, levels: Levels, size: int) -> bool:
        """Return whether so many more bytes have place at every level."""
        return all(self._share(name).log_bytes + size <= self._max_log_bytes * scale for name, scale in levels)

    def open(self, levels: Levels) -> None:
        """Count one more room."""
        for name, _ in levels:
            self._by_name.setdefault(name, SourceUsage()).rooms += 1

    def store(self, levels: Levels, size: int) -> None:
        """Count more bytes, or fewer if negative, in the logs of rooms that are open."""
        for name, _ in levels:
            self._by_name[name].log_bytes += size

    def close(self, levels: Levels, log_bytes: int) -> None:
        """Count one room less, and what its log held."""
        for name, _ in levels:
            share = self._by_name[name]
            share.rooms -= 1
            share.log_bytes -= log_bytes
            if share.rooms == 0:
                del self._by_name[name]

    def _share(self, name: str) -> SourceUsage:
        return self._by_name.get(name, SourceUsage())
