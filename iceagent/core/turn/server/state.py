"""What all parts of the server share: its tables, its deadlines and what the shell has to do."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.deadlines import Deadline, Deadlines
from iceagent.core.stun.rate_limit import levels_of
from iceagent.core.token_bucket import TokenBucket
from iceagent.core.turn.server.allocation import Allocation, ClientPath, PeerConnection, RelayedAddress, Signing
from iceagent.core.turn.server.limits import IN_FLIGHT_S, MAX_DEPARTED, MAX_PENDING_OUTPUT, TurnLimits
from iceagent.core.turn.server.policy import PeerPolicy
from iceagent.core.turn.server.ports import PortPool

_MAX_IDLE_METERS = 1024


class ToClient(NamedTuple):
    """Send `data` to a client, on the connection or from the socket that `path` names."""

    path: ClientPath
    data: bytes


class ToPeer(NamedTuple):
    """Send a datagram from a relayed address; `dont_fragment` says whether DF is asked for."""

    relay: RelayedAddress
    peer: TransportAddress
    data: bytes
    dont_fragment: bool


ServerTransmit = ToClient | ToPeer


@dataclass(frozen=True, slots=True)
class OpenRelay:
    """Bind `relay.bind`, then call `relay_opened` or `relay_failed`."""

    relay: RelayedAddress


@dataclass(frozen=True, slots=True)
class CloseRelay:
    """Close what was bound; it may still be opening."""

    relay: RelayedAddress


@dataclass(frozen=True, slots=True)
class ConnectPeer:
    """Connect from `connection.relay` to `connection.peer`, then call `peer_connected` or `peer_failed`."""

    connection: PeerConnection


@dataclass(frozen=True, slots=True)
class JoinConnection:
    """Join the client's data connection `connection.path` with the peer's, byte for byte."""

    connection: PeerConnection


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """Close the peer's side of a connection, and the client's data connection if there is one."""

    connection: PeerConnection


@dataclass(frozen=True, slots=True)
class AllocationChanged:
    """For logs and metrics: an allocation is `opened`, `expired`, `released` or `failed`."""

    allocation: Allocation
    what: str


Event = OpenRelay | CloseRelay | ConnectPeer | JoinConnection | CloseConnection | AllocationChanged


class Reservation(NamedTuple):
    """A port that waits for who has its token. RFC 8656 section 7.2."""

    host: str
    port: int
    user: str
    deadline: Deadline


@dataclass(slots=True)
class ServerState:
    """Tables, queues and deadlines.

    Attributes:
        limits: what may be had.
        policy: whom relays may talk to.
        randbytes: for ports, tokens and connection numbers.
        hosts: IP literal to bind: IP literal to announce, of each family the preferred one first.
        ports: first and last port of relays.
        pools: by bound host.
        software: for SOFTWARE, in authenticated answers; empty for none.
        flows: by transport and port of the server the newest allocation of each client, for the data path.
    """

    limits: TurnLimits
    policy: PeerPolicy
    randbytes: Callable[[int], bytes]
    hosts: dict[str, str]
    ports: tuple[int, int]
    pools: dict[str, PortPool]
    software: str = ""
    draining: bool = False
    allocations: dict[ClientPath, Allocation] = field(default_factory=dict)
    flows: dict[tuple[str, int], dict[TransportAddress, Allocation]] = field(default_factory=dict)
    relays: dict[TransportAddress, RelayedAddress] = field(default_factory=dict)
    departed: dict[TransportAddress, float] = field(default_factory=dict)
    connections: dict[int, PeerConnection] = field(default_factory=dict)
    data_paths: dict[ClientPath, PeerConnection] = field(default_factory=dict)
    reservations: dict[bytes, Reservation] = field(default_factory=dict)
    per_user: Counter[str] = field(default_factory=Counter)
    per_source: Counter[str] = field(default_factory=Counter)
    past_traffic: Counter[str] = field(default_factory=Counter)
    meters: dict[str, TokenBucket] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    transmits: deque[ServerTransmit] = field(default_factory=deque)
    events: deque[Event] = field(default_factory=deque)
    deadlines: Deadlines = field(default_factory=Deadlines)

    # -- output

    def send(self, transmit: ServerTransmit) -> None:
        """Queue something to send; a shell that does not drain loses the newest."""
        if len(self.transmits) >= MAX_PENDING_OUTPUT:
            self.counters["output_full"] += 1
            return
        self.transmits.append(transmit)

    def emit(self, event: Event) -> None:
        """Queue an event. Their number is bounded by that of allocations and connections."""
        self.events.append(event)

    def reply(self, path: ClientPath, message: stun.Message, signing: Signing) -> bytes:
        """Send a signed answer and return it."""
        if self.software:
            message = stun.Message(
                message.message_class,
                message.method,
                message.transaction_id,
                (stun.Software(self.software), *message.attributes),
            )
        data = stun.encode(message, key=signing.key, integrity=signing.integrity, fingerprint=False)
        self.send(ToClient(path, data))
        return data

    def refuse(
        self, path: ClientPath, request: stun.Message, signing: Signing, code: int, *more: stun.Attribute
    ) -> None:
        """Send a signed error answer."""
        self.counters[f"refused_{int(code)}"] += 1
        self.reply(path, stun.error(request, code, "", *more), signing)

    # -- quotas

    def has_room(self, user: str, host: str) -> bool:
        """Return whether user, source and server may have one more allocation."""
        limits = self.limits
        return self.per_user[user] < limits.allocations_per_user and all(
            self.per_source[source] < scale * limits.allocations_per_source for source, scale in levels_of(host)
        )

    def add(self, allocation: Allocation) -> None:
        """Enter an allocation into the tables."""
        path = allocation.path
        self.allocations[path] = allocation
        self.flows.setdefault((path.transport, path.local.port), {})[path.remote] = allocation
        self.per_user[allocation.user] += 1
        self.per_source.update(source for source, _ in levels_of(path.remote.host))

    def remove(self, allocation: Allocation) -> None:
        """Take an allocation out of the tables."""
        path = allocation.path
        self.past_traffic.update(allocation.traffic)
        del self.allocations[path]
        flows = self.flows[path.transport, path.local.port]
        if flows.get(path.remote) is allocation:  # else it has a newer one at another address of ours
            del flows[path.remote]
        _decrease(self.per_user, allocation.user)
        for source, _ in levels_of(path.remote.host):
            _decrease(self.per_source, source)

    def meter_of(self, user: str, now: float) -> TokenBucket | None:
        """Return the bucket of a user's bytes, the same for all its allocations."""
        rate = self.limits.bytes_per_s
        if rate is None:
            return None
        meter = self.meters.get(user)
        if meter is None:
            # A bucket outlives the allocations, or closing and opening them would fill it.
            if len(self.meters) >= _MAX_IDLE_METERS + self.limits.allocations:
                idle = [one for one, it in self.meters.items() if not self.per_user[one] and it.is_full(now)]
                for one in idle:
                    del self.meters[one]
            meter = self.meters[user] = TokenBucket(rate, rate * self.limits.burst_s, now)
        return meter

    def note_departed(self, now: float, address: TransportAddress) -> None:
        """Remember a relayed address that has ended: what it sent before may still be on its way to another relay."""
        departed = self.departed
        departed.pop(address, None)
        while departed and (len(departed) >= MAX_DEPARTED or next(iter(departed.values())) <= now):
            del departed[next(iter(departed))]  # oldest first
        departed[address] = now + IN_FLIGHT_S

    def was_relayed(self, now: float, address: TransportAddress) -> bool:
        """Return whether an address is a relayed one of this server now, or was a moment ago."""
        return address in self.relays or self.departed.get(address, 0.0) > now

    def is_relayed(self, address: TransportAddress) -> bool:
        """Return whether an address is a relayed one of this server now."""
        return address in self.relays


def _decrease(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if counts[key] <= 0:
        del counts[key]
