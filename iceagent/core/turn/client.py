"""The TURN client: one allocation on one server over one 5-tuple, sans-IO. RFC 8656, RFC 6062."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence

from iceagent.core import stun
from iceagent.core.address import TransportAddress
from iceagent.core.transmit import Transmit
from iceagent.core.turn.channel_data import decode_channel_data, encode_channel_batch, is_channel_data
from iceagent.core.turn.channel_data import strip_channel_batch as strip
from iceagent.core.turn.client_auth import ClientAuthenticator
from iceagent.core.turn.client_liveness import ServerLiveness
from iceagent.core.turn.client_peers import Peers, PeerState
from iceagent.core.turn.client_requests import Requester, RequestOutcome
from iceagent.core.turn.client_values import (
    CLIENT_TRANSITIONS,
    DEFAULT_LIFETIME_S,
    KEEPALIVE_S,
    MAX_EVENTS,
    MAX_LIFETIME_S,
    PROBE_TIMEOUT_S,
    REFRESH_MARGIN_S,
    RETRY_S,
    Allocated,
    AllocationRequest,
    ClientState,
    Connected,
    ConnectFailed,
    ConnectionAttempted,
    CredentialsChanged,
    Ended,
    EndReason,
    PeerUnreachable,
    TurnEvent,
)
from iceagent.core.turn.credentials import TurnCredentials
from iceagent.errors import LocalError

_FIRST_DATA_BYTE = 4
"""RFC 7983: below it is STUN, that is a connectivity check; a peer gets a channel when data goes to it."""

_DEFAULT_REQUEST = AllocationRequest()


class TurnClient:
    """One allocation, from its request to its end; a new one is another client (and, after 437, another socket).

    Use: call one method, then drain `poll_transmit` and `poll_event`, then wait for a message or `next_timeout`. The
    hot path is apart from that: `wrap` turns datagrams into what goes to the server, `unwrap` and `unwrap_batch` turn
    back what comes from it. Nothing that comes from the network raises.

    Args:
        local: our address, as the 5-tuple has it.
        server: the server's.
        credentials: None where it asks for none.
        randbytes: source of unpredictable bytes.
        request: what to ask for.
        stream: the transport is a stream (TCP, TLS): reliable, and ChannelData is padded.
    """

    def __init__(
        self,
        local: TransportAddress,
        server: TransportAddress,
        credentials: TurnCredentials | None,
        *,
        randbytes: Callable[[int], bytes],
        request: AllocationRequest = _DEFAULT_REQUEST,
        stream: bool = False,
    ) -> None:
        self.local = local
        self.server = server
        self.state = ClientState.NEW
        self.allocated: Allocated | None = None
        self.is_answered = False
        """Whether the server has answered a request, with whatever it may be: it hears us, and we hear it."""
        self.counters: Counter[str] = Counter()
        self._request = request
        self._stream = stream
        self._auth = ClientAuthenticator(credentials)
        self._requests = Requester(local, server, self._auth, randbytes, reliable=stream)
        self._peers = Peers(self._requests, self._emit, self._release, self._gone)
        self._liveness = ServerLiveness()
        self._events: deque[TurnEvent] = deque(maxlen=MAX_EVENTS)
        self._messages: deque[bytes] = deque()
        self._families: frozenset[int] = frozenset()
        self._lifetime_s = 0.0
        self._refresh_at: float | None = None
        self._expires_at: float | None = None
        self._kept_alive_at = 0.0
        self._has_new_timer = False

    # The allocation

    def start(self, now: float) -> None:
        """Ask for the allocation.

        Raises:
            LocalError: it was asked for before.
        """
        if self.state is not ClientState.NEW:
            raise LocalError("a TURN client makes one allocation; make another client for another one")
        self._move(ClientState.ALLOCATING)
        self._requests.start(now, stun.Method.ALLOCATE, tuple(self._request.attributes()), self._allocate_done)

    def release(self, now: float) -> None:
        """Give the allocation back; `Ended` follows when the server has answered. Without one, end at once.

        A server that has given us a nonce may be granting the allocation at this moment, and would keep it for ten
        minutes; so it is asked not to. It answers 437 if there was nothing to give back.
        """
        may_have_granted = self.state is ClientState.ALLOCATING and self._auth.nonce != ""
        if self.state is ClientState.ALLOCATED or may_have_granted:
            self._move(ClientState.RELEASING)
            self._refresh_at = self._expires_at = None
            self._peers.clear()
            self._requests.close()
            self._requests.start(now, stun.Method.REFRESH, (stun.Lifetime(0),), self._release_done)
        elif self.state is not ClientState.RELEASING:
            self._end(Ended(EndReason.CLOSED))

    def connection_lost(self) -> None:
        """Take note that the transport is gone."""
        self._end(Ended(EndReason.CONNECTION_LOST))

    def close(self) -> None:
        """Forget all at once; no timer is left."""
        self._end(Ended(EndReason.CLOSED))
        self._messages.clear()

    def set_credentials(self, now: float, credentials: TurnCredentials) -> None:
        """Use new credentials, such as are given out before the old ones expire.

        The allocation is refreshed with them at once. RFC 8656 section 5 binds an allocation to its user name, so a
        server may refuse another one (441): then the old credentials serve this allocation on, and the new ones the
        next. `CredentialsChanged` says which.
        """
        if self.state is not ClientState.ALLOCATED:
            self._auth.credentials = credentials
            return
        self._requests.start(
            now,
            stun.Method.REFRESH,
            self._refresh_attributes(),
            lambda at, outcome: self._credentials_done(at, credentials, outcome),
            credentials=credentials,
        )

    def note_unreachable(self, now: float) -> None:
        """Take note of an ICMP error about the server.

        Before there is an allocation that is its answer, and another address may be tried at once (RFC 5928 section 3).
        Of one that stands the server is asked at once whether it lives, and no more: ICMP is not authenticated.
        """
        if self.state is ClientState.ALLOCATING:
            self._end(Ended(EndReason.NO_ANSWER, None, "nobody is there, or nobody listens"))
        elif self.state is ClientState.ALLOCATED:
            self._liveness.doubt(now)
            self._advance(now)

    # Peers

    def permit(self, now: float, host: str) -> PeerState:
        """Let datagrams of an address pass, before anything is sent to it; return how far that is."""
        if self.state is not ClientState.ALLOCATED or (6 if ":" in host else 4) not in self._families:
            return PeerState.FAILED
        return self._peers.permit(now, host)

    def permission(self, host: str) -> PeerState | None:
        """Return how the permission of an address stands, or None before it was asked for."""
        return self._peers.state_of(host)

    def wrap(self, now: float, peer: TransportAddress, datagrams: Sequence[bytes]) -> list[bytes] | None:
        """Return the messages that carry `datagrams` to `peer`, to be sent to the server in this order.

        Returns:
            None where the permission is not there (yet): see `permission` and `hold`. All messages of equal datagrams
            are of equal length, ready for one GSO call.
        """
        number = self._peers.numbers.get(peer)
        if number is None:
            return self._wrap_slowly(now, peer, datagrams)
        if self._liveness.sent(now):
            self._has_new_timer = True
        messages = encode_channel_batch(number, datagrams)
        return [message + bytes(-len(message) & 3) for message in messages] if self._stream else messages

    @property
    def has_news(self) -> bool:
        """Whether `wrap` has left something to poll, or `next_timeout` may have become earlier; asking clears it.

        It spares the hot path two polls per batch.
        """
        has_news = self._has_new_timer
        self._has_new_timer = False
        return has_news

    def hold(self, peer: TransportAddress, datagrams: Sequence[bytes]) -> int:
        """Keep datagrams whose permission is pending; they leave in order when it stands. Return how many fit."""
        if self._peers.state_of(peer.host) is not PeerState.PENDING:
            return 0
        return self._peers.hold(peer, datagrams)

    def unwrap(self, now: float, data: bytes) -> tuple[TransportAddress, bytes] | None:
        """Take one message of the server; return (peer, payload) if it carries data, else deal with it."""
        if is_channel_data(data):
            decoded = decode_channel_data(data)
            peer = None if decoded is None else self._peers.by_number.get(decoded[0])
            if decoded is None or peer is None:
                self.counters["unknown_channel"] += 1
                return None
            self._liveness.heard(data=True)
            return peer, decoded[1]
        return self._handle_stun(now, data)

    def unwrap_batch(self, now: float, data: bytes, segment_size: int) -> list[tuple[TransportAddress, bytes, int]]:
        """Take a buffer as UDP_GRO delivers it; return (peer, payloads back to back, size of each but the last)."""
        stripped = strip(data, segment_size)
        if stripped is not None:
            peer = self._peers.by_number.get(stripped[0])
            if peer is not None:
                self._liveness.heard(data=True)
                payloads = stripped[1]
                return [(peer, b"".join(payloads), len(payloads[0]) or 1)] if payloads[0] else [(peer, b"", 1)]
        found: list[tuple[TransportAddress, bytes, int]] = []
        for at in range(0, max(1, len(data)), segment_size):
            carried = self.unwrap(now, data[at : at + segment_size])
            if carried is not None:
                found.append((*carried, len(carried[1]) or 1))
        return found

    def connect(self, now: float, peer: TransportAddress) -> None:
        """Let the server connect to a peer over TCP; `Connected` or `ConnectFailed` follows. RFC 6062 section 4.3."""
        self._requests.start(
            now,
            stun.Method.CONNECT,
            (stun.XorPeerAddress(peer),),
            lambda _, outcome: self._connect_done(peer, outcome),
        )

    @property
    def authenticator(self) -> ClientAuthenticator:
        """What authenticates requests of this allocation, those on its data connections among them."""
        return self._auth

    # Time, and what comes out

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._requests.handle_timeout(now)
        self._advance(now)

    def next_timeout(self) -> float | None:
        """Return when `handle_timeout` wants to be called, or None."""
        times = [self._requests.next_timeout()]
        if self.state is ClientState.ALLOCATED:
            times += [self._refresh_at, self._expires_at, self._peers.next_timeout(), self._liveness.next_timeout()]
            times.append(self._kept_alive_at + KEEPALIVE_S)
        return min((at for at in times if at is not None), default=None)

    def poll_transmit(self) -> Transmit | None:
        """Return the next message for the server, or None."""
        transmit = self._requests.poll_transmit()
        if transmit is None and self._messages:
            transmit = Transmit(self.local, self.server, self._messages.popleft())
        return transmit

    def poll_event(self) -> TurnEvent | None:
        """Return the next event, or None."""
        return self._events.popleft() if self._events else None

    # Within: messages

    def _wrap_slowly(self, now: float, peer: TransportAddress, datagrams: Sequence[bytes]) -> list[bytes] | None:
        if self.permit(now, peer.host) is not PeerState.READY:
            return None
        if any(datagram and datagram[0] >= _FIRST_DATA_BYTE for datagram in datagrams):
            self._peers.want_channel(now, peer)
        self._liveness.sent(now)
        self._has_new_timer = True
        return [self._send_indication(peer, datagram) for datagram in datagrams]

    def _send_indication(self, peer: TransportAddress, datagram: bytes) -> bytes:
        attributes: Iterable[stun.Attribute] = (stun.XorPeerAddress(peer), stun.Data(datagram))
        if self._request.dont_fragment:
            attributes = (stun.XorPeerAddress(peer), stun.DontFragment(), stun.Data(datagram))
        return self._requests.indicate(stun.Method.SEND, *attributes)

    def _release(self, peer: TransportAddress, datagrams: Sequence[bytes]) -> None:
        """Queue what had to wait for its permission."""
        self._messages.extend(self._send_indication(peer, datagram) for datagram in datagrams)

    def _handle_stun(self, now: float, data: bytes) -> tuple[TransportAddress, bytes] | None:
        try:
            message = stun.decode(data)
        except stun.StunError as malformed:
            self.counters[malformed.reason.value] += 1
            return None
        if message.message_class is stun.MessageClass.INDICATION:
            return self._handle_indication(message)
        if not self._requests.handle_message(now, message):
            self.counters["unexpected"] += 1
        else:
            self.is_answered = True
            if self.state is ClientState.ALLOCATED:
                self._liveness.heard(data=False)
        self._advance(now)
        return None

    def _handle_indication(self, message: stun.Message) -> tuple[TransportAddress, bytes] | None:
        peer = message.get(stun.XorPeerAddress)
        if peer is None or self.state is not ClientState.ALLOCATED or message.unknown_comprehension_required:
            self.counters["indication"] += 1
            return None
        if message.method == stun.Method.CONNECTION_ATTEMPT:
            connection = message.get(stun.ConnectionId)
            if connection is not None:
                self._emit(ConnectionAttempted(peer.address, connection.value))
            return None
        icmp, carried = message.get(stun.Icmp), message.get(stun.Data)
        if message.method != stun.Method.DATA:
            self.counters["indication"] += 1
        elif icmp is not None:
            self._emit(PeerUnreachable(peer.address, icmp.type, icmp.code))
        elif carried is not None and self._peers.state_of(peer.address.host) is not None:
            self._liveness.heard(data=True)
            return peer.address, carried.value
        else:
            self.counters["no_permission"] += 1  # RFC 8656 section 11.4: not from a peer we have permitted
        return None

    # Within: the allocation's life

    def _allocate_done(self, now: float, outcome: RequestOutcome) -> None:
        response = outcome.response
        if response is None:
            self._end(_ended(outcome))
            return
        relayed = sorted({found.address for found in response.get_all(stun.XorRelayedAddress)}, key=lambda a: a.family)
        mapped, lifetime = response.get(stun.XorMappedAddress), response.get(stun.Lifetime)
        if not relayed or mapped is None or len({address.family for address in relayed}) != len(relayed):
            self._end(Ended(EndReason.REFUSED, None, "it allocated no address that could be read"))
            return
        token = response.get(stun.ReservationToken)
        refused = tuple(
            (6 if found.family == stun.FAMILY_IPV6 else 4, found.code)
            for found in response.get_all(stun.AddressErrorCode)
        )
        lifetime_s = DEFAULT_LIFETIME_S if lifetime is None else lifetime.value
        token_bytes = None if token is None else token.value
        self._move(ClientState.ALLOCATED)
        self._families = frozenset(address.family for address in relayed)
        self.allocated = Allocated(tuple(relayed), mapped.address, lifetime_s, token_bytes, refused)
        self._kept_alive_at = now
        self._refreshed(now, lifetime_s)
        self._emit(self.allocated)

    def _refreshed(self, now: float, lifetime_s: float) -> None:
        self._lifetime_s = min(max(lifetime_s, 1.0), MAX_LIFETIME_S)
        self._expires_at = now + self._lifetime_s
        self._refresh_at = self._expires_at - min(REFRESH_MARGIN_S, self._lifetime_s / 2)

    def _refresh(self, now: float, timeout_s: float | None = None) -> None:
        self._requests.start(
            now, stun.Method.REFRESH, self._refresh_attributes(), self._refresh_done, timeout_s=timeout_s
        )

    def _refresh_attributes(self) -> tuple[stun.Attribute, ...]:
        """Return what the example of RFC 8656 section 20 shows: without LIFETIME the server takes its default."""
        return (stun.Software(self._request.software),) if self._request.software else ()

    def _refresh_done(self, now: float, outcome: RequestOutcome) -> None:
        if self.state is not ClientState.ALLOCATED:
            return
        if outcome.response is not None:
            lifetime = outcome.response.get(stun.Lifetime)
            self._refreshed(now, DEFAULT_LIFETIME_S if lifetime is None else lifetime.value)
        elif outcome.is_ambiguous or outcome.reason is EndReason.CREDENTIALS_REFUSED:
            # Silence is tried again until the allocation has run out. Credentials may be renewed in time.
            self._refresh_at = now + RETRY_S if self._refresh_at is None else min(self._refresh_at, now + RETRY_S)
        else:
            self._end(_ended(outcome))

    def _credentials_done(self, now: float, credentials: TurnCredentials, outcome: RequestOutcome) -> None:
        accepted = outcome.response is not None
        if accepted:
            self._auth.credentials = credentials
            self._refresh_done(now, outcome)
        elif outcome.code == 437:
            self._gone(outcome)
            return
        self._emit(CredentialsChanged(accepted))

    def _connect_done(self, peer: TransportAddress, outcome: RequestOutcome) -> None:
        connection = None if outcome.response is None else outcome.response.get(stun.ConnectionId)
        if connection is not None:
            self._emit(Connected(peer, connection.value))
        elif outcome.code == 437:
            self._gone(outcome)
        else:
            self._emit(ConnectFailed(peer, outcome.code))

    def _release_done(self, _now: float, _outcome: RequestOutcome) -> None:
        self._end(Ended(EndReason.CLOSED))

    def _gone(self, outcome: RequestOutcome) -> None:
        self._end(_ended(outcome))

    def _advance(self, now: float) -> None:
        """Do what is due by the clock."""
        if self.state is not ClientState.ALLOCATED:
            return
        if self._expires_at is not None and now >= self._expires_at:
            self._end(Ended(EndReason.EXPIRED))
            return
        if self._liveness.is_dead(now):
            self._end(Ended(EndReason.NO_ANSWER))
            return
        if self._refresh_at is not None and now >= self._refresh_at:
            self._refresh_at = None
            self._refresh(now)
        if self._liveness.is_probe_due(now):
            self._refresh(now, PROBE_TIMEOUT_S)
        self._peers.handle_timeout(now)
        if now >= self._kept_alive_at + KEEPALIVE_S:
            self._kept_alive_at = now
            self._messages.append(self._requests.indicate(stun.Method.BINDING))

    def _end(self, ended: Ended) -> None:
        if self.state is ClientState.ENDED:
            return
        self._move(ClientState.ENDED)
        self._requests.close()
        self._peers.clear()
        self._refresh_at = self._expires_at = None
        self._emit(ended)

    def _move(self, new: ClientState) -> None:
        assert new in CLIENT_TRANSITIONS[self.state], f"{self.state} to {new}"
        self.state = new

    def _emit(self, event: TurnEvent) -> None:
        self._events.append(event)


def _ended(outcome: RequestOutcome) -> Ended:
    error = outcome.error
    alternate = None if error is None else error.get(stun.AlternateServer)
    domain = None if error is None else error.get(stun.AlternateDomain)
    return Ended(
        reason=outcome.reason or EndReason.REFUSED,
        code=outcome.code,
        detail=outcome.detail,
        alternate=None if alternate is None else alternate.address,
        alternate_domain=None if domain is None else domain.value,
    )
