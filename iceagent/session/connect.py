"""From a code to a session: relay, PAKE, agent and link in one step. The users' names for it are in `iceagent`."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from typing import Generic, TypeVar

import icesignal
import trio

from iceagent.agent import Agent, AgentConfig, CandidateType, Role, open_agent
from iceagent.agent.hopeless import heard_at, wait_hopeless
from iceagent.core.ice import SelectedPairChanged
from iceagent.errors import NetworkError
from iceagent.link import Link, LinkIdentity, LinkRole, generate_identity, open_link, preload
from iceagent.session.background import open_background
from iceagent.session.description import (
    receive_candidates,
    receive_description,
    send_description,
    send_late_candidates,
    send_restarts,
)
from iceagent.session.endings import failure_of, left_early, no_link, no_path, peer_gone
from iceagent.session.errors import NobodyCame, PeerLeft, RelayError
from iceagent.session.keeping_up import hurry_restarts, keeping_up
from iceagent.session.outages import Outage, OutageKind, watch_outages
from iceagent.session.own_addresses import check_addresses
from iceagent.session.path import Path
from iceagent.session.progress import Progress, Stage
from iceagent.session.relay import (
    agent_config,
    host_of,
    is_loopback,
    open_client,
    open_relay,
    parse_code,
    relay_for,
    signal_errors,
)
from iceagent.session.session import Session, run_session

KEY_PURPOSE = "link 1"  # of the PAKE's key that authenticates the link
AWAY_S = 10.0  # ours: a live peer has its connection to the relay back by then, dialling and a lost packet included

S = TypeVar("S", bound=Session)
_log = logging.getLogger(__name__)


class Invitation(Generic[S]):
    """A code that waits for the other side. It is good for one."""

    def __init__(
        self,
        signaling: icesignal.Invitation,
        session_type: Callable[..., S],
        *,
        relay_url: str,
        relay_host: str,
        config: AgentConfig | None,
        progress: Progress,
    ) -> None:
        self.relay_url = relay_url
        self._signaling = signaling
        self._session_type = session_type
        self._relay_host = relay_host
        self._config = config
        self._progress = progress

    @property
    def code(self) -> str:
        """What the other side has to be told, such as `7-guitar-ozone`."""
        return self._signaling.code

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
        preload()  # while nobody is there yet
        identity = generate_identity()
        channel: icesignal.SealedChannel | None = None
        async with keeping_up(self._signaling.look_again):
            with trio.move_on_after(math.inf if timeout_s is None else timeout_s), signal_errors():
                channel = await self._signaling.wait_peer()
        if channel is None:
            raise NobodyCame(f"nobody came within {timeout_s:g} s")
        config = agent_config(self._config, self._relay_host, channel.ice_servers)
        async with _establish(self._session_type, channel, identity, config, self._progress) as session:
            yield session


@asynccontextmanager
async def invite(
    session_type: Callable[..., S],
    *,
    relay: str | None = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
) -> AsyncIterator[Invitation[S]]:
    """Yield an invitation to a session of the type `session_type`; see `iceagent.invite`.

    Raises:
        RelayError: the relay cannot be reached.
        LocalError: its URL is malformed, or what `config` allows leaves no address to connect from, or no TURN server.
    """
    progress = progress or Progress()
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(open_relay(relay))
        check_addresses(config, peer_may_be_here=is_loopback(host_of(place.shown)))
        progress.relay = host_of(place.url)
        with signal_errors():
            client = await stack.enter_async_context(open_client(place.url, config))
            signaling = await stack.enter_async_context(icesignal.open_invitation(client, address=place.address))
        url = place.shown
        agent_config(config, host_of(url), signaling.ice_servers)  # what it lacks is said before there is a code
        progress.enter(Stage.CODE)
        yield Invitation(
            signaling, session_type, relay_url=url, relay_host=host_of(url), config=config, progress=progress
        )


@asynccontextmanager
async def join(
    session_type: Callable[..., S],
    code: str,
    *,
    relay: str | None = None,
    config: AgentConfig | None = None,
    progress: Progress | None = None,
) -> AsyncIterator[S]:
    """Yield the session that a code leads to; see `iceagent.join`.

    Raises:
        RelayMissing, RelayError, CodeError, NobodyCame, PeerLeft, NoPath, NoLink: see `iceagent.session.errors`.
        LocalError: what `config` allows leaves no address to connect from; the code has not been used.
    """
    parsed = parse_code(code)
    url = relay_for(parsed, relay)
    check_addresses(config, peer_may_be_here=is_loopback(host_of(url)))
    identity = generate_identity()
    progress = progress or Progress()
    progress.relay = host_of(url)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(open_background())
        nursery.start_soon(_preload)
        with signal_errors():
            client = await stack.enter_async_context(open_client(url, config))
            progress.enter(Stage.PEER)
            channel = await stack.enter_async_context(icesignal.open_join(client, parsed))
        config = agent_config(config, host_of(url), channel.ice_servers)
        yield await stack.enter_async_context(_establish(session_type, channel, identity, config, progress))


async def _preload() -> None:
    """Import the QUIC library while the relay is being dialled; in no thread, since it is wanted next anyway."""
    await trio.lowlevel.checkpoint()  # whoever dials goes first
    preload()


@asynccontextmanager
async def _establish(
    session_type: Callable[..., S],
    channel: icesignal.SealedChannel,
    identity: LinkIdentity,
    config: AgentConfig,
    progress: Progress | None = None,
) -> AsyncIterator[S]:
    """Find a path to the peer at the other end of the channel, and open the link over it.

    The inviter is controlled and the QUIC server: the joiner is the one who wants something, and knows last.
    """
    progress = progress or Progress()
    is_inviter = channel.role == "inviter"
    role = Role.CONTROLLED if is_inviter else Role.CONTROLLING
    tcp = True if config.tcp_candidates is None else config.tcp_candidates
    config = replace(config, auto_restart=True, full_trickle=True, tcp_candidates=tcp)
    async with (
        open_agent(config, role=role) as agent,
        open_background() as nursery,
        keeping_up(channel.look_again, config.network),
    ):
        signaling = _Signaling(channel, agent, identity.fingerprint)
        progress.is_peer_away = lambda: channel.is_peer_away
        nursery.start_soon(signaling.watch_peer)
        fingerprint = await signaling.find_path(nursery, progress)
        progress.enter(Stage.LINK, agent.explain)
        opening = open_link(
            agent,
            role=LinkRole.SERVER if is_inviter else LinkRole.CLIENT,
            identity=identity,
            peer_fingerprint=fingerprint,
            session_key=channel.key(KEY_PURPOSE),
        )
        async with _opened(opening, agent) as link:
            signaling.is_open = True
            session = session_type(
                link,
                inviter=is_inviter,
                read_path=lambda: _path_of(agent),
                read_failure=lambda: failure_of(agent, signaling_ended=signaling.has_ended),
            )
            nursery.start_soon(hurry_restarts, agent, channel.look_again)
            nursery.start_soon(_follow_path, agent, link.notify_path_changed, session.notify_path_changed)
            nursery.start_soon(watch_outages, agent, _outage_teller(session, link))
            progress.enter(Stage.OPEN)
            async with run_session(session):
                yield session


@asynccontextmanager
async def _opened(opening: AbstractAsyncContextManager[Link], agent: Agent) -> AsyncIterator[Link]:
    """Open a link; if it does not come about for a reason that is not the peer's, say what the agent knows."""
    async with AsyncExitStack() as stack:
        try:
            link = await stack.enter_async_context(opening)
        except NetworkError as error:
            raise no_link(agent, error) from error
        yield link


class _Signaling:
    """The exchange of descriptions and candidates; once a path is found, its end no longer matters."""

    def __init__(self, channel: icesignal.SealedChannel, agent: Agent, fingerprint: bytes) -> None:
        self.has_ended = False
        self.is_open = False
        self._all_told = trio.Event()
        self._is_needed = True
        self._channel = channel
        self._agent = agent
        self._fingerprint = fingerprint

    async def find_path(self, nursery: trio.Nursery, progress: Progress) -> bytes:
        """Exchange descriptions and candidates until a pair is selected; return the peer's fingerprint.

        Raises:
            NoPath: there is none.
            PeerLeft, RelayError: signaling ended before.
            VersionMismatch: the peer speaks another version.
        """
        progress.enter(Stage.PEER)
        try:
            nursery.start_soon(self._tolerate, self._send_description)
            with signal_errors(), _peer_left():
                description = await receive_description(self._channel)
            self._agent.set_remote_credentials(
                description.credentials(), options=description.options, pacing_s=description.pacing_s
            )
            peers = description.fingerprint
            nursery.start_soon(self._tolerate, lambda: receive_candidates(self._channel, self._agent, peers))
            nursery.start_soon(self._tolerate, lambda: send_restarts(self._channel, self._agent, self._fingerprint))
            nursery.start_soon(self._tolerate, lambda: send_late_candidates(self._channel, self._agent))
            progress.enter(Stage.PATH, self._agent.explain)
            await self._wait_connected()
        except BaseException:
            self._channel.close()  # the other side need not wait for what will not come
            raise
        self._is_needed = False
        return description.fingerprint

    async def _send_description(self) -> None:
        await send_description(self._channel, self._agent, self._fingerprint)
        self._all_told.set()

    async def watch_peer(self) -> None:
        """Until the session is open, raise once the relay has lost the other side and nothing else comes from it.

        Its program was killed, most likely: the relay sees its connection end at once, and checks would say nothing for
        as long as patience lasts. Whoever lives has a connection again within seconds, or is heard on some path.

        Raises:
            PeerLeft: so it is.
        """
        with suppress(icesignal.SignalError):  # whoever waits for the next message is told
            while True:
                await self._channel.wait_peer_away(AWAY_S)
                heard_s = trio.current_time() - heard_at(self._agent)
                if self.is_open:
                    return
                if heard_s >= AWAY_S:
                    break
                await trio.sleep(AWAY_S - heard_s)
            self._channel.close()
            raise peer_gone(self._agent, AWAY_S)

    async def _wait_connected(self) -> None:
        async with open_background() as nursery:
            nursery.start_soon(self._give_up)
            try:
                await self._agent.wait_connected()
            except NetworkError as error:
                raise no_path(self._agent) from error

    async def _give_up(self) -> None:
        """Give up as soon as there can be no path; the other side is to know first that we have no more to tell."""
        await wait_hopeless(self._agent)
        await self._all_told.wait()
        raise no_path(self._agent)

    async def _tolerate(self, talk: Callable[[], Awaitable[None]]) -> None:
        try:
            with signal_errors(), _peer_left():
                await talk()
        except (RelayError, PeerLeft) as error:
            if self._is_needed:
                raise left_early(self._agent, error) from error.__cause__
            self.has_ended = True
            _log.info("signaling ended, the session goes on: %s", error)
        except trio.ClosedResourceError:
            pass  # the agent was closed meanwhile


@contextmanager
def _peer_left() -> Iterator[None]:
    """A peer that leaves during the exchange was there: that is another error than nobody's coming."""
    try:
        yield
    except icesignal.PeerLeft as error:
        raise PeerLeft(f"the other side left before a path was found: {error}") from error


async def _follow_path(agent: Agent, *notify: Callable[[], None]) -> None:
    async for event in agent.events():
        if isinstance(event, SelectedPairChanged):
            for call in notify:
                call()


def _outage_teller(session: Session, link: Link) -> Callable[[Outage], None]:
    """Return what tells a session of outages, and wakes its link, whose probes wait ever longer, as they end."""

    def tell(outage: Outage) -> None:
        session.notify_outage(outage)
        if outage.kind is OutageKind.BACK:
            link.notify_path_changed()

    return tell


def _path_of(agent: Agent) -> Path | None:
    pair = agent.selected_pair
    if pair is None:
        return None
    is_relayed = CandidateType.RELAY in (pair.local.type, pair.remote.type)
    transport = f"turn-{agent.relay_transport or 'udp'}" if is_relayed else pair.local.transport
    route = (not is_relayed, transport, pair.local.path_base, pair.remote.address)
    return Path(*route, rtt_s=pair.rtt_s, because=agent.relayed_because)
