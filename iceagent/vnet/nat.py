"""Network address translation as a machine without I/O: what RFC 4787 says NATs do, in every combination.

A `Nat` is the description of a behaviour, a `NatTable` the state of one box. Time is an argument and randomness is
injected, so the table can be tested by itself; `iceagent.vnet.Router` puts it into a network.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from iceagent.core.address import TransportAddress
from iceagent.errors import LocalError

Behaviour = Literal["endpoint-independent", "address-dependent", "address-and-port-dependent"]
"""What a mapping, or a filter, depends on besides the internal endpoint. RFC 4787 sections 4.1 and 5."""

PortAllocation = Literal["preserving", "random", "sequential", "contiguous"]
"""How the external port of a new mapping is chosen. RFC 4787 section 4.2.1."""

MAPPING_TIMEOUT_S = 120.0  # RFC 4787 section 4.3, REQ-5: at least two minutes; the impatient boxes are the interesting
TCP_TIMEOUT_S = 7440.0  # RFC 5382 REQ-5
MAX_MAPPINGS = 4096
BLOCK_PORTS = 64  # of a contiguous allocation: what carriers commonly give to one subscriber at a time (RFC 6888)
MAX_SESSIONS = 1024  # remote endpoints remembered for one mapping
INPUT_TIMEOUT_S = 30.0  # Linux, nf_conntrack_udp_timeout: of an entry whose packets nobody has answered
MAX_INPUT_ENTRIES = 4096  # the oldest give way

Scope = TransportAddress | str | None
"""A remote endpoint as far as a behaviour looks at it: all of it, its address, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nat:
    """How a NAT behaves.

    Args:
        mapping: which packets from one internal endpoint share an external one.
        filtering: which remote endpoints may send to it, once the inside has sent out.
        port_allocation: how an external port is chosen: the internal one if free, at random, one after another, or one
            after another within a block that each internal host has for itself (RFC 6888 section 4, RFC 7422).
        hairpin: whether two internal hosts can meet on their external endpoints (RFC 4787 section 6).
        mapping_timeout_s: seconds that a mapping lives after the packet that last refreshed it.
        refreshed_by: packets that refresh it: only those going out (RFC 4787 REQ-6), or those in both directions.
        tcp_timeout_s: the same for TCP, where packets in both directions refresh.
        max_mappings: size of the table; when it is full, packets that need a new mapping are dropped.
        ports: first and last external port.
        accepts_input: the box takes packets that nobody inside asked for as meant for itself, as a Linux router does
            whose input chain has no rule against it. Nothing listens there, so the sender gets an ICMP error; but the
            packet leaves an entry in the connection table, and while that lives (`INPUT_TIMEOUT_S` after the last such
            packet) what goes out to that very endpoint cannot leave by that port, and gets another. UDP only.
    Raises:
        LocalError: a value is not one of those offered.
    """

    mapping: Behaviour = "endpoint-independent"
    filtering: Behaviour = "address-and-port-dependent"
    port_allocation: PortAllocation = "preserving"
    hairpin: bool = False
    mapping_timeout_s: float = MAPPING_TIMEOUT_S
    refreshed_by: Literal["outbound", "both"] = "outbound"
    tcp_timeout_s: float = TCP_TIMEOUT_S
    max_mappings: int = MAX_MAPPINGS
    ports: tuple[int, int] = (1024, 65535)
    accepts_input: bool = False

    def __post_init__(self) -> None:
        choices = {
            "mapping": get_args(Behaviour),
            "filtering": get_args(Behaviour),
            "port_allocation": get_args(PortAllocation),
            "refreshed_by": ("outbound", "both"),
        }
        for name, offered in choices.items():
            if getattr(self, name) not in offered:
                raise LocalError(f"Nat({name}={getattr(self, name)!r}): choose one of {', '.join(offered)}")
        if min(self.mapping_timeout_s, self.tcp_timeout_s) <= 0 or self.max_mappings < 1:
            raise LocalError("Nat: mapping_timeout_s, tcp_timeout_s and max_mappings must be positive")
        if not 1 <= self.ports[0] <= self.ports[1] <= 65535:
            raise LocalError(f"Nat(ports={self.ports}): first and last port, within 1 to 65535")


FULL_CONE = Nat(filtering="endpoint-independent")
ADDRESS_RESTRICTED = Nat(filtering="address-dependent")
PORT_RESTRICTED = Nat(filtering="address-and-port-dependent")
SYMMETRIC = Nat(mapping="address-and-port-dependent", port_allocation="random")
MASQUERADE = Nat(accepts_input=True)
"""A Linux gateway with nothing but its masquerading rule."""
NONE: Nat | None = None
"""No translation: the router hands out addresses that its parent routes."""


class MappingKey(NamedTuple):
    """What makes two outgoing packets share a mapping."""

    internal: TransportAddress
    scope: Scope


@dataclass(slots=True)
class Mapping:
    """One external port lent to an internal endpoint."""

    key: MappingKey
    port: int
    expires_at: float = 0.0
    sessions: dict[Scope, float] = field(default_factory=dict[Scope, float])
    """Who may send in, and until when; in the order of refreshing."""


def scope_of(behaviour: Behaviour, remote: TransportAddress) -> Scope:
    """Return the part of `remote` that `behaviour` looks at."""
    if behaviour == "endpoint-independent":
        return None
    return remote.host if behaviour == "address-dependent" else remote


class NatTable:
    """The mappings of one NAT with one external address, for one transport protocol.

    Every method takes the time in seconds; it must not go backwards. Mappings are kept in the order of their last
    refreshing. The timeout is the same for all, so the expired ones stand at the front and expiry costs nothing extra.
    """

    def __init__(self, nat: Nat, external_host: str, rng: random.Random) -> None:
        self.nat = nat
        self.external_host = external_host
        self.drops: Counter[str] = Counter()
        self._rng = rng
        self._by_key: dict[MappingKey, Mapping] = {}
        self._by_port: dict[int, Mapping] = {}
        self._next_port = rng.randint(*nat.ports)
        self._blocks: dict[str, tuple[int, int]] = {}  # internal host: first port of its block, and the next of it
        # Entries of the box itself: (external port, remote endpoint), and until when; in the order of refreshing.
        self._input: dict[tuple[int, TransportAddress], float] = {}

    def __len__(self) -> int:
        """Return the number of mappings held, expired ones included until the next packet."""
        return len(self._by_key)

    def mappings(self, now: float) -> dict[TransportAddress, TransportAddress]:
        """Return the live mappings: external endpoint to internal endpoint."""
        self._expire(now)
        return {self._external(mapping): mapping.key.internal for mapping in self._by_key.values()}

    def outbound(self, now: float, source: TransportAddress, destination: TransportAddress) -> TransportAddress | None:
        """Translate the source of a packet going out, and open or refresh its mapping.

        Returns:
            The external endpoint it is sent from, or None: the table is full and the packet is dropped.
        Source: RFC 4787 sections 4.1, 4.2.1 and 4.3.
        """
        self._expire(now)
        mapping = self._mapping_to(source, destination) or self._create_to(source, destination)
        if mapping is None:
            self.drops["table full"] += 1
            return None
        self._refresh(now, mapping, scope_of(self.nat.filtering, destination))
        return self._external(mapping)

    def inbound(self, now: float, port: int, source: TransportAddress) -> TransportAddress | None:
        """Translate the destination of a packet that `source` sent to the external `port`.

        Returns:
            The internal endpoint, or None: nothing is mapped there, or the filter stops the packet.
        Source: RFC 4787 section 5.
        """
        self._expire(now)
        mapping = self._by_port.get(port)
        scope = scope_of(self.nat.filtering, source)
        is_known = mapping is not None and mapping.sessions.get(scope, now) > now
        if mapping is None or not is_known or (port, source) in self._input:
            self._take_in(now, port, source)
            self.drops["no mapping" if mapping is None else "filtered"] += 1
            return None
        if self.nat.refreshed_by == "both":
            self._refresh(now, mapping, scope)
        return mapping.key.internal

    def error_inbound(self, now: float, port: int, remote: TransportAddress) -> TransportAddress | None:
        """Return the internal endpoint an ICMP error is for, which quotes a packet from `port` to `remote`.

        An error refreshes nothing and passes only for a session that exists.
        Source: RFC 5508 section 4.2.
        """
        self._expire(now)
        mapping = self._by_port.get(port)
        if mapping is None or mapping.sessions.get(scope_of(self.nat.filtering, remote), now) <= now:
            self.drops["stray icmp"] += 1
            return None
        return mapping.key.internal

    def error_outbound(
        self, now: float, internal: TransportAddress, remote: TransportAddress
    ) -> TransportAddress | None:
        """Return the external endpoint by which `remote` knows `internal`, for the quotation of an ICMP error."""
        self._expire(now)
        mapping = self._mapping_to(internal, remote)
        if mapping is None:
            self.drops["stray icmp"] += 1
            return None
        return self._external(mapping)

    def reset(self) -> None:
        """Forget all mappings, as a box does that was switched off and on."""
        self._by_key.clear()
        self._by_port.clear()
        self._blocks.clear()
        self._input.clear()

    def _external(self, mapping: Mapping) -> TransportAddress:
        return TransportAddress(self.external_host, mapping.port)

    def _mapping_to(self, internal: TransportAddress, remote: TransportAddress) -> Mapping | None:
        """Return the mapping that a packet to `remote` uses; one that was displaced keeps its port while it lives."""
        if self.nat.accepts_input:
            displaced = self._by_key.get(MappingKey(internal, remote))
            if displaced is not None:
                return displaced
        mapping = self._by_key.get(MappingKey(internal, scope_of(self.nat.mapping, remote)))
        return None if mapping is None or (mapping.port, remote) in self._input else mapping

    def _create_to(self, internal: TransportAddress, remote: TransportAddress) -> Mapping | None:
        key = MappingKey(internal, scope_of(self.nat.mapping, remote))
        if key not in self._by_key:
            mapping = self._create(key)
            if mapping is None or (mapping.port, remote) not in self._input:
                return mapping
            if key.scope == remote:
                self._forget(mapping)  # it would have been for this remote endpoint alone
        # Linux draws another port for the flow whose own one is taken.
        port = self._free_port_from(self._rng.randint(*self.nat.ports), remote)
        return self._create(MappingKey(internal, remote), port)

    def _take_in(self, now: float, port: int, source: TransportAddress) -> None:
        """Remember a packet that the box took for its own: its entry holds the port against that remote endpoint.

        That of one from inside, to be turned round, has the inside endpoint for its source, and holds nothing.
        """
        if not self.nat.accepts_input or source.host == self.external_host:
            return
        self._input.pop((port, source), None)
        self._input[port, source] = now + INPUT_TIMEOUT_S
        if len(self._input) > MAX_INPUT_ENTRIES:
            del self._input[next(iter(self._input))]

    def _create(self, key: MappingKey, port: int | None = None) -> Mapping | None:
        if len(self._by_key) >= self.nat.max_mappings:
            return None
        port = self._choose_port(key.internal) if port is None else port
        if port is None:
            return None
        mapping = Mapping(key, port)
        self._by_key[key] = self._by_port[port] = mapping
        return mapping

    def _choose_port(self, internal: TransportAddress) -> int | None:
        first, last = self.nat.ports
        if self.nat.port_allocation == "contiguous":
            return self._choose_within_block(internal.host)
        if self.nat.port_allocation == "preserving":
            wanted = internal.port
        elif self.nat.port_allocation == "random":
            wanted = self._rng.randint(first, last)
        else:
            wanted = self._next_port
        port = self._free_port_from(wanted if first <= wanted <= last else first)
        if port is not None:
            self._next_port = port + 1 if port < last else first
        return port

    def _choose_within_block(self, host: str) -> int | None:
        """Return the next port of a host's block; a host without one, or whose block is used up, gets a new block."""
        start, wanted = self._blocks.get(host, (0, 0))
        while start and wanted < start + BLOCK_PORTS:
            if wanted not in self._by_port and wanted <= self.nat.ports[1]:
                self._blocks[host] = (start, wanted + 1)
                return wanted
            wanted += 1
        first, last = self.nat.ports
        taken = {block for block, _ in self._blocks.values()}
        starts = [at for at in range(first, last + 1, BLOCK_PORTS) if at not in taken]
        fresh = self._rng.choice(starts) if starts else None
        port = fresh if fresh is not None and fresh not in self._by_port else self._free_port_from(fresh or first)
        if fresh is not None and port is not None:
            self._blocks[host] = (fresh, port + 1)
        return port

    def _free_port_from(self, wanted: int, remote: TransportAddress | None = None) -> int | None:
        """Return the next port that no mapping has, nor the box itself against `remote`."""
        first, last = self.nat.ports
        size = last - first + 1
        for step in range(min(size, len(self._by_port) + len(self._input) + 1)):
            port = first + (wanted - first + step) % size
            if port not in self._by_port and (port, remote) not in self._input:
                return port
        return None

    def _refresh(self, now: float, mapping: Mapping, scope: Scope) -> None:
        mapping.expires_at = now + self.nat.mapping_timeout_s
        mapping.sessions.pop(scope, None)
        mapping.sessions[scope] = mapping.expires_at
        if len(mapping.sessions) > MAX_SESSIONS:
            del mapping.sessions[next(iter(mapping.sessions))]
        self._by_key[mapping.key] = self._by_key.pop(mapping.key)

    def _expire(self, now: float) -> None:
        while self._input and next(iter(self._input.values())) <= now:
            del self._input[next(iter(self._input))]
        while self._by_key:
            mapping = next(iter(self._by_key.values()))
            if mapping.expires_at > now:
                return
            self._forget(mapping)

    def _forget(self, mapping: Mapping) -> None:
        del self._by_key[mapping.key], self._by_port[mapping.port]
