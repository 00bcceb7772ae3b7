"""A TURN server of a page for sans-IO tests: answers as it is told to, and remembers what it was asked."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from iceagent.core import stun, turn
from iceagent.core.address import TransportAddress, make_address

CLIENT = make_address("198.51.100.7", 40000)
SERVER = make_address("192.0.2.15", 3478)
RELAYED = make_address("192.0.2.15", 50000)
RELAYED6 = make_address("2001:db8::15", 50000)
PEER = make_address("203.0.113.9", 6000)
OTHER = make_address("203.0.113.10", 6000)
USER = turn.TurnCredentials("george", "secret")

Answer = Callable[[stun.Message], "stun.Message | None"]


def deterministic(seed: bytes = b"turn") -> Callable[[int], bytes]:
    state = hashlib.sha256(seed).digest()

    def randbytes(size: int) -> bytes:
        nonlocal state
        state = hashlib.sha256(state).digest()
        return state[:size]

    return randbytes


@dataclass
class Script:
    """The server; `answers` says what a method is answered with: an error code, or None for silence."""

    nonce: str = "obMatJos2gAAAone"
    password: str = "secret"
    modern: bool = True
    lifetime_s: int = 600
    dual: bool = False
    answers: dict[int, int | None] = field(default_factory=dict)
    asked: Counter[int] = field(default_factory=Counter)
    log: list[stun.Message] = field(default_factory=list)
    stale: int = 0  # how many requests are still to be answered with 438 and a fresh nonce
    alternate: TransportAddress | None = None

    def key(self, username: str) -> bytes:
        algorithm = stun.SHA256 if self.modern else stun.MD5
        return stun.long_term_key(username, "example.org", self.password, algorithm)

    def answer(self, data: bytes) -> bytes | None:
        request = stun.decode(data)
        if request.message_class is not stun.MessageClass.REQUEST:
            self.log.append(request)
            return None
        self.asked[request.method] += 1
        self.log.append(request)
        if self.alternate is not None:
            return stun.encode(stun.error(request, 300, "", stun.AlternateServer(self.alternate)), fingerprint=False)
        if self.answers.get(request.method, 0) is None:
            return None
        refusal = self._challenge(request)
        if refusal is not None:
            return refusal
        username = request.get(stun.Username)
        key = self.key("george" if username is None else username.value)
        integrity = stun.Integrity.SHA256 if self.modern else stun.Integrity.SHA1
        code = self.answers.get(request.method, 0)
        response = stun.error(request, code) if code else self._success(request)
        return stun.encode(response, key=key, integrity=integrity, fingerprint=False)

    def _challenge(self, request: stun.Message) -> bytes | None:
        nonce, username = request.get(stun.Nonce), request.get(stun.Username)
        extras: list[stun.Attribute] = [stun.Realm("example.org"), stun.Nonce(self.nonce)]
        if self.modern:
            extras.append(stun.PasswordAlgorithms((stun.MD5, stun.SHA256)))
        if nonce is None:
            return stun.encode(stun.error(request, 401, "", *extras), fingerprint=False)
        if self.stale:
            self.stale -= 1
            self.nonce += "x"
            extras[1] = stun.Nonce(self.nonce)
        if nonce.value != self.nonce:
            return stun.encode(stun.error(request, 438, "", *extras), fingerprint=False)
        name = "george" if username is None else username.value
        if not request.verify_integrity(self.key(name)):
            return stun.encode(stun.error(request, 401, "", *extras), fingerprint=False)
        return None

    def _success(self, request: stun.Message) -> stun.Message:
        if request.method == stun.Method.ALLOCATE:
            relayed = [stun.XorRelayedAddress(RELAYED)]
            if self.dual:
                relayed.append(stun.XorRelayedAddress(RELAYED6))
            lifetime = stun.Lifetime(self.lifetime_s)
            return stun.success(request, *relayed, stun.XorMappedAddress(CLIENT), lifetime)
        if request.method == stun.Method.REFRESH:
            asked = request.get(stun.Lifetime)
            zero = asked is not None and asked.value == 0
            return stun.success(request, stun.Lifetime(0 if zero else self.lifetime_s))
        if request.method == stun.Method.CONNECT:
            return stun.success(request, stun.ConnectionId(7))
        return stun.success(request)


class Duo:
    """A client and its scripted server with an ideal line between them, and the time."""

    def __init__(
        self, script: Script | None = None, *, credentials: turn.TurnCredentials | None = USER, **options
    ) -> None:
        self.server = script or Script()
        self.client = turn.TurnClient(CLIENT, SERVER, credentials, randbytes=deterministic(), **options)
        self.now = 0.0
        self.events: list[turn.TurnEvent] = []
        self.sent: list[bytes] = []

    def settle(self) -> None:
        """Carry messages both ways until nobody has anything to say."""
        while (transmit := self.client.poll_transmit()) is not None:
            self.sent.append(transmit.data)
            if turn.is_channel_data(transmit.data):
                continue
            response = self.server.answer(transmit.data)
            if response is not None:
                assert self.client.unwrap(self.now, response) is None
        while (event := self.client.poll_event()) is not None:
            self.events.append(event)

    def allocate(self) -> turn.Allocated:
        self.client.start(self.now)
        self.settle()
        assert self.client.allocated is not None, self.events
        return self.client.allocated

    def run_until(self, at: float) -> None:
        """Let time pass; the client is called when it wants to be."""
        while (due := self.client.next_timeout()) is not None and due <= at:
            self.now = max(self.now, due)
            self.client.handle_timeout(self.now)
            self.settle()
            following = self.client.next_timeout()
            assert following is None or following > self.now, "rule 3"
        self.now = at

    def permit(self, peer: TransportAddress = PEER) -> None:
        self.client.permit(self.now, peer.host)
        self.settle()

    def send(self, *datagrams: bytes, peer: TransportAddress = PEER) -> list[bytes]:
        """Send to a peer that may be sent to; return the messages for the server."""
        messages = self.offer(*datagrams, peer=peer)
        assert messages is not None, "the peer has no permission"
        return messages

    def offer(self, *datagrams: bytes, peer: TransportAddress = PEER) -> list[bytes] | None:
        """Send if the peer may be sent to."""
        messages = self.client.wrap(self.now, peer, datagrams)
        self.settle()
        return messages

    def ended(self) -> turn.Ended | None:
        return next((event for event in self.events if isinstance(event, turn.Ended)), None)

    def end(self) -> turn.Ended:
        """Return how it ended, as it must have."""
        ended = self.ended()
        assert ended is not None, self.events
        return ended
