"""From a code, or a rendezvous, to a sealed channel: invitation, join, and the proofs of both sides.

Source: docs/relay-protocol.md sections 6 and 7.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from icesignal import pake
from icesignal.channel import SealedChannel
from icesignal.client import Client, open_client
from icesignal.code import Code, generate_words, parse_code, parse_host_port
from icesignal.errors import CodeMalformed, CodeUnknown, CodeWrong, PeerLeft
from icesignal.expect import expect
from icesignal.pake import Rendezvous, SessionKeys
from icesignal.pauses import TIMEOUT_S
from icesignal.tasks import open_background
from icesignal.url import parse_relay_url

CONFIRMATION = b"\x01"
CONFIRM_TIMEOUT_S = 30.0


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
    is_long: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncGenerator[Invitation, None]:
    """Make a code at a relay. When the block ends, the conversation ends, too.

    Args:
        relay: a URL or several, or a client that is in no room yet. Of several relays the code says which one serves.
        address: `HOST:PORT` to put into the code behind an `@`, for a relay that the peer does not know.
        app_id: bound into the keys; both sides must use the same.
        is_long: whether the code has four words and not two: 36 bits, where codes are made again and again although
            somebody guesses them.
        ssl_context, timeout_s: as for `open_client`.
    Raises:
        CodeMalformed: `address` is not HOST:PORT.
        RelayUnreachable, RelayRefused, ProtocolMismatch: as for `open_client` and `Client.allocate`.
    """
    expect(Client, str, list, tuple, relay=relay)
    expect(str, app_id=app_id)
    expect(str, None, address=address)
    words = generate_words(is_long=is_long)
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
        is_dead = client.has_peer_hung_up
        what = "did not prove itself"
        if client.is_peer_away:  # for so long: its program was stopped, most likely; for less, it may come back
            what = "is gone: its connection to the relay has ended, and was not back"
        client.close("left")
        text = f"the other side {what} within {CONFIRM_TIMEOUT_S:g} s; use a new code"
        raise PeerLeft(text, is_dead=is_dead)
    if proof[:1] != CONFIRMATION or not keys.confirms(proof[1:]):
        client.close("code-wrong")
        raise CodeWrong(wrong)


def _start(client: Client, keys: SessionKeys, nursery: trio.Nursery) -> SealedChannel:
    channel = SealedChannel(client, keys)
    nursery.start_soon(channel.run)
    return channel
