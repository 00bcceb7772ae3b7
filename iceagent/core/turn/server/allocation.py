"""Allocations and what belongs to them. RFC 8656 sections 3 to 6, RFC 6062."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.deadlines import Deadline
from iceagent.core.token_bucket import TokenBucket


class ClientPath(NamedTuple):
    """The 5-tuple, which identifies a client. RFC 8656 section 3.1.

    Attributes:
        transport: `udp`, `tcp`, `tls` or `dtls`.
        local: where the server listens.
        remote: where the client is.
    """

    transport: str
    local: TransportAddress
    remote: TransportAddress

    @property
    def is_stream(self) -> bool:
        """Whether messages travel in a byte stream, where ChannelData is padded."""
        return self.transport in ("tcp", "tls")


class AllocationState(Enum):
    """Life of an allocation: OPENING, while the shell binds its ports, then ACTIVE, then CLOSED for good."""

    OPENING = "opening"
    ACTIVE = "active"
    CLOSED = "closed"


class ConnectionState(Enum):
    """Life of a connection of RFC 6062: to the peer, then waiting for the client's ConnectionBind, then bound."""

    CONNECTING = "connecting"
    WAITING = "waiting"
    BOUND = "bound"
    CLOSED = "closed"


@dataclass(slots=True, eq=False)
class RelayedAddress:
    """A relayed transport address.

    Attributes:
        transport: `udp`, or `tcp` for RFC 6062.
        bind: where the shell binds; `port` is final once it is open.
        address: what clients and peers see, which differs from `bind` behind a one-to-one NAT.
        allocation: whose it is.
        is_open: whether the shell has bound it.
    """

    transport: str
    bind: TransportAddress
    address: TransportAddress
    allocation: Allocation
    is_open: bool = False

    @property
    def family(self) -> int:
        """4 or 6."""
        return self.address.family


@dataclass(slots=True, eq=False)
class Channel:
    """A channel: a number that stands for a peer.

    Attributes:
        number: 0x4000 to 0x4FFF.
        peer: the peer's address.
        relay: the relayed address of the peer's family.
        expires_at: when it ends unless it is bound again.
    """

    number: int
    peer: TransportAddress
    relay: RelayedAddress
    expires_at: float


@dataclass(slots=True, eq=False)
class PeerConnection:
    """A TCP connection to a peer. RFC 6062.

    Attributes:
        number: CONNECTION-ID.
        allocation: whose it is.
        relay: where it comes from or came to.
        peer: the other end.
        state: see `ConnectionState`.
        expires_at: until when it waits for the peer or for ConnectionBind.
        request: the Connect that is not answered yet; None for a peer's connection.
        signing: how `request` is answered.
        path: the client's data connection, once bound.
        deadline: of the state it is in.
    """

    number: int
    allocation: Allocation
    relay: RelayedAddress
    peer: TransportAddress
    state: ConnectionState
    expires_at: float
    request: stun.Message | None = None
    signing: Signing | None = None
    path: ClientPath | None = None
    deadline: Deadline | None = None


class Signing(NamedTuple):
    """How an answer to one request is signed."""

    key: bytes
    integrity: stun.Integrity

    def __repr__(self) -> str:
        """Keep the key, which `NamedTuple` would show."""
        return f"Signing(integrity={self.integrity!r})"


@dataclass(slots=True, eq=False)
class Allocation:
    """What one client has at this server.

    Attributes:
        path: the client.
        user: whom it counts for.
        username: which the client must keep using, another one of the same user aside.
        request: the Allocate that made it; its retransmissions get the same answer.
        signing: of that answer.
        lifetime_s: as granted, until the first Refresh.
        meter: bytes per second of the user; None where there is no limit.
        relays: one per address family.
        state: see `AllocationState`.
        expires_at: when it ends unless it is refreshed.
        scheduled_at: when the server looks whether it has ended.
        deadline: that look.
        answer: to `request`.
        permissions: until when each peer host may send.
        channels: by number.
        channel_of: by peer.
        connections: by number.
        refusals: families that were asked for and not given, with error codes.
        reservation: the token of the port after this one.
        traffic: datagrams and bytes by direction.
    """

    path: ClientPath
    user: str
    username: str
    request: stun.Message
    signing: Signing
    lifetime_s: int
    meter: TokenBucket | None
    relays: list[RelayedAddress] = field(default_factory=list)
    state: AllocationState = AllocationState.OPENING
    expires_at: float = 0.0
    scheduled_at: float = 0.0
    deadline: Deadline | None = None
    attempts: int = 0
    answer: bytes = b""
    permissions: dict[str, float] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    channel_of: dict[TransportAddress, Channel] = field(default_factory=dict)
    connections: dict[int, PeerConnection] = field(default_factory=dict)
    refusals: list[stun.AddressErrorCode] = field(default_factory=list)
    reservation: bytes | None = None
    traffic: Counter[str] = field(default_factory=Counter)

    def relay_for(self, peer: TransportAddress) -> RelayedAddress | None:
        """Return the open relayed address of the peer's family."""
        family = peer.family
        return next((relay for relay in self.relays if relay.is_open and relay.family == family), None)

    @property
    def is_tcp(self) -> bool:
        """Whether it relays TCP connections (RFC 6062) and not datagrams."""
        return any(relay.transport == "tcp" for relay in self.relays)
