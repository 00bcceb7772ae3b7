"""A TURN server without I/O. RFC 8656, with RFC 6062 for TCP between client and peer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.stun.raw import split_message_type
from iceagent.core.turn.server import connections, relaying
from iceagent.core.turn.server.addresses import set_own_addresses, set_relay_hosts
from iceagent.core.turn.server.allocate import handle_allocate, relay_failed, relay_opened
from iceagent.core.turn.server.allocation import Allocation, ClientPath, PeerConnection, RelayedAddress, Signing
from iceagent.core.turn.server.auth import (
    ALGORITHMS,
    Authenticated,
    NonceMaker,
    Rejected,
    RequestAuthenticator,
    read_unverified,
)
from iceagent.core.turn.server.closing import close_allocation, close_connection
from iceagent.core.turn.server.limits import FIRST_PORT, LAST_PORT, NONCE_LIFETIME_S, TurnLimits
from iceagent.core.turn.server.policy import PeerPolicy
from iceagent.core.turn.server.ports import PortPool
from iceagent.core.turn.server.refresh import handle_channel_bind, handle_create_permission, handle_refresh
from iceagent.core.turn.server.relaying import PeerDatagrams
from iceagent.core.turn.server.replies import ReplyBudget
from iceagent.core.turn.server.state import Event, ServerState, ServerTransmit, ToClient
from iceagent.core.turn.server.users import UserStore

_Handler = Callable[[ServerState, float, ClientPath, stun.Message, Authenticated], None]

_HANDLERS: Final[Mapping[int, _Handler]] = MappingProxyType(
    {
        stun.Method.ALLOCATE: handle_allocate,
        stun.Method.REFRESH: handle_refresh,
        stun.Method.CREATE_PERMISSION: handle_create_permission,
        stun.Method.CHANNEL_BIND: handle_channel_bind,
        stun.Method.CONNECT: connections.handle_connect,
        stun.Method.CONNECTION_BIND: connections.handle_connection_bind,
    }
)
_MAX_UNKNOWN: Final = 32  # ours: types named in one 420


@dataclass(frozen=True, slots=True)
class TurnServerConfig:
    """How a server behaves.

    Attributes:
        realm: of its users.
        users: who they are.
        relay_hosts: IP literal to bind for relays: IP literal to announce, of each family the preferred one first. A
            client gets the address that it asked at if that is among them.
        policy: whom relays may talk to.
        limits: how much of everything.
        ports: first and last port of relays.
        nonce_lifetime_s: after which a nonce is stale.
        software: for SOFTWARE in authenticated answers; empty for none.
        algorithms: for keys, best first.
    """

    realm: str
    users: UserStore
    relay_hosts: Mapping[str, str]
    policy: PeerPolicy = field(default_factory=PeerPolicy)
    limits: TurnLimits = field(default_factory=TurnLimits)
    ports: tuple[int, int] = (FIRST_PORT, LAST_PORT)
    nonce_lifetime_s: float = NONCE_LIFETIME_S
    software: str = ""
    algorithms: tuple[stun.Algorithm, ...] = ALGORITHMS

    def __post_init__(self) -> None:
        """Check what the first client would trip over.

        Raises:
            ValueError: there is no relay host, or it is announced as one of another family, or the realm is too long.
        """
        if not self.relay_hosts:
            raise ValueError("relays need at least one IPv4 address or one IPv6 address")
        if any((":" in host) != (":" in public) for host, public in self.relay_hosts.items()):
            raise ValueError("an address is announced as one of its own family")
        stun.Realm(self.realm).encode_value(bytes(12))


class TurnServer:
    """The server. The shell feeds it datagrams and messages and does what `poll_transmit` and `poll_event` say.

    STUN goes in through `handle_message`, which never raises; data goes through `forward_to_peer` and
    `forward_to_client`, which return at once what to send, and through nothing else.

    Args:
        config: how it behaves.
        randbytes: from a secure source.
    """

    def __init__(self, config: TurnServerConfig, *, randbytes: Callable[[int], bytes]) -> None:
        hosts = dict(config.relay_hosts)
        pools = {host: PortPool(randbytes, *config.ports) for host in hosts}
        self._state = ServerState(config.limits, config.policy, randbytes, hosts, config.ports, pools, config.software)
        features = stun.SecurityFeature.PASSWORD_ALGORITHMS
        if config.users.hides_names:
            features |= stun.SecurityFeature.USERNAME_ANONYMITY
        nonces = NonceMaker(randbytes, features=features, lifetime_s=config.nonce_lifetime_s)
        self._authenticator = RequestAuthenticator(config.realm, config.users, nonces, config.algorithms)
        self._budget = ReplyBudget()

    # -- looking

    @property
    def counters(self) -> Counter[str]:
        """What happened, by reason."""
        return self._state.counters

    @property
    def allocations(self) -> Mapping[ClientPath, Allocation]:
        """All allocations, those that are opening among them."""
        return MappingProxyType(self._state.allocations)

    @property
    def pools(self) -> Mapping[str, PortPool]:
        """The ports, by bound host."""
        return MappingProxyType(self._state.pools)

    def traffic(self) -> Counter[str]:
        """Return what was relayed since the start: `datagrams_` and `bytes_`, `to_peer` and `to_client`."""
        total = Counter(self._state.past_traffic)
        for allocation in self._state.allocations.values():
            total.update(allocation.traffic)
        return total

    @property
    def policy(self) -> PeerPolicy:
        """Whom relays may talk to now."""
        return self._state.policy

    @property
    def relay_hosts(self) -> Mapping[str, str]:
        """What each bound relay host is announced as."""
        return MappingProxyType(self._state.hosts)

    @property
    def reservations(self) -> int:
        """How many ports are reserved."""
        return len(self._state.reservations)

    @property
    def remembered_strangers(self) -> int:
        """How many sources without allocation are remembered, for limits only."""
        return len(self._budget)

    def flows(self, transport: str, port: int) -> dict[TransportAddress, Allocation]:
        """Return the live table of one listening port, by client; for `forward_to_peer`. Do not change it.

        A client that has allocations at several addresses of this machine has the newest here, the others in
        `allocations`, by `path.local`.
        """
        return self._state.flows.setdefault((transport, port), {})

    # -- input

    def handle_message(self, now: float, path: ClientPath, data: bytes) -> None:
        """Handle one datagram or one frame of a stream that is no ChannelData."""
        if not stun.looks_like_stun(data):
            self.counters["not_stun"] += 1
            return
        message_class, method = split_message_type(int.from_bytes(data[:2], "big"))
        if message_class is stun.MessageClass.INDICATION:
            if method == stun.Method.SEND:
                relaying.handle_send(self._state, now, path, data)
            else:
                self.counters["indication"] += 1
        elif message_class is not stun.MessageClass.REQUEST:
            self.counters["response"] += 1
        elif method not in _HANDLERS or path.remote.port == 0:
            self.counters["method"] += 1
        else:
            self._handle_request(now, path, data, _HANDLERS[method])

    def _handle_request(self, now: float, path: ClientPath, data: bytes, handler: _Handler) -> None:
        unverified = read_unverified(data)
        if unverified is None:
            self.counters["malformed"] += 1
            return
        who = self._authenticator.check(now, path.transport, path.remote, unverified)
        if isinstance(who, Rejected):
            self._reject(now, path, data, who)
            return
        signing = Signing(who.key, who.integrity)
        self._note_proven(now, path)
        try:
            request = stun.decode(data)
        except stun.StunError:
            bare = stun.Message(stun.MessageClass.REQUEST, _method_of(data), data[8:20])
            self._state.refuse(path, bare, signing, stun.Code.BAD_REQUEST)
            return
        unknown = request.unknown_comprehension_required
        if unknown:
            attribute = stun.UnknownAttributes(unknown[:_MAX_UNKNOWN])
            self._state.refuse(path, request, signing, stun.Code.UNKNOWN_ATTRIBUTE, attribute)
            return
        handler(self._state, now, path, request, who)

    def _reject(self, now: float, path: ClientPath, data: bytes, why: Rejected) -> None:
        """Answer a request nobody has authenticated: small, unsigned, and never more than the budget allows."""
        self.counters[f"rejected_{int(why.code)}"] += 1
        if why.proven:
            self._note_proven(now, path)
        request = stun.Message(stun.MessageClass.REQUEST, _method_of(data), data[8:20])
        attributes: tuple[stun.Attribute, ...] = (stun.ErrorCode(why.code),)
        if why.code != stun.Code.BAD_REQUEST:
            attributes += self._authenticator.challenge(now, path.transport, path.remote)
        message = stun.Message(stun.MessageClass.ERROR, request.method, request.transaction_id, attributes)
        answer = stun.encode(message, fingerprint=False)
        # A connection's client has shown that it receives what it is sent.
        if path.transport != "udp" or self._budget.allows(now, path.remote.host, len(data), len(answer)):
            self._state.send(ToClient(path, answer))
        else:
            self.counters["rate_limited"] += 1

    def _note_proven(self, now: float, path: ClientPath) -> None:
        if path.transport == "udp":
            self._budget.note_proven(now, path.remote.host)

    def forward_to_peer(
        self, now: float, allocation: Allocation, data: bytes, segment_size: int
    ) -> list[PeerDatagrams]:
        """Return what ChannelData from a client becomes; `allocation` is from `flows`.

        Args:
            now: seconds.
            allocation: the client's.
            data: one message, or many back to back.
            segment_size: bytes of each but the last, padding included.
        """
        return relaying.channel_data_to_peer(self._state, now, allocation, data, segment_size)

    def forward_to_client(
        self, now: float, relay: RelayedAddress, remote: TransportAddress, data: bytes, segment_size: int
    ) -> list[bytes]:
        """Return what datagrams from a peer become: messages for `relay.allocation.path`, in order."""
        return relaying.peer_data_to_client(self._state, now, relay, remote, data, segment_size)

    def report_icmp(
        self, now: float, relay: RelayedAddress, remote: TransportAddress, icmp_type: int, icmp_code: int
    ) -> None:
        """Report to the client the ICMP error that a datagram from `relay` caused."""
        relaying.report_icmp(self._state, now, relay, remote, icmp_type, icmp_code)

    def handle_client_gone(self, now: float, path: ClientPath) -> None:
        """Note that the connection `path` is closed. RFC 8656 section 5: its allocation goes with it."""
        allocation = self._state.allocations.get(path)
        if allocation is not None:
            close_allocation(self._state, now, allocation, "gone")
        connection = self._state.data_paths.get(path)
        if connection is not None:
            close_connection(self._state, connection)

    # -- what the shell reports

    def set_own_addresses(self, own: Iterable[str]) -> None:
        """Note all addresses this machine has now, announced ones included; forbidden permissions are revoked."""
        set_own_addresses(self._state, own)

    def set_relay_hosts(self, now: float, hosts: Mapping[str, str]) -> None:
        """Bind relays to these addresses from now on; see `TurnServerConfig`. Those elsewhere end."""
        set_relay_hosts(self._state, now, hosts)

    def relay_opened(self, now: float, relay: RelayedAddress) -> bool:
        """Note that a relay is bound. False: it is no longer wanted, close it."""
        return relay_opened(self._state, now, relay)

    def relay_failed(self, now: float, relay: RelayedAddress) -> None:
        """Note that a relay could not be bound."""
        relay_failed(self._state, now, relay)

    def peer_connected(self, now: float, connection: PeerConnection) -> bool:
        """Note that a peer took our connection. False: it is no longer wanted, close it."""
        return connections.peer_connected(self._state, now, connection)

    def peer_failed(self, now: float, connection: PeerConnection) -> None:
        """Note that a peer did not take our connection."""
        connections.peer_failed(self._state, connection)

    def peer_arrived(self, now: float, relay: RelayedAddress, peer: TransportAddress) -> PeerConnection | None:
        """Note that a peer connected to a relayed address. None: it may not, close it."""
        return connections.peer_arrived(self._state, now, relay, peer)

    def connection_closed(self, now: float, connection: PeerConnection) -> None:
        """Note that a joined connection has ended, or its peer's side before it was joined."""
        close_connection(self._state, connection)

    # -- time, ends, output

    @property
    def is_draining(self) -> bool:
        """Whether new allocations are refused."""
        return self._state.draining

    def drain(self) -> None:
        """Refuse new allocations from now on; those there are may be refreshed."""
        self._state.draining = True

    def close(self, now: float) -> None:
        """End all allocations."""
        for allocation in list(self._state.allocations.values()):
            close_allocation(self._state, now, allocation, "closed")

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._state.deadlines.handle_timeout(now)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` is due; None: never."""
        return self._state.deadlines.next_timeout()

    def poll_transmit(self) -> ServerTransmit | None:
        """Return the next thing to send."""
        return self._state.transmits.popleft() if self._state.transmits else None

    def poll_event(self) -> Event | None:
        """Return the next thing to do or to know."""
        return self._state.events.popleft() if self._state.events else None


def _method_of(data: bytes) -> int:
    return split_message_type(int.from_bytes(data[:2], "big"))[1]
