"""Pairing: a code session in which two sides come to know each other for good."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import icesignal
import trio

from iceagent.core.checked import checked
from iceagent.errors import RemoteError
from iceagent.net import Network
from iceagent.session.errors import NobodyCame, PeerLeft
from iceagent.session.pairing.identity import Identity, PublicIdentity
from iceagent.session.pairing.proof import PAIR_PURPOSE, PairingExchange
from iceagent.session.pairing.store import PeerStore, check_name, safe_name
from iceagent.session.pairing.words import Words, agree_on_words
from iceagent.session.relay import Relays, open_client, open_relay, parse_code, relay_for, signal_errors
from iceagent.session.within import on_network

SPEECH_S: Final = 60.0  # ours: for the other side's program, which answers at once
ACCEPT_S: Final = 900.0  # ours: for the person there, who hears five words and reads five out
LINGER_S: Final = 2.0  # ours: for the last words of both to arrive before the conversation is ended


class Pairing:
    """A pairing that is under way; made by `iceagent.pair`. Nothing is kept before both sides have accepted.

    Attributes:
        code: what the other side has to be given.
        relay_url: of the relay, as it may be shown.
    """

    def __init__(
        self,
        identity: Identity,
        store: PeerStore,
        wait_channel: Callable[[], Awaitable[icesignal.SealedChannel]],
        *,
        code: str,
        relay_url: str,
        name: str | None,
        own_name: str,
    ) -> None:
        self.code = code
        self.relay_url = relay_url
        self._identity = identity
        self._store = store
        self._wait_channel = wait_channel
        self._name = name
        self._own_name = own_name
        self._channel: icesignal.SealedChannel | None = None
        self._exchange: PairingExchange | None = None

    @property
    def peer(self) -> PublicIdentity:
        """Who the other side is; it has proved that. To be asked for after `wait_peer`."""
        return self._found()[2]

    @property
    def name(self) -> str:
        """The name under which it will be pinned: the one we chose, or have for it, or like what it calls itself."""
        _, exchange, peer = self._found()
        return self._name or self._store.free_name(safe_name(exchange.proposed), peer)

    async def wait_peer(self, *, timeout_s: float | None = None) -> Words:
        """Wait for the other side; return five words, which are the same there, or somebody sits between.

        Args:
            timeout_s: how long to wait for it, seconds; None for as long as the relay keeps the code.
        Raises:
            NobodyCame: `timeout_s` has passed.
            CodeError: somebody came with a wrong code, or it has expired; it is dead, make another.
            RemoteError: the other side has not proved who it is, or runs another command.
            IdentityError: another peer has the name that was chosen for it.
        """
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s), signal_errors():
            self._channel = await self._wait_channel()
        if self._channel is None:
            raise NobodyCame(f"nobody came within {timeout_s:g} s")
        channel = self._channel
        with _talking(), _within(SPEECH_S, "said who it is"):
            words = await agree_on_words(channel)
            exchange = PairingExchange(channel.role, channel.key(PAIR_PURPOSE), self._identity, self._own_name)
            await self._say(*exchange.begin())
            while not exchange.is_proved:
                await self._say(*exchange.handle_untrusted(await channel.receive()))
        self._exchange = exchange
        if self._name is not None:
            self._store.check_free(self._name, self.peer)
        return words

    async def accept(self) -> str:
        """Accept the other side; once it has accepted, too, pin it, and return its name here.

        Raises:
            PeerTurnedAway: it does not accept; nothing was kept.
            PeerLeft: it left before it had accepted; nothing was kept.
            IdentityError: it cannot be written down.
        """
        channel, exchange, peer = self._found()
        name = self.name
        self._store.check_free(name, peer)
        with _talking():
            with _within(ACCEPT_S, "accepted"):
                await self._say(exchange.says("accept"))
                while not exchange.is_accepted:
                    await self._say(*exchange.handle_untrusted(await channel.receive()))
            if self._name is None:  # another pairing may have taken the name meanwhile
                name = self._store.pin_like(safe_name(exchange.proposed), peer)
            else:
                self._store.pin(name, peer)
        await self._say_goodbye(channel, exchange)
        return name

    async def refuse(self) -> None:
        """Tell the other side that it is not accepted: its words were not ours, say."""
        _, exchange, _ = self._found()
        with _talking():
            await self._say(exchange.says("refuse"))

    async def _say_goodbye(self, channel: icesignal.SealedChannel, exchange: PairingExchange) -> None:
        """Wait until the other side has pinned us, too, which it does at once; whatever goes wrong, not for long."""
        with trio.move_on_after(LINGER_S):
            try:
                await self._say(exchange.says("done"))
                while not exchange.is_done:
                    exchange.handle_untrusted(await channel.receive())
            except (icesignal.SignalError, RemoteError):
                pass  # it has gone already, or says what it likes: it is pinned

    async def _say(self, *messages: dict[str, Any]) -> None:
        assert self._channel is not None
        for message in messages:
            await self._channel.send(message)

    def _found(self) -> tuple[icesignal.SealedChannel, PairingExchange, PublicIdentity]:
        if self._channel is None or self._exchange is None or self._exchange.peer is None:
            raise RuntimeError("nobody is there yet; `await pairing.wait_peer()` first")
        return self._channel, self._exchange, self._exchange.peer


@contextmanager
def _talking() -> Iterator[None]:
    """A peer that leaves during the exchange was there: that is another error than nobody's coming."""
    try:
        with signal_errors():
            yield
    except NobodyCame as error:
        raise PeerLeft(f"{error}; the two are not paired. Make a new code") from error


@contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise PeerLeft(f"the other side has not {what} within {seconds:g} s; the two are not paired") from None


def host_name() -> str:
    """Return what this machine proposes to be called."""
    return safe_name(socket.gethostname())


@checked
@asynccontextmanager
async def pair(
    code: str | None = None,
    *,
    name: str | None = None,
    own_name: str | None = None,
    relay: Relays = None,
    identity: Identity | None = None,
    store: PeerStore | None = None,
    network: Network | None = None,
) -> AsyncIterator[Pairing]:
    """Come to know another side for good: one makes a code, the other gives it; both accept::

        async with iceagent.pair() as pairing:
            print(pairing.code)
            print(*await pairing.wait_peer())
            print("paired with", await pairing.accept())

    Args:
        code: as the other side made it; None makes one.
        name: what the other side is to be called here; None for what it calls itself, or like it.
        own_name: what this side proposes to be called there; None for the name of this machine.
        relay: as for `iceagent.invite` and `iceagent.join`.
        identity: ours; None for this user's.
        store: where the peer is pinned; None for the one of the identity.
        network: as for `iceagent.invite`.
    Raises:
        IdentityError: the file of the identity cannot be used, or `name` can be no name.
        RelayMissing, RelayError, CodeError, NobodyCame: as for `iceagent.join`.
    """
    if name is not None:
        check_name(name)
    identity = identity or Identity.load()
    store = store or PeerStore.beside(identity)
    store.peers()  # whether it can be read is looked at before the code is used
    config = on_network(None, network)
    own_name = host_name() if own_name is None else own_name
    async with AsyncExitStack() as stack:
        if code is None:
            place = await stack.enter_async_context(open_relay(relay, config=config))
            with signal_errors():
                client = await stack.enter_async_context(open_client(place.urls, config))
                made = await stack.enter_async_context(icesignal.open_invitation(client, address=place.address))
            code, relay_url, wait_channel = made.code, place.shown if place.address else client.url, made.wait_peer
        else:
            parsed = parse_code(code)
            url = relay_for(parsed, relay)
            with signal_errors():
                client = await stack.enter_async_context(open_client(url, config))
                channel = await stack.enter_async_context(icesignal.open_join(client, parsed))
            relay_url = client.url

            async def joined() -> icesignal.SealedChannel:
                await trio.lowlevel.checkpoint()
                return channel

            wait_channel = joined
        yield Pairing(identity, store, wait_channel, code=code, relay_url=relay_url, name=name, own_name=own_name)
