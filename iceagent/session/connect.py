"""From a code to a session: relay, PAKE, agent and link in one step. The users' names for it are in `iceagent`."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Generic, TypeVar

import icesignal
import trio

from iceagent.agent import AgentConfig
from iceagent.core.checked import checked
from iceagent.net.tasks import open_background
from iceagent.session.errors import NobodyCame, RelayMissing
from iceagent.session.own_addresses import check_addresses
from iceagent.session.progress import Progress, Stage
from iceagent.session.relay import (
    RelayPlace,
    Relays,
    agent_config,
    check_turn,
    host_of,
    is_loopback,
    keeping_up,
    named_relays,
    open_client,
    open_relay,
    parse_code,
    relay_for,
    session_servers,
    signal_errors,
)
from iceagent.session.session import Session

if TYPE_CHECKING:
    from icesignal.pake import Role

    from iceagent.session.pairing.identity import Identity
    from iceagent.session.pairing.store import PeerStore
    from iceagent.session.pairing.words import Verify

S = TypeVar("S", bound=Session)
PAIRED_OUTAGE_S = 86_400.0  # ours: paired peers are there again the next morning

_PARTS = (
    *(
        "icesignal.introductions",
        "iceagent.core.stun",
        "iceagent.core.ice",
        "iceagent.agent.report.events",
        "iceagent.agent.gather.gatherer",
    ),
    *("iceagent.agent.agent", "iceagent.link.protocol", "iceagent.link.link", "iceagent.session.establish"),
)
"""What a session needs once the other side is there, in pieces that are imported in a moment each."""
_TURNS = 4  # of the event loop: an answer goes through a task or two until the next question is sent


class Invitation(Generic[S]):
    """A code that waits for the other side. It is good for one.

    Attributes:
        relay_url: of the relay where the other side is waited for.
        came: set once somebody has come who knows the code.
    """

    def __init__(
        self,
        signaling: icesignal.Invitation,
        session_type: Callable[..., S],
        *,
        relay_url: str,
        relay_host: str,
        config: AgentConfig | None,
        progress: Progress,
        verify: Verify | None = None,
        relays: Sequence[str] = (),
    ) -> None:
        self.relay_url = relay_url
        self.came = trio.Event()
        self._signaling = signaling
        self._session_type = session_type
        self._relay_host = relay_host
        self._config = config
        self._progress = progress
        self._verify = verify
        self._relays = relays

    @property
    def code(self) -> str:
        """What the other side has to be given, such as `7-guitar-ozone`."""
        return self._signaling.code

    @property
    def nameplate(self) -> str:
        """The number that the code begins with; no secret."""
        return self._signaling.nameplate

    @checked
    @asynccontextmanager
    async def accept(self, *, timeout_s: float | None = None) -> AsyncIterator[S]:
        """Wait for the other side to use the code, then yield the session with it.

        Args:
            timeout_s: how long to wait for it, seconds; None for as long as the relay keeps the code.
        Raises:
            NobodyCame: `timeout_s` has passed.
            CodeError: somebody came with a wrong code, or it has expired; it is dead, make another.
            RelayError: the relay went away.
            NoPath, NoLink: the other side came, but no network path leads to it, or no link came about over it;
                `verdict` says more.
            PeerLeft: the other side came, and left again.
        """
        from iceagent.link import gather_entropy, generate_identity, preload

        gather_entropy()
        for part in _PARTS:  # while nobody is there yet
            import_module(part)
        from iceagent.session.establish import establish
        from iceagent.session.reunion import Reunion

        preload()
        identity = generate_identity()
        channel: icesignal.SealedChannel | None = None
        network = None if self._config is None else self._config.network
        async with keeping_up(self._signaling.look_again, network):
            with trio.move_on_after(math.inf if timeout_s is None else timeout_s), signal_errors():
                channel = await self._signaling.wait_peer()
        if channel is None:
            raise NobodyCame(f"nobody came within {timeout_s:g} s")
        self.came.set()
        await _verified(channel, self._verify)
        servers_of = partial(session_servers, self._config, self._relay_host)
        config = agent_config(self._config, self._relay_host, channel.ice_servers)
        reunion = Reunion(self._relays, self._config, channel.rendezvous)
        async with establish(
            self._session_type, channel, identity, config, self._progress, servers_of, reunion
        ) as session:
            yield session


@asynccontextmanager
async def invite(
    session_type: Callable[..., S],
    *,
    relay: Relays = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
    verify: Verify | None = None,
) -> AsyncIterator[Invitation[S]]:
    """Yield an invitation to a session of the type `session_type`; see `iceagent.invite`.

    Raises:
        RelayError: the relay cannot be reached.
        LocalError: a URL is malformed, or what `config` allows leaves no address to connect from, or no TURN server.
    """
    async with (
        open_relay(relay, config=config) as place,
        invite_at(place, session_type, config=config, progress=progress, verify=verify) as invitation,
    ):
        yield invitation


@asynccontextmanager
async def invite_at(
    place: RelayPlace,
    session_type: Callable[..., S],
    *,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
    verify: Verify | None = None,
    is_long: bool = False,
) -> AsyncIterator[Invitation[S]]:
    """Yield an invitation at a relay; as `invite`, where `is_long` asks for a code of four words."""
    progress = progress or Progress()
    async with AsyncExitStack() as stack:
        check_addresses(config, peer_may_be_here=any(map(is_loopback, place.hosts)))
        progress.relay = " or ".join(place.hosts)
        with signal_errors():
            client = await stack.enter_async_context(open_client(place.urls, config))
            opening = icesignal.open_invitation(client, address=place.address, is_long=is_long)
            signaling = await stack.enter_async_context(opening)
        url = place.shown if place.address else client.url
        agent_config(config, host_of(url), signaling.ice_servers)  # what it lacks is said before there is a code
        progress.peer = _numbered(signaling.code)
        progress.enter(Stage.CODE)
        yield Invitation(
            signaling,
            session_type,
            relay_url=url,
            relay_host=host_of(url),
            config=config,
            progress=progress,
            verify=verify,
            relays=_serving_first(client, place.urls),
        )


@asynccontextmanager
async def join(
    session_type: Callable[..., S],
    code: str,
    *,
    relay: Relays = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
    verify: Verify | None = None,
) -> AsyncIterator[S]:
    """Yield the session that a code leads to; see `iceagent.join`.

    Raises:
        RelayMissing, RelayError, CodeError, NobodyCame, PeerLeft, NoPath, NoLink: see `iceagent.session.errors`.
        LocalError: what `config` allows leaves no address to connect from; the code has not been used.
    """
    parsed = parse_code(code)
    url = relay_for(parsed, relay)
    check_addresses(config, peer_may_be_here=is_loopback(host_of(url)))
    from iceagent.link import gather_entropy

    gather_entropy()
    progress = progress or Progress()
    progress.relay, progress.peer = host_of(url), _numbered(code)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(_preload)
        with signal_errors():
            client = await stack.enter_async_context(open_client(url, config))
            check_turn(config, client)
            progress.enter(Stage.PEER)
            progress.is_peer_away = lambda: client.is_peer_away
            channel = await stack.enter_async_context(icesignal.open_join(client, parsed))
        await _verified(channel, verify)
        named = named_relays(relay)
        peers_relay = None if named else (client.place.host, client.place.port)
        relays = _serving_first(client, tuple(dict.fromkeys((url, *named))))
        session = _session_over(session_type, channel, relays, config, progress, peers_relay=peers_relay)
        yield await stack.enter_async_context(session)


@asynccontextmanager
async def meet_peer(
    session_type: Callable[..., S],
    name: str,
    role: Role,
    *,
    relay: Relays = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
    verify: Verify | None = None,
    identity: Identity | None = None,
    store: PeerStore | None = None,
    timeout_s: float | None = None,
    is_free: trio.Event | None = None,
) -> AsyncIterator[S]:
    """Yield the session with a paired peer: the `inviter` waits for it, the `joiner` goes to it.

    Where the two meet they only meet: once their session is open they leave for a room of its own, and others of the
    same two may meet there; `is_free` is set then.

    Raises:
        UnknownPeer, IdentityError, PeerNotPinned, RelayMissing: see `iceagent.session.errors`.
        NobodyCame: `timeout_s` has passed.
        RelayError, PeerLeft, NoPath, NoLink: as for `join`.
    """
    from iceagent.session.pairing.identity import Identity
    from iceagent.session.pairing.meeting import meet
    from iceagent.session.pairing.store import PeerStore

    identity = identity or Identity.load()
    peers = store or PeerStore.beside(identity)
    peers.get(name)
    urls = named_relays(relay)
    if not urls:
        raise RelayMissing("paired peers meet at a relay that both know; name it with --relay URL or in ICEAGENT_RELAY")
    check_addresses(config, peer_may_be_here=any(is_loopback(host_of(url)) for url in urls))
    progress = progress or Progress()
    progress.relay = " or ".join(map(host_of, urls))
    progress.peer = name
    progress.enter(Stage.CODE if role == "inviter" else Stage.MEET)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(_preload)
        open_one = partial(_open_watched, config=config)
        meeting = meet(urls, open_one, identity, lambda: peers.get(name).identity, role, timeout_s=timeout_s)
        try:
            with signal_errors():
                met = await stack.enter_async_context(meeting)
                if is_free is not None:
                    nursery.start_soon(_note_over, met.channel, is_free)
        except trio.TooSlowError:
            raise NobodyCame(f"{name} did not come within {timeout_s:g} s") from None
        await _verified(met.channel, verify)
        relays = _serving_first(met.client, urls)
        if config is None or config.outage_s is None:
            config = replace(config or AgentConfig(), outage_s=PAIRED_OUTAGE_S)
        session = _session_over(session_type, met.channel, relays, config, progress, moves_on=True)
        yield await stack.enter_async_context(session)


async def _note_over(channel: icesignal.SealedChannel, is_over: trio.Event) -> None:
    await channel.wait_over()
    is_over.set()


@asynccontextmanager
async def _open_watched(url: str, config: AgentConfig | None) -> AsyncIterator[icesignal.Client]:
    network = None if config is None else config.network
    async with open_client(url, config) as client, keeping_up(client.look_again, network):
        yield client


async def _verified(channel: icesignal.SealedChannel, verify: Verify | None) -> None:
    if verify is None:
        return
    from iceagent.session.pairing.words import verify_words

    with signal_errors():
        await verify_words(channel, verify)


def _numbered(code: str) -> str:
    """Return what may be shown of a code: its number, which is no secret."""
    return f"code {parse_code(code).nameplate}"


def _serving_first(client: icesignal.Client, urls: Sequence[str]) -> Sequence[str]:
    """Return the URLs of relays, the one that serves before the others."""
    return sorted(urls, key=lambda url: not icesignal.parse_relay_url(url).is_same_place(client.place))


def _session_over(
    session_type: Callable[..., S],
    channel: icesignal.SealedChannel,
    relays: Sequence[str],
    config: AgentConfig | None,
    progress: Progress,
    *,
    peers_relay: tuple[str, int] | None = None,
    moves_on: bool = False,
) -> AbstractAsyncContextManager[S]:
    """Return a session over a channel; the first of `relays` has led to it, and may be the peer's own.

    `moves_on`: the channel is for others, too, and is left as soon as the session is open.
    """
    from iceagent.link import generate_identity
    from iceagent.session.establish import establish
    from iceagent.session.reunion import Reunion

    reunion = Reunion(relays, config, channel.rendezvous, peers_relay, moves_on=moves_on)
    relay_host = host_of(relays[0])
    servers_of = partial(session_servers, config, relay_host)
    config = agent_config(config, relay_host, channel.ice_servers)
    return establish(session_type, channel, generate_identity(), config, progress, servers_of, reunion)


async def _preload() -> None:
    """Import what comes after the relay while it is being dialled; in no thread, since it is wanted next anyway.

    Whoever dials goes first, and again after each piece: an answer of the relay's waits for one of them at most.
    """
    for part in _PARTS:
        await _let_others_go()
        import_module(part)
    await _let_others_go()
    from iceagent.link import preload

    preload()


async def _let_others_go() -> None:
    for _ in range(_TURNS):
        await trio.lowlevel.checkpoint()
