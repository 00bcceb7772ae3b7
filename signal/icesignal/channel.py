"""From a code to a sealed channel: invitation, join, key confirmation, and what comes after it.

Source: docs/relay-protocol.md sections 6 to 8.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter, deque
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import msgpack
import trio

from icesignal import pake, wire
from icesignal.client import Client, open_client
from icesignal.code import Code, generate_words, parse_code, parse_host_port
from icesignal.errors import ChannelBroken, CodeMalformed, CodeUnknown, CodeWrong, MessagesLost, PeerLeft, SignalError
from icesignal.expect import expect
from icesignal.pake import Rendezvous, Role, SessionKeys
from icesignal.pauses import BACK_S, TIMEOUT_S
from icesignal.secretbox import COUNTER_BYTES, OVERHEAD_BYTES, Opener, OpenError, Sealer
from icesignal.tasks import open_background
from icesignal.url import parse_relay_url

logger = logging.getLogger("icesignal.channel")
CONFIRMATION = b"\x01"
KIND_MAP = b"\x00"
KIND_REPEAT = b"\x01"
MAX_BODY_BYTES = wire.MAX_PAYLOAD_BYTES - OVERHEAD_BYTES - 1
CONFIRM_TIMEOUT_S = 30.0
INBOX_MAPS = 256


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

    async def wait_peer_gone(self, seconds: float = BACK_S, *, hung_up: bool = True) -> None:
        """Wait until the peer has hung up and not been back for so long, as the relay says: it is gone, most likely.

        A peer whose connection has gone silent may be without a network and well: with `hung_up` False it is waited for
        that, too. While our own connection is gone nothing is known of the peer, and the time begins anew: what cuts
        one, as a gateway that is started again, cuts both.

        Raises:
            SignalError: the conversation is over.
        """
        while True:
            while not (self.has_peer_hung_up if hung_up else self.is_peer_away):
                if self._client.over is not None:
                    raise self._client.over
                await self._client.wait_change()
            with trio.move_on_after(seconds) as patience:
                while self.has_peer_hung_up if hung_up else self.is_peer_away:
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

        When the conversation is over, what the peer said last, perhaps why, is heard first: until it has been received
        nothing is raised, and nothing sent.

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
        if self._over is not None and not self._inbox:
            raise self._over

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
        self._notify()
        return message

    def unread(self, messages: Sequence[dict[str, Any]]) -> None:
        """Put messages back that were received, for the next `receive`; the first of them comes first."""
        self._inbox.extendleft(reversed(messages))
        self._notify()

    def close(self) -> None:
        """End the conversation; the peer gets `PeerLeft`. Returns at once."""
        self._client.close("done")

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


class Invitation:
    """A code that waits for its one use. Made by `open_invitation`."""

    def __init__(self, client: Client, code: Code, exchange: pake.Pake, nursery: trio.Nursery) -> None:
        self._client = client
        self._code = code
        self._exchange = exchange
        self._nursery = nursery
        self._used = False

    @property
    def code(self) -> str:
        """What the other side has to be given."""
        return str(self._code)

    @property
    def nameplate(self) -> str:
        """The number in front of the code; no secret."""
        return self._code.nameplate

    @property
    def ice_servers(self) -> list[dict[str, Any]]:
        """The STUN and TURN servers that the relay recommends; known before anybody joins."""
        return self._client.ice_servers

    def look_again(self, present: Collection[str] | None = None) -> None:
        """See at once whether the connection to the relay still works; see `Client.look_again`."""
        self._client.look_again(present)

    async def wait_peer(self) -> SealedChannel:
        """Wait until somebody joins with the right words. May be called once: the code is good for one guess.

        Raises:
            CodeWrong: somebody joined with other words, or left without proving that it had the right ones.
            CodeExpired: the relay keeps the code no longer.
            SignalError: the relay is gone for good.
        """
        if self._used:
            raise RuntimeError("an invitation is good for one peer; open another")
        self._used = True
        opening = await self._client.wait_peer()
        try:
            keys = self._exchange.finish(opening, room=self._client.room)
        except pake.PakeError:
            self._client.close("code-wrong")
            raise CodeWrong(_INVITER_WRONG) from None
        try:
            await _confirm(self._client, keys, _INVITER_WRONG)
        except PeerLeft:
            raise CodeWrong(
                "somebody joined and left without showing that it knew the code; the code is dead. Make a new one."
            ) from None
        return _start(self._client, keys, self._nursery)


_INVITER_WRONG = "somebody joined with a wrong code; the code is dead. Make a new one."
_JOINER_WRONG = "the code is wrong, and dead now. Ask the other side for a new one."
_STRANGER = "whoever waits at the rendezvous does not have the key of the earlier session."


@asynccontextmanager
async def open_invitation(
    relay: Client | str | Sequence[str],
    *,
    address: str | None = None,
    app_id: str = pake.APP_ID,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncGenerator[Invitation, None]:
    """Make a code at a relay. When the block ends, the conversation ends, too.

    Args:
        relay: a URL or several, or a client that is in no room yet. Of several relays the code says which one serves.
        address: `HOST:PORT` to put into the code behind an `@`, for a relay that the peer does not know.
        app_id: bound into the keys; both sides must use the same.
        ssl_context, timeout_s: as for `open_client`.
    Raises:
        CodeMalformed: `address` is not HOST:PORT.
        RelayUnreachable, RelayRefused, ProtocolMismatch: as for `open_client` and `Client.allocate`.
    """
    expect(Client, str, list, tuple, relay=relay)
    expect(str, app_id=app_id)
    expect(str, None, address=address)
    words = generate_words()
    where = None if address is None else parse_host_port(address)
    async with _client_of(relay, ssl_context, timeout_s) as client, open_background() as nursery:
        exchange = pake.Pake("inviter", "-".join(words), app_id=app_id)
        nameplate = await client.allocate(exchange.message)
        where = client.place.in_code if where is None and client.has_choice else where
        yield Invitation(client, Code(nameplate, words, where), exchange, nursery)


@asynccontextmanager
async def open_join(
    relay: Client | str | Sequence[str] | None,
    code: Code | str,
    *,
    app_id: str = pake.APP_ID,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncGenerator[SealedChannel, None]:
    """Use a code; yields when both sides have proved that they know it. When the block ends, the conversation ends.

    Args:
        relay: a URL or several, or a client that is in no room yet; a code with an `@` names the relay itself, and of a
            client with several relays it must be the one that serves.
        code: as the other side read it out, or parsed.
        app_id, ssl_context, timeout_s: as for `open_invitation`.
    Raises:
        CodeMalformed: the text is no code, or names no relay while `relay` is None or several.
        CodeUnknown, CodeExpired, Crowded: the nameplate leads nowhere, or not at the relay of this client.
        CodeWrong: the words are wrong; the code is dead now.
        PeerLeft: the other side is not there any more.
        RelayUnreachable, RelayRefused, ProtocolMismatch: as for `open_client`.
    """
    expect(Client, str, list, tuple, None, relay=relay)
    expect(Code, str, code=code)
    expect(str, app_id=app_id)
    parsed = parse_code(code) if isinstance(code, str) else code
    parsed.check_words()  # before anything is sent: the code is good for one try
    target = relay if isinstance(relay, Client) else parsed.relay_among(_listed(relay))
    if isinstance(relay, Client) and relay.has_choice:
        target = _client_at_place(relay, parsed)
    if target is None:
        raise CodeMalformed(
            f"the code {parsed.nameplate}-... does not say at which relay; name one, or use a code with @HOST:PORT"
        )
    exchange = pake.Pake("joiner", parsed.password, app_id=app_id)
    async with _client_of(target, ssl_context, timeout_s) as client, open_background() as nursery:
        room = await client.join(parsed.nameplate, exchange.message)
        opening = await _present_inviter(client)
        try:
            keys = exchange.finish(opening, room=room)
        except pake.PakeError:
            client.close("code-wrong")
            raise CodeWrong(_JOINER_WRONG) from None
        await _confirm(client, keys, _JOINER_WRONG)
        yield _start(client, keys, nursery)


def _client_at_place(client: Client, code: Code) -> Client | None:
    """Return the client if it is at the relay that a code names, None if it names none: nothing is guessed.

    Raises:
        CodeUnknown: it is at another one.
    """
    if code.relay_url is None:
        return None
    if not parse_relay_url(code.relay_url).is_same_place(client.place):
        raise CodeUnknown(f"the code was made at {code.relay_url}, and not at {client.url}; connect to the former")
    return client


@asynccontextmanager
async def open_rendezvous(
    relay: Client | str | Sequence[str],
    rendezvous: Rendezvous,
    *,
    app_id: str = pake.APP_ID,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncGenerator[SealedChannel, None]:
    """Meet the peer of an earlier `SealedChannel` again; waits for it without limit.

    Yields when both sides have proved themselves. When the block ends, the conversation ends.

    Raises:
        Crowded: this place is taken.
        CodeWrong: somebody is there who does not have the key.
        PeerLeft: the other side came and left.
        RelayUnreachable, RelayRefused, ProtocolMismatch: as for `open_client`.
    """
    expect(Client, str, list, tuple, relay=relay)
    expect(Rendezvous, rendezvous=rendezvous)
    expect(str, app_id=app_id)
    async with _client_of(relay, ssl_context, timeout_s) as client, open_background() as nursery:
        meeting = pake.Meeting(rendezvous.role, rendezvous.key, app_id=app_id)
        room = await client.meet(rendezvous.name, rendezvous.role, meeting.message)
        try:
            keys = meeting.finish(await client.wait_peer(), room=room)
        except pake.PakeError:
            client.close("code-wrong")
            raise CodeWrong(_STRANGER) from None
        await _confirm(client, keys, _STRANGER)
        yield _start(client, keys, nursery)


@asynccontextmanager
async def _client_of(
    relay: Client | str | Sequence[str], ssl_context: ssl.SSLContext | None, timeout_s: float
) -> AsyncGenerator[Client, None]:
    if isinstance(relay, Client):
        try:
            yield relay
        finally:
            relay.close("left")
        return
    async with open_client(relay, ssl_context=ssl_context, timeout_s=timeout_s) as client:
        yield client


def _listed(relay: str | Sequence[str] | None) -> Sequence[str]:
    return [] if relay is None else [relay] if isinstance(relay, str) else relay


async def _present_inviter(client: Client) -> bytes:
    """Return the opening of whoever made the room: there at once, unless the relay does not keep to its protocol.

    Raises:
        PeerLeft: the relay says that nobody has made it.
    """
    with trio.move_on_after(CONFIRM_TIMEOUT_S):
        return await client.wait_peer()
    client.close("left")
    raise PeerLeft(f"the relay has not had a word of the other side for {CONFIRM_TIMEOUT_S:g} s; use a new code")


async def _confirm(client: Client, keys: SessionKeys, wrong: str) -> None:
    """Prove ourselves and check the peer's proof, before anything else is said."""
    proof: bytes | None = None
    with trio.move_on_after(CONFIRM_TIMEOUT_S):
        try:
            await client.send(CONFIRMATION + keys.confirmation())
            proof = await client.receive()
        except CodeWrong:
            raise CodeWrong(wrong) from None
    if proof is None:
        what = "did not prove itself"
        if client.is_peer_away:  # for so long: its program was stopped, most likely; for less, it may come back
            what = "is gone: its connection to the relay has ended, and was not back"
        client.close("left")
        raise PeerLeft(f"the other side {what} within {CONFIRM_TIMEOUT_S:g} s; use a new code")
    if proof[:1] != CONFIRMATION or not keys.confirms(proof[1:]):
        client.close("code-wrong")
        raise CodeWrong(wrong)


def _start(client: Client, keys: SessionKeys, nursery: trio.Nursery) -> SealedChannel:
    channel = SealedChannel(client, keys)
    nursery.start_soon(channel.run)
    return channel
