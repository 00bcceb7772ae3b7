"""From a sealed channel to a session: descriptions and candidates are exchanged, a path is found, the link opened."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

import icesignal
import trio

from iceagent.agent import Agent, AgentConfig, Role, open_agent
from iceagent.core.ice import SelectedPairChanged
from iceagent.errors import NetworkError
from iceagent.link import LinkIdentity, LinkRole, QuicLink, open_link
from iceagent.net.tasks import open_background
from iceagent.session.endings import failure_of, no_link
from iceagent.session.insisting import surely_direct, told_if_relayed
from iceagent.session.outages import Outage, OutageKind, watch_outages
from iceagent.session.path import path_of
from iceagent.session.progress import Progress, Stage
from iceagent.session.relay import hurry_restarts, keeping_up
from iceagent.session.renewal import ServersOf
from iceagent.session.session import Session, run_session
from iceagent.session.signaling import Signaling

if TYPE_CHECKING:
    from iceagent.session.reunion import Reunion


@asynccontextmanager
async def answer_within(session: Session, seconds: float) -> AsyncIterator[None]:
    """Bound the body as `trio.fail_after` does, but count only time in which the path answers.

    An outage stops the clock, and its end begins it anew: what the body waits for may have been lost and has to be sent
    again. A session that ends breaks the body's streams, so that nothing waits for ever.

    Raises:
        trio.TooSlowError: over a path that answered, what was waited for did not come in `seconds`.
    """
    scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    async def follow() -> None:
        while True:
            scope.deadline = trio.current_time() + seconds if session.outage is None else inf
            await session.wait_outage_changed()

    async with open_background() as nursery:
        nursery.start_soon(follow)
        with scope:
            yield
    if scope.cancelled_caught:
        raise trio.TooSlowError


KEY_PURPOSE = "link 1"  # of the PAKE's key that authenticates the link
OUTAGE_S = 600.0  # ours: a session by code that nobody is near any more does not stay for ever
S = TypeVar("S", bound=Session)


@asynccontextmanager
async def establish(
    session_type: Callable[..., S],
    channel: icesignal.SealedChannel,
    identity: LinkIdentity,
    config: AgentConfig,
    progress: Progress | None = None,
    servers_of: ServersOf | None = None,
    reunion: Reunion | None = None,
) -> AsyncIterator[S]:
    """Find a path to the peer at the other end of the channel, and open the link over it.

    The inviter is controlled and the QUIC server: the joiner is the one who wants something, and knows last. The link
    stays while the agent looks for another path, and while the two sides meet again to agree on one.

    Args:
        session_type: makes the session.
        channel: leads to the peer.
        identity: our end of the link.
        config: of the agent.
        progress: is informed until the session is open.
        servers_of: makes the agent's servers of what the relay names, anew where that ends; None leaves them.
        reunion: how the two meet again when the channel has ended; None if they cannot.
    """
    progress, is_inviter = progress or Progress(), channel.role == "inviter"
    role = Role.CONTROLLED if is_inviter else Role.CONTROLLING
    async with (
        open_agent(_session_config(config, reunion), role=role) as agent,
        progress.following(agent),
        told_if_relayed(config, agent, progress),
    ):
        signaling = Signaling(channel, agent, identity.fingerprint, servers_of, reunion)
        async with open_background() as nursery, keeping_up(signaling.look_again, config.network):
            progress.is_peer_away = lambda: signaling.is_peer_away
            for task in (signaling.watch_peer, signaling.watch_gone, signaling.renew):
                nursery.start_soon(task)
            fingerprint = await signaling.find_path(nursery, progress)
            await surely_direct(config, agent)
            progress.enter(Stage.LINK, agent.explain)
            opening = open_link(
                agent,
                role=LinkRole.SERVER if is_inviter else LinkRole.CLIENT,
                identity=identity,
                peer_fingerprint=fingerprint,
                session_key=channel.key(KEY_PURPOSE),
            )
            async with _opened(opening, agent, signaling.report_failed) as link:
                session = session_type(link, inviter=is_inviter, **_readers(agent, signaling))
                session.introduce(progress.peer, progress.relay)
                for task in (signaling.keep, signaling.watch_suspicions, signaling.watch_peers_relay):
                    nursery.start_soon(task)
                nursery.start_soon(hurry_restarts, agent, signaling.look_again)
                nursery.start_soon(_follow_path, agent, link, session)
                nursery.start_soon(watch_outages, agent, _outage_reporter(session, link))
                progress.enter(Stage.OPEN)
                signaling.report_open()
                try:
                    async with run_session(session):
                        yield session
                finally:
                    signaling.close()


def _readers(agent: Agent, signaling: Signaling) -> dict[str, Callable[[], Any]]:
    """Return what a session asks its agent for."""

    def read_traffic() -> tuple[int, int]:
        total = agent.statistics().transport
        return total.bytes_sent, total.bytes_received

    return {
        "read_path": lambda: path_of(agent),
        "read_failure": lambda: failure_of(agent, signaling_ended=signaling.has_ended),
        "read_traffic": read_traffic,
        "read_verdict": agent.explain,
    }


def _session_config(config: AgentConfig, reunion: Reunion | None) -> AgentConfig:
    """Return what a session's agent does besides: restart and signal by itself, and wait for a path to come back."""
    tcp = True if config.tcp_candidates is None else config.tcp_candidates
    usual_s = 0.0 if reunion is None else OUTAGE_S
    outage_s = usual_s if config.outage_s is None else config.outage_s
    return replace(config, auto_restart=True, full_trickle=True, tcp_candidates=tcp, outage_s=outage_s)


@asynccontextmanager
async def _opened(
    opening: AbstractAsyncContextManager[QuicLink], agent: Agent, report_failed: Callable[[str], None]
) -> AsyncIterator[QuicLink]:
    """Open a link; if it does not come about for a reason that is not the peer's, say what the agent knows."""
    async with AsyncExitStack() as stack:
        try:
            link = await stack.enter_async_context(opening)
        except NetworkError as error:
            report_failed("no-link")
            raise no_link(agent, error) from error
        yield link


async def _follow_path(agent: Agent, link: QuicLink, session: Session) -> None:
    """Notify both of another path, and the session if a late candidate shows that the present one leads to a relay."""
    path = path_of(agent)
    async for event in agent.events():
        before, path = path, path_of(agent)
        if isinstance(event, SelectedPairChanged):
            link.notify_path_changed()
            session.notify_path_changed()
        elif path is not None and not path.same_route(before):
            session.notify_path_changed()


def _outage_reporter(session: Session, link: QuicLink) -> Callable[[Outage], None]:
    """Return a function that reports outages to a session, and at their end wakes its link, whose probes wait longer
    and longer.
    """

    def report(outage: Outage) -> None:
        session.notify_outage(outage)
        if outage.kind is OutageKind.BACK:
            link.notify_path_changed()

    return report
