"""A TURN server without I/O and clients for it: whatever the core wants bound is bound at once."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field, replace

from iceagent.core import stun
from iceagent.core.address import TransportAddress, make_address
from iceagent.core.turn.server import (
    ClientPath,
    ConnectPeer,
    Event,
    JoinConnection,
    OpenRelay,
    PeerDatagrams,
    PeerPolicy,
    StaticUsers,
    ToClient,
    ToPeer,
    TurnServer,
    TurnServerConfig,
)

REALM = "example.org"
SERVER = TransportAddress("192.0.2.15", 3478)
RELAY_4 = "192.0.2.15"
RELAY_6 = "2001:db8::15"
CLIENT = TransportAddress("192.0.2.1", 7000)
PEER = TransportAddress("8.8.8.8", 9000)
PEER_6 = make_address("2606:4700::1111", 9000)
OWN = (RELAY_4, RELAY_6)


def config(**changes: object) -> TurnServerConfig:
    """Return a configuration with one user, both families, and the peer policy as it is by default."""
    plain = TurnServerConfig(
        REALM,
        StaticUsers({"george": "secret", "ringo": "drums"}, REALM),
        {RELAY_4: RELAY_4, RELAY_6: RELAY_6},
        PeerPolicy(own=OWN),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@dataclass
class Bench:
    """A server, its clock and all it has put out."""

    config: TurnServerConfig = field(default_factory=config)
    seed: int = 8656
    now: float = 1000.0
    opens: bool = True
    refused_ports: set[int] = field(default_factory=set)
    sent: deque[ToClient] = field(default_factory=deque)
    to_peers: deque[ToPeer] = field(default_factory=deque)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.server = TurnServer(self.config, randbytes=self.random.randbytes)

    def settle(self) -> None:
        """Drain the server, binding what it wants bound."""
        while (event := self.server.poll_event()) is not None:
            self.events.append(event)
            if isinstance(event, OpenRelay) and self.opens:
                if event.relay.bind.port in self.refused_ports:
                    self.server.relay_failed(self.now, event.relay)
                else:
                    self.server.relay_opened(self.now, event.relay)
        while (transmit := self.server.poll_transmit()) is not None:
            (self.sent if isinstance(transmit, ToClient) else self.to_peers).append(transmit)  # type: ignore[arg-type]

    def give(self, path: ClientPath, data: bytes) -> bytes | None:
        """Hand a message to the server; return its answer to that client."""
        self.sent.clear()
        self.server.handle_message(self.now, path, data)
        self.settle()
        return next((one.data for one in self.sent if one.path == path), None)

    def wait(self, seconds: float) -> None:
        """Let time pass, calling the server when it wants to be called."""
        end = self.now + seconds
        while (timeout := self.server.next_timeout()) is not None and timeout <= end:
            self.now = max(self.now, timeout)
            self.server.handle_timeout(self.now)
            self.settle()
        self.now = end

    def of(self, kind: type[ConnectPeer] | type[JoinConnection]) -> list[ConnectPeer | JoinConnection]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Client:
    """A client that answers challenges. `algorithm` None is RFC 5389's way."""

    bench: Bench
    remote: TransportAddress = CLIENT
    username: str = "george"
    password: str = "secret"
    transport: str = "udp"
    algorithm: stun.Algorithm | None = None
    nonce: str = ""
    realm: str = REALM

    @property
    def path(self) -> ClientPath:
        return ClientPath(self.transport, SERVER, self.remote)

    def transaction(self) -> bytes:
        return self.bench.random.randbytes(12)

    def request(self, method: int, *attributes: stun.Attribute, transaction: bytes = b"") -> stun.Message:
        """Send a request with credentials, twice where the server wants another nonce; return the last answer."""
        for _ in range(2):
            answer = self.send(method, *attributes, transaction=transaction)
            nonce = answer.get(stun.Nonce)
            if nonce is None or error_of(answer) not in (401, 438) or nonce.value == self.nonce:
                return answer
            self.nonce = nonce.value
        return answer

    def send(self, method: int, *attributes: stun.Attribute, transaction: bytes = b"") -> stun.Message:
        """Send a request once and return the answer."""
        data = self.encode(method, *attributes, transaction=transaction)
        answer = self.bench.give(self.path, data)
        assert answer is not None, f"no answer: {self.bench.server.counters}"
        return stun.decode(answer)

    def encode(self, method: int, *attributes: stun.Attribute, transaction: bytes = b"") -> bytes:
        """Return a request's bytes; without credentials as long as there is no nonce."""
        transaction = transaction or self.transaction()
        if not self.nonce:
            message = stun.Message(stun.MessageClass.REQUEST, method, transaction, attributes)
            return stun.encode(message, fingerprint=False)
        credentials: list[stun.Attribute] = [
            stun.Username(self.username),
            stun.Realm(self.realm),
            stun.Nonce(self.nonce),
        ]
        if self.algorithm is not None:
            credentials.append(stun.PasswordAlgorithms((stun.SHA256, stun.MD5)))
            credentials.append(stun.PasswordAlgorithm(self.algorithm))
        message = stun.Message(stun.MessageClass.REQUEST, method, transaction, (*attributes, *credentials))
        integrity = stun.Integrity.SHA1 if self.algorithm is None else stun.Integrity.SHA256
        return stun.encode(message, key=self.key, integrity=integrity, fingerprint=False)

    @property
    def key(self) -> bytes:
        return stun.long_term_key(self.username, self.realm, self.password, self.algorithm or stun.MD5)

    # -- what clients do

    def allocate(self, *attributes: stun.Attribute, transport: int = stun.TRANSPORT_UDP) -> stun.Message:
        return self.request(stun.Method.ALLOCATE, stun.RequestedTransport(transport), *attributes)

    def refresh(self, lifetime: int | None = None) -> stun.Message:
        return self.request(stun.Method.REFRESH, *([] if lifetime is None else [stun.Lifetime(lifetime)]))

    def permit(self, *peers: TransportAddress) -> stun.Message:
        return self.request(stun.Method.CREATE_PERMISSION, *map(stun.XorPeerAddress, peers))

    def bind(self, number: int, peer: TransportAddress) -> stun.Message:
        return self.request(stun.Method.CHANNEL_BIND, stun.ChannelNumber(number), stun.XorPeerAddress(peer))

    def connect(self, peer: TransportAddress) -> None:
        """Ask for a TCP connection; the answer comes when the shell has reported."""
        self.bench.give(self.path, self.encode(stun.Method.CONNECT, stun.XorPeerAddress(peer)))

    def indicate(self, peer: TransportAddress, payload: bytes, *more: stun.Attribute) -> ToPeer | None:
        """Send a Send indication; return what went to the peer."""
        attributes = (stun.XorPeerAddress(peer), stun.Data(payload), *more)
        message = stun.Message(stun.MessageClass.INDICATION, stun.Method.SEND, self.transaction(), attributes)
        self.bench.to_peers.clear()
        self.bench.give(self.path, stun.encode(message, fingerprint=False))
        return self.bench.to_peers.popleft() if self.bench.to_peers else None

    def channel_data(self, data: bytes, segment_size: int | None = None) -> list[PeerDatagrams]:
        allocation = self.bench.server.allocations[self.path]
        return self.bench.server.forward_to_peer(self.bench.now, allocation, data, segment_size or len(data))

    def from_peer(self, peer: TransportAddress, data: bytes, segment_size: int | None = None) -> list[bytes]:
        relay = next(one for one in self.bench.server.allocations[self.path].relays if one.family == peer.family)
        return self.bench.server.forward_to_client(self.bench.now, relay, peer, data, segment_size or len(data) or 1)


def error_of(message: stun.Message) -> int | None:
    """Return the error code of an answer; None for success."""
    code = message.get(stun.ErrorCode)
    return None if code is None else code.code


def allocated(bench: Bench | None = None, **changes: object) -> Client:
    """Return a client with an allocation."""
    client = Client(bench or Bench(), **changes)  # type: ignore[arg-type]
    answer = client.allocate()
    assert error_of(answer) is None, error_of(answer)
    return client
