"""The sealed channel: maps to and from the peer, through a relay that learns nothing of them.

Source: docs/relay-protocol.md section 8.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgpack
import trio

from icesignal import pake, wire
from icesignal.client import Client
from icesignal.errors import ChannelBroken, MessagesLost, SignalError
from icesignal.expect import expect
from icesignal.pake import Rendezvous, Role, SessionKeys
from icesignal.pauses import BACK_S
from icesignal.secretbox import COUNTER_BYTES, OVERHEAD_BYTES, Opener, OpenError, Sealer

KIND_MAP = b"\x00"
KIND_REPEAT = b"\x01"
MAX_BODY_BYTES = wire.MAX_PAYLOAD_BYTES - OVERHEAD_BYTES - 1
INBOX_MAPS = 256
UNSAID = 16  # ours: a side that never listens is to know that nobody does either


class SealedChannel:
    """Maps to and from the peer, end-to-end encrypted, in order, each once.

    It never raises by itself: when the relay or the peer is gone for good, the next `send` and `receive` say so.
    """

    def __init__(self, client: Client, keys: SessionKeys) -> None:
        self.counters: Counter[str] = Counter()
        self._client = client
        self._keys = keys
        self._sealer = Sealer(keys.derive(f"seal {keys.role}"), keys.transcript)
        self._opener = Opener(keys.derive(f"seal {pake.other(keys.role)}"), keys.transcript)
        self._inbox: deque[dict[str, Any]] = deque()
        self._over: SignalError | None = None
        self._changed = trio.Event()
        self._asked_for = -1
        self._unsaid = 0  # since the peer was last heard

    @property
    def role(self) -> Role:
        """`inviter` or `joiner`."""
        return self._keys.role

    @property
    def ice_servers(self) -> list[dict[str, Any]]:
        """The STUN and TURN servers that the relay recommends, as maps with `urls`, `username`, `credential`."""
        return self._client.ice_servers

    async def renew_ice_servers(self) -> list[dict[str, Any]]:
        """Ask for the ICE servers anew, with fresh credentials; see `Client.renew_ice_servers`."""
        return await self._client.renew_ice_servers()

    def report_outcome(self, outcome: Literal["direct", "relayed", "failed"], why: str, seconds: float) -> None:
        """Report to the relay's operator how the connection turned out; see `Client.report_outcome`."""
        self._client.report_outcome(outcome, why, seconds)

    async def wait_ice_servers(self, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Wait for others than these; see `Client.wait_ice_servers`."""
        return await self._client.wait_ice_servers(known)

    @property
    def rendezvous(self) -> Rendezvous:
        """What to keep in order to meet this peer again without a code."""
        return Rendezvous(self.role, self.key_of("rendezvous name"), self.key_of("rendezvous key"))

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be sent."""
        return self._over is not None

    @property
    def is_peer_away(self) -> bool:
        """Whether the relay says at this moment that the peer's connection to it is gone; it may come back."""
        return self._client.is_peer_away

    @property
    def has_peer_hung_up(self) -> bool:
        """Whether the peer is away and has closed its connection without a goodbye; see `Client.has_peer_hung_up`."""
        return self._client.has_peer_hung_up

    async def wait_peer_gone(self, seconds: float = BACK_S) -> None:
        """Wait until the peer has hung up and not been back for so long, as the relay says: it is gone, most likely.

        A peer whose connection has gone silent may be without a network and well; the relay keeps its place, and says
        at last that it has not come back. While our own connection is gone nothing is known of the peer, and the time
        begins anew: what cuts one, as a gateway that is started again, cuts both.

        Raises:
            SignalError: the conversation is over.
        """
        await self._wait_for(seconds, lambda: self.has_peer_hung_up)

    @property
    def is_alone(self) -> bool:
        """Whether nothing that is said now reaches the peer: it is away, or our own connection, or all is over."""
        return self.is_over or self.is_peer_away or not self._client.is_connected

    async def wait_alone(self, seconds: float) -> None:
        """Wait until we have been alone for so long, or the conversation is over."""
        with suppress(SignalError):
            await self._wait_for(seconds, lambda: self.is_alone)

    async def _wait_for(self, seconds: float, lasts: Callable[[], bool]) -> None:
        while True:
            while not lasts():
                if self._client.over is not None:
                    raise self._client.over
                await self._client.wait_change()
            if self._client.over is not None:
                raise self._client.over
            with trio.move_on_after(seconds) as patience:
                while lasts() and self._client.over is None:
                    await self._client.wait_change()
            if patience.cancelled_caught:
                return

    def look_again(self, present: Collection[str] | None = None) -> None:
        """See at once whether the connection to the relay still works; see `Client.look_again`."""
        self._client.look_again(present)

    def key(self, purpose: str, length: int = 32) -> bytes:
        """Return `length` bytes (1 to 8160) that only the two peers know, the same on both sides, for one purpose."""
        expect(str, purpose=purpose)
        expect(int, length=length)
        return self._keys.derive(f"application {purpose}", length)

    def key_of(self, label: str) -> bytes:
        """Return the 32-byte key of one of the protocol's own labels."""
        return self._keys.derive(label)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a map of msgpack's types.

        When the conversation is over, what the peer said last, perhaps why, is heard first: until it has been received,
        or `UNSAID` times, nothing is raised, and nothing sent.

        Raises:
            TypeError: it is no map.
            ValueError: it holds something else, or is longer than `MAX_BODY_BYTES` when packed.
            SignalError: the conversation is over.
        """
        expect(Mapping, message=message)
        try:
            body = bytes(msgpack.packb(dict(message), use_bin_type=True) or b"")
        except (TypeError, OverflowError) as error:
            raise ValueError(f"only what msgpack can express may be sent: {error}") from None
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"a message has at most {MAX_BODY_BYTES} bytes when packed, not {len(body)}")
        with suppress(SignalError):
            if self._over is None:
                await self._send_sealed(KIND_MAP + body)
                return
        await trio.lowlevel.checkpoint()
        while self._over is None and not self._inbox:  # what has arrived is being opened
            await self._changed.wait()
        self._unsaid += 1
        if not self._inbox or self._unsaid > UNSAID:
            raise self._over or SignalError("the conversation is over")

    async def receive(self) -> dict[str, Any]:
        """Return the peer's next map.

        Raises:
            PeerLeft: it ended the conversation.
            SignalError: the conversation is over for another reason. What had arrived is returned first.
        """
        while not self._inbox:
            if self._over is not None:
                raise self._over
            await self._changed.wait()
        await trio.lowlevel.checkpoint()
        message = self._inbox.popleft()
        self._unsaid = 0
        self._notify()
        return message

    def unread(self, messages: Sequence[dict[str, Any]]) -> None:
        """Put messages back that were received, for the next `receive`; the first of them comes first."""
        self._inbox.extendleft(reversed(messages))
        self._notify()

    def close(self) -> None:
        """End the conversation; the peer gets `PeerLeft`. Returns at once."""
        self._client.close("done")

    def leave(self) -> None:
        """End the conversation, but not what the two peers do: they go on without it, or meet elsewhere."""
        self._client.close("left")

    async def wait_over(self) -> None:
        """Wait until nothing more can be sent, and nothing more comes."""
        while self._over is None:
            await self._changed.wait()

    # -- the pump

    async def run(self) -> None:
        """Open what arrives until the end. Never raises but for cancellation."""
        try:
            while True:
                while len(self._inbox) >= INBOX_MAPS:
                    await self._changed.wait()
                try:
                    payload = await self._client.receive()
                except MessagesLost:
                    await self._ask_to_repeat()
                    continue
                await self._handle_payload(payload)
        except SignalError as error:
            self._over = error
        finally:
            self._over = self._over or SignalError("the conversation was ended here")
            self._notify()

    async def _handle_payload(self, payload: bytes) -> None:
        expected = self._opener.expected
        try:
            plaintext = self._opener.open(payload)
        except OpenError:
            self.counters["refused"] += 1
            return
        if plaintext is None:
            is_early = self._opener.counter_of(payload) > expected
            self.counters["early" if is_early else "replayed"] += 1
            if is_early:
                await self._ask_to_repeat()
            return
        kind, body = plaintext[:1], plaintext[1:]
        if kind == KIND_REPEAT and len(body) == COUNTER_BYTES:
            await self._repeat(int.from_bytes(body, "big"))
        elif kind == KIND_MAP:
            self._deliver(body)

    def _deliver(self, body: bytes) -> None:
        try:
            message = wire.unpack_map_untrusted(body)
        except wire.BadFrame:
            self.counters["refused"] += 1
            return
        self._inbox.append(message)
        self._notify()

    async def _ask_to_repeat(self) -> None:
        expected = self._opener.expected
        if self._asked_for == expected:
            return  # once for each place: a relay that reorders must not make us talk without end
        self._asked_for = expected
        self.counters["repeats_asked"] += 1
        await self._send_sealed(KIND_REPEAT + expected.to_bytes(COUNTER_BYTES, "big"))

    async def _send_sealed(self, plaintext: bytes) -> None:
        await self._client.wait_may_send()
        # No wait between sealing and queueing: several senders must go out in the order of their counters.
        self._client.send_nowait(self._sealer.seal(plaintext))

    async def _repeat(self, counter: int) -> None:
        payloads = self._sealer.since(counter)
        if payloads is None:
            self._client.close("left")
            raise ChannelBroken("the peer missed messages that are no longer kept; connect again")
        self.counters["repeated"] += len(payloads)
        for payload in payloads:
            await self._client.send(payload)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
